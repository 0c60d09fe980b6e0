//! VirtualNetwork -> what its members may not talk to: members of others, and
//! pods of none.

use std::sync::Arc;

use super::{
    AUDIT, REJECT, Reader,
    wire::{self, VirtualNetworkSpec},
};
use crate::{
    event::{
        Kind, Object, ObjectKey,
        policy::{
            Action, DEFAULT_NETWORK, NETWORK, Namespaces, Operator, Peer, PodSelector, PolicyObject,
            Requirement, Rule, Selector, Tier,
        },
    },
    providers::{
        Names,
        convert::{Converted, Refusal, key, label},
    },
};

/// `causeway.io/v1alpha1 VirtualNetwork`.
pub fn virtual_network(wire: wire::Policy<VirtualNetworkSpec>, names: &mut Names) -> Converted {
    let mut reader = Reader::new(names);
    match reader.virtual_network(wire) {
        Ok((key, object)) => {
            Converted { objects: vec![(key, Object::Policy(Arc::new(object)))], refusals: reader.refusals }
        }
        Err(refusal) => Converted::refused(vec![refusal]),
    }
}

impl Reader<'_> {
    /// If it cannot be said who its members are, all who claim to be have nobody
    /// to talk to; a peer that is refused is none.
    fn virtual_network(
        &mut self,
        wire: wire::Policy<VirtualNetworkSpec>,
    ) -> Result<(ObjectKey, PolicyObject), Refusal> {
        let key = key(Kind::VirtualNetwork, &wire.metadata, self.names)?;
        label(&key.name, "metadata.name")?;
        if *key.name == *DEFAULT_NETWORK {
            let message = "is what pods of no network are in: choose another name";
            return Err(Refusal::new("metadata.name", message));
        }
        let spec = wire.spec.ok_or_else(|| Refusal::new("spec", "missing: say who may be a member"))?;
        let everybody =
            PodSelector { namespaces: Namespaces::Matching(Selector::default()), pods: Selector::default() };
        let members = self.subject(spec.members, Kind::VirtualNetwork, "spec.members");
        let known = members.is_ok();
        let mut subject = members.unwrap_or_else(|refusal| {
            self.refusals.push(refusal);
            everybody.clone()
        });
        let network = self.names.get(NETWORK);
        let has = |operator| Requirement { key: network.clone(), operator };
        subject.pods.0.push(has(Operator::In(vec![key.name.clone()])));
        subject.pods.0.sort_unstable();
        subject.pods.0.dedup();
        self.unknown(&spec.unknown, "spec");
        let mut others = vec![key.name.clone()];
        let mut apart = Vec::new();
        for (index, name) in spec.peers.iter().flatten().enumerate() {
            match label(name, &format!("spec.peers[{index}]")) {
                // Who has no network is no other.
                Ok(()) if name == DEFAULT_NETWORK => apart.push(has(Operator::Exists)),
                Ok(()) => others.push(self.names.get(name)),
                Err(refusal) => self.refusals.push(refusal),
            }
        }
        others.sort_unstable();
        others.dedup();
        apart.push(has(Operator::NotIn(others)));
        apart.sort_unstable();
        apart.dedup();
        let strangers = PodSelector { pods: Selector(apart), ..everybody.clone() };
        let strangers = if known { strangers } else { everybody };
        let audit = self.switch(&wire.metadata, AUDIT);
        let action = if self.switch(&wire.metadata, REJECT) { Action::Reject } else { Action::Deny };
        let name = self.names.get("another network");
        let rule = Rule { name, action, peers: Some(vec![Peer::Pods(strangers)]), ports: None };
        let (ingress, egress) = (Some(vec![rule.clone()]), Some(vec![rule]));
        let faulty = !self.refusals.is_empty();
        let tier = Tier::Network;
        Ok((key, PolicyObject { tier, subject, ingress, egress, audit, reject: false, faulty }))
    }
}
