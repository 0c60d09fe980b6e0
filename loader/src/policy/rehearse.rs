//! Which flows would other policies treat differently? Two compilers are asked
//! about each, both of its ends, as the programs would ask.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use causeway_schema::{policy::Outcome, protocol};
use serde::{Deserialize, Serialize};

use super::{Compiler, Direction, Flow, RuleName};

/// A flow by its two ends: the one who begins, and the one who serves, whatever
/// service was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Talk {
    pub from: IpAddr,
    pub to: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Of the one who serves; 0 for protocols without ports.
    pub port: u16,
}

/// Whose policies are asked on this node, and who is never asked about.
#[derive(Clone, Debug, Default)]
pub struct Here {
    pub endpoints: HashMap<IpAddr, Arc<str>>,
    /// The node's own addresses.
    pub own: BTreeSet<IpAddr>,
}

impl Talk {
    /// `port`: whatever stands there, such as the identifier of a ping.
    pub fn new(from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Self {
        let ported = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        Self { from, to, protocol, port: if ported { port } else { 0 } }
    }
}

impl Here {
    /// One of the two is an endpoint of this node.
    pub fn concerns(&self, talk: &Talk) -> bool {
        self.endpoints.contains_key(&talk.from) || self.endpoints.contains_key(&talk.to)
    }
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub outcome: Outcome,
    /// What the policies of the one who begins say; `None`: nothing is asked.
    pub egress: Option<Said>,
    pub ingress: Option<Said>,
}

impl Judgement {
    pub fn denies(&self) -> bool {
        denies(&self.outcome)
    }
}

fn denies(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Deny | Outcome::Reject)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub outcome: Outcome,
    /// `None`: no policy says anything about it.
    pub rule: Option<Arc<RuleName>>,
}

/// A flow that would be treated differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub talk: Talk,
    pub before: Judgement,
    pub after: Judgement,
}

/// The flows whose outcome `after` decides otherwise than `before`, each once.
pub fn rehearse<'a>(
    before: &Compiler,
    after: &Compiler,
    here: &Here,
    talks: impl IntoIterator<Item = &'a Talk>,
) -> Vec<Difference> {
    let talks: BTreeSet<&Talk> = talks.into_iter().collect();
    let differs = |talk: &Talk| {
        let (before, after) = (before.judge(here, talk), after.judge(here, talk));
        (before.outcome != after.outcome).then_some(Difference { talk: *talk, before, after })
    };
    talks.into_iter().filter_map(differs).collect()
}

impl Compiler {
    /// What becomes of a flow that begins now.
    pub fn judge(&self, here: &Here, talk: &Talk) -> Judgement {
        let (client, server) = (here.endpoints.get(&talk.from), here.endpoints.get(&talk.to));
        // A container may always talk to itself and to its node, and the node to it.
        let free = client == server || here.own.contains(&talk.from) || here.own.contains(&talk.to);
        let asks = |endpoint: Option<&Arc<str>>, direction, peer| {
            let endpoint = endpoint.filter(|_| !free)?;
            let flow = Flow { direction, peer, protocol: talk.protocol, port: talk.port };
            let step = self.decide(endpoint, flow);
            let rule = step.and_then(|step| self.image.rules.rows().get(&step.rule())).cloned();
            Some(Said { outcome: step.map_or(Outcome::Allow, |step| step.outcome()), rule })
        };
        let egress = asks(client, Direction::Egress, talk.to);
        let ingress = asks(server, Direction::Ingress, talk.from);
        let outcomes = || egress.iter().chain(&ingress).map(|said| said.outcome);
        // Egress is asked first; ingress, of what that lets go.
        let watched = || outcomes().find(|outcome| *outcome == Outcome::Audit);
        let outcome = outcomes().find(denies).or_else(watched).unwrap_or(Outcome::Allow);
        Judgement { outcome, egress, ingress }
    }
}
