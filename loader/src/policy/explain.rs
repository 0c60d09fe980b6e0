//! Why may these two talk, or why not? The rule that decides, and of the rules
//! that would have allowed it the one that differs least.

use std::{net::IpAddr, sync::Arc};

use causeway_schema::Port;
use causeway_schema::policy::{OTHERS, Outcome, PolicyStep, SetKey, Steps, find, place};

use super::{
    Compiler, Direction, PolicyId, RuleName, Subject,
    clauses::{self, Applying},
    places,
    terms::Term,
};
use crate::event::policy::{Action, NamedPort, PolicyObject, Ports, Rule, Tier};

/// The first packet of a flow, as the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub direction: Direction,
    pub peer: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Of the destination, 0 for protocols without ports.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `allow`, `deny`, `reject` or `audit`.
    pub outcome: &'static str,
    /// `None`: no policy says anything about it.
    pub rule: Option<Arc<RuleName>>,
    /// Of a denial, or what would be one: `None` if no rule that is asked before
    /// the deciding one allows anything.
    pub nearest: Option<Nearest>,
    /// All of it in a sentence or two.
    pub text: String,
}

/// A rule that would allow the flow, but for some differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    pub rule: RuleName,
    /// At least one.
    pub differs: Vec<Differs>,
}

/// In what a rule does not speak of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Differs {
    Port,
    Protocol,
    Peer,
    /// The policy does not select the endpoint.
    Endpoint,
    /// It is about the other direction.
    Direction,
}

impl Compiler {
    /// What the rows of the last commit decide; `None`: nothing is known of the
    /// endpoint, or no policy selects it.
    pub fn decide(&self, endpoint: &str, flow: Flow) -> Option<PolicyStep> {
        let sets = self.image.endpoints.rows().get(endpoint)?;
        let set = match flow.direction {
            Direction::Ingress => sets.ingress,
            Direction::Egress => sets.egress,
        };
        self.step(set, self.class(flow.peer), place(flow.protocol, Port::new(flow.port)))
    }

    /// What a set decides about a place of a class; of a set that there is.
    pub(super) fn step(&self, set: u32, class: u32, place: u32) -> Option<PolicyStep> {
        let steps = self.steps(set, class);
        let at = |index: u32| steps.get(index as usize).copied();
        find(Steps { base: 0, len: steps.len() as u32 }, place, at)
    }

    /// The row for a class, or for everybody else.
    pub(super) fn steps(&self, set: u32, class: u32) -> &[PolicyStep] {
        let rows = self.image.sets.rows();
        let row = rows.get(&SetKey { set, class }).or_else(|| rows.get(&SetKey { set, class: OTHERS }));
        row.map_or(&[], |steps| &steps[..])
    }

    /// Of the longest prefix.
    pub fn class(&self, address: IpAddr) -> u32 {
        let rows = self.image.classes.rows();
        self.networks.around(address).find_map(|prefix| rows.get(&prefix)).copied().unwrap_or(OTHERS)
    }

    /// `None`: there is no such endpoint.
    pub fn explain(&self, endpoint: &str, flow: Flow) -> Option<Explanation> {
        let subject = &self.endpoints.get(endpoint)?.subject;
        let step = self.decide(endpoint, flow);
        let outcome = step.map_or(Outcome::Allow, |step| step.outcome());
        let rule = step.and_then(|step| self.image.rules.rows().get(&step.rule())).cloned();
        let nearest = match outcome {
            Outcome::Allow => None,
            _ => self.nearest(subject, flow, rule.as_deref()),
        };
        let outcome = word(outcome);
        let text = self.text(outcome, rule.as_deref(), nearest.as_ref(), flow);
        Some(Explanation { outcome, rule, nearest, text })
    }

    /// Of the rules that allow and are asked before `deciding`.
    fn nearest(&self, subject: &Subject, flow: Flow, deciding: Option<&RuleName>) -> Option<Nearest> {
        let mut policies: Vec<Applying<'_>> =
            self.policies.iter().map(|(id, policy)| (id, &**policy)).collect();
        clauses::order(&mut policies);
        let limit = deciding.and_then(|name| self.rank(name));
        let mut best: Option<Nearest> = None;
        let mut passed = false;
        for (id, policy) in policies {
            if passed && matches!(policy.tier, Tier::Network | Tier::Admin { .. }) {
                continue;
            }
            let selects = self.selects(policy, subject);
            for direction in [flow.direction, other(flow.direction)] {
                let rules = clauses::rules(policy, direction).unwrap_or_default();
                for (index, rule) in rules.iter().enumerate() {
                    if limit.as_ref().is_some_and(|limit| rank(id, policy, index) >= *limit) {
                        break;
                    }
                    let Some(mut differs) = self.differs(subject, flow, rule) else { continue };
                    differs.extend((!selects).then_some(Differs::Endpoint));
                    differs.extend((direction != flow.direction).then_some(Differs::Direction));
                    if rule.action != Action::Allow {
                        // Would, or does, keep the rules after it from being asked.
                        let ends =
                            stops(policy, rule.action) && differs.iter().all(|one| *one == Differs::Endpoint);
                        if ends {
                            passed |= selects;
                            break;
                        }
                        continue;
                    }
                    let order = |differs: &Vec<Differs>| (differs.len(), differs.clone());
                    if best.as_ref().is_none_or(|best| order(&differs) < order(&best.differs))
                        && !differs.is_empty()
                    {
                        let (policy, name) = (id.clone(), rule.name.clone());
                        best = Some(Nearest {
                            rule: RuleName::Rule { policy, direction, index, name },
                            differs,
                        });
                    }
                }
            }
        }
        best
    }

    /// Where a rule stands in the order of asking.
    fn rank(&self, name: &RuleName) -> Option<Rank> {
        match name {
            RuleName::Rule { policy, index, .. } => Some(rank(policy, self.policies.get(policy)?, *index)),
            RuleName::DefaultDeny { .. } => Some((Tier::Baseline { priority: 0 }, "".into(), None, 0)),
            RuleName::Shared { .. } | RuleName::TooLong => None,
        }
    }

    /// In peers, protocols and ports; `None`: the rule never holds for anybody.
    fn differs(&self, subject: &Subject, flow: Flow, rule: &Rule) -> Option<Vec<Differs>> {
        let mut differs = Vec::new();
        let peers = rule.peers.as_deref();
        let is_peer = |peer| self.world.is_at(&Term::new(Some(peer), None).who, flow.peer);
        if peers.is_some_and(|peers| peers.is_empty()) || rule.ports.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        if !peers.is_none_or(|peers| peers.iter().any(is_peer)) {
            differs.push(Differs::Peer);
        }
        if let Some(ports) = &rule.ports {
            let place = place(flow.protocol, Port::new(flow.port));
            let speaks = |first: u16, last: u16, transport| {
                places::of(transport, first, last).any(|places| (places.first..=places.last).contains(&place))
            };
            let holds = ports.iter().any(|port| match &port.ports {
                Ports::All => speaks(0, u16::MAX, port.protocol),
                Ports::Range(first, last) => speaks(*first, *last, port.protocol),
                Ports::Named(name) => {
                    let own = subject.ports.iter();
                    let theirs = self.world.pods_at(flow.peer).flat_map(|(_, pod)| pod.ports.iter());
                    let of = |named: &&NamedPort| named.name == *name && named.protocol == port.protocol;
                    let numbers: Vec<u16> = match flow.direction {
                        Direction::Ingress => own.filter(of).map(|named| named.port).collect(),
                        Direction::Egress => theirs.filter(of).map(|named| named.port).collect(),
                    };
                    numbers.into_iter().any(|number| speaks(number, number, port.protocol))
                }
            });
            let protocol = ports.iter().any(|port| speaks(0, u16::MAX, port.protocol));
            if !holds {
                differs.push(if protocol { Differs::Port } else { Differs::Protocol });
            }
        }
        differs.sort_unstable();
        Some(differs)
    }

    fn text(&self, outcome: &str, rule: Option<&RuleName>, nearest: Option<&Nearest>, flow: Flow) -> String {
        let rule = rule.map_or("no policy says anything about it".into(), ToString::to_string);
        let mut text = format!("{outcome}: {rule}");
        let Some(Nearest { rule, differs }) = nearest else { return text };
        let pods: Vec<String> = self
            .world
            .pods_at(flow.peer)
            .map(|((namespace, name), _)| format!("{namespace}/{name}"))
            .collect();
        let peer = match pods.is_empty() {
            true => flow.peer.to_string(),
            false => format!("{} (pod {})", flow.peer, pods.join(", ")),
        };
        let differences: Vec<String> = differs
            .iter()
            .map(|differs| match differs {
                Differs::Port => format!("it is not about port {}", flow.port),
                Differs::Protocol => format!("it is not about protocol {}", flow.protocol),
                Differs::Peer => format!("{peer} is none of its peers"),
                Differs::Endpoint => "its policy does not select this endpoint".into(),
                Differs::Direction => format!("it is not about {}", flow.direction),
            })
            .collect();
        text.push_str(&format!(
            "; nearest rule that would allow: {rule}, but {}",
            differences.join(", and ")
        ));
        text
    }
}

/// As the edges say it.
pub fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
        Outcome::Reject => "reject",
        Outcome::Audit => "audit",
    }
}

/// Does a rule that matches keep those after it in its tier from being asked?
fn stops(policy: &PolicyObject, action: Action) -> bool {
    match (policy.tier, action) {
        (Tier::Namespaced, _) | (Tier::Baseline { .. }, Action::Pass) => false,
        (_, Action::Deny | Action::Reject) => !policy.audit,
        _ => true,
    }
}

/// Order of asking: tier, name, policy, index. The default denial comes after
/// all namespaced rules, before the baseline.
type Rank = (Tier, Arc<str>, Option<PolicyId>, usize);

fn rank(id: &PolicyId, policy: &PolicyObject, index: usize) -> Rank {
    // The rules of namespaced policies are a union: all of them are asked.
    (policy.tier, id.name.clone(), Some(id.clone()), index)
}

fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}
