//! AdminNetworkPolicy, BaselineAdminNetworkPolicy, their successor
//! ClusterNetworkPolicy, and our own Policy -> rules in order. They have one
//! syntax, but for a few words.

use std::sync::Arc;

use serde_json::Value;

use super::{
    AUDIT, Parts, REJECT, Reader, closed,
    peer::Peers,
    quoted, typed,
    wire::{self, AdminPolicySpec, Subject},
};
use crate::{
    event::{
        Kind, Object,
        policy::{Action, Peer, PodSelector, PolicyObject, PortMatch, Ports, Rule, Tier},
    },
    providers::{
        Names,
        convert::{Converted, Refusal, key},
    },
};

/// The highest that there can be, asked last.
const LAST: u16 = 1000;
/// Longest name of a rule.
const LONGEST: usize = 100;

type Wire = wire::Policy<AdminPolicySpec>;

pub fn admin_network_policy(wire: Wire, names: &mut Names) -> Converted {
    policy(wire, Kind::AdminNetworkPolicy, names)
}

pub fn baseline_admin_network_policy(wire: Wire, names: &mut Names) -> Converted {
    policy(wire, Kind::BaselineAdminNetworkPolicy, names)
}

pub fn cluster_network_policy(wire: Wire, names: &mut Names) -> Converted {
    policy(wire, Kind::ClusterNetworkPolicy, names)
}

/// `causeway.io/v1alpha1 Policy`.
pub fn own_policy(wire: Wire, names: &mut Names) -> Converted {
    policy(wire, Kind::Policy, names)
}

fn policy(wire: Wire, kind: Kind, names: &mut Names) -> Converted {
    let mut reader = Reader::new(names);
    match reader.policy(wire, kind) {
        Ok((key, object)) => {
            Converted { objects: vec![(key, Object::Policy(Arc::new(object)))], refusals: reader.refusals }
        }
        Err(refusal) => Converted::refused(vec![refusal]),
    }
}

/// Whom an object of a kind is about.
pub fn subject(wire: Option<Subject>, kind: Kind, names: &mut Names) -> Result<PodSelector, Refusal> {
    Reader::new(names).subject(wire, kind, "spec.subject")
}

/// Where rules stand, and of which policy.
#[derive(Clone, Copy)]
struct Place {
    kind: Kind,
    ingress: bool,
    /// Denials are told.
    reject: bool,
}

impl Reader<'_> {
    /// Without an order, or somebody that it is about, it is none.
    fn policy(&mut self, wire: Wire, kind: Kind) -> Result<(crate::event::ObjectKey, PolicyObject), Refusal> {
        let key = key(kind, &wire.metadata, self.names)?;
        if kind == Kind::BaselineAdminNetworkPolicy && &*key.name != "default" {
            let message = "a cluster has one BaselineAdminNetworkPolicy: call it default";
            return Err(Refusal::new("metadata.name", message));
        }
        let mut spec =
            wire.spec.ok_or_else(|| Refusal::new("spec", "missing: say what the policy is about"))?;
        let tier = tier(&mut spec, kind)?;
        let subject = self.subject(spec.subject, kind, "spec.subject")?;
        self.unknown(&spec.unknown, "spec");
        let audit = self.switch(&wire.metadata, AUDIT);
        let reject = self.switch(&wire.metadata, REJECT);
        let ingress = self.rules(spec.ingress, Place { kind, ingress: true, reject });
        let egress = self.rules(spec.egress, Place { kind, ingress: false, reject });
        // Its own rules say by themselves what is rejected.
        let (reject, faulty) = (false, !self.refusals.is_empty());
        Ok((key, PolicyObject { tier, subject, ingress, egress, audit, reject, faulty }))
    }

    pub(super) fn subject(
        &mut self,
        wire: Option<Subject>,
        kind: Kind,
        path: &str,
    ) -> Result<PodSelector, Refusal> {
        match wire {
            Some(Subject { namespaces: Some(wire), pods: None }) => {
                self.namespaces(wire, &format!("{path}.namespaces"))
            }
            Some(Subject { namespaces: None, pods: Some(wire) }) => {
                self.namespaced_pod(wire, anywhere(kind), &format!("{path}.pods"))
            }
            Some(_) => Err(Refusal::new(path, "write one of namespaces and pods")),
            None => Err(Refusal::new(path, "missing: write namespaces or pods")),
        }
    }

    /// No rules say nothing.
    fn rules(&mut self, list: Option<Value>, place: Place) -> Option<Vec<Rule>> {
        let path = if place.ingress { "spec.ingress" } else { "spec.egress" };
        // What is no rule at all may have denied everything.
        let deny_all = || Rule { name: Arc::default(), action: Action::Deny, peers: None, ports: None };
        let rules = self.each(list, path, |reader, value: Value, path| {
            let rule = typed(value, path).map(|wire| reader.rule(wire, place, path));
            Ok(vec![rule.unwrap_or_else(|refusal| {
                reader.refusals.push(refusal);
                deny_all()
            })])
        });
        match rules.items {
            Some(items) if items.is_empty() => Some(vec![deny_all()]),
            items => items,
        }
    }

    fn rule(&mut self, mut wire: wire::Rule, place: Place, path: &str) -> Rule {
        let Place { kind, ingress, .. } = place;
        let (here, list, there, other) = match ingress {
            true => ("from", wire.from.take(), "to", wire.to.take()),
            false => ("to", wire.to.take(), "from", wire.from.take()),
        };
        let cluster = kind == Kind::ClusterNetworkPolicy;
        let foreign = match cluster {
            true => ("ports", wire.ports.take()),
            false => ("protocols", wire.protocols.take()),
        };
        let foreign = [(there, other), foreign].into_iter();
        wire.unknown.extend(foreign.filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let mut broken = self.unknown(&wire.unknown, path);
        let name = self.rule_name(wire.name, path);
        let action = self.action(wire.action.as_ref(), place, path);

        let may = Peers {
            networks: !ingress || kind == Kind::Policy,
            services: !ingress && kind == Kind::Policy,
            anywhere: anywhere(kind),
        };
        let peers_path = format!("{path}.{here}");
        let mut peers = self.each(list, &peers_path, |reader, wire, path| reader.admin_peer(wire, may, path));
        if peers.items.is_none() {
            self.refuse(peers_path, "missing: name at least one peer; {namespaces: {}} is all pods");
            peers = Parts { items: Some(Vec::new()), broken: true };
        }
        let networks = peers.items.iter().flatten().any(|peer| !matches!(peer, Peer::Pods(_)));
        let named_ok = |reader: &mut Self, ports: Vec<PortMatch>, path: &str| {
            let named = ports.iter().any(|port| matches!(port.ports, Ports::Named(_)));
            if named && networks && !ingress {
                let message =
                    "names a port of pods, but a peer is none: give these peers a rule of their own";
                reader.refuse(path, message);
                return Vec::new();
            }
            ports
        };
        let ports = match cluster {
            true => self.each(wire.protocols, &format!("{path}.protocols"), |reader, wire, path| {
                let ports = reader.cluster_protocol(wire, path)?;
                Ok(named_ok(reader, ports, path))
            }),
            false => self.each(wire.ports, &format!("{path}.ports"), |reader, wire, path| {
                let ports = reader.admin_port(wire, kind == Kind::Policy, path)?;
                Ok(named_ok(reader, ports, path))
            }),
        };
        broken |= action.is_none();
        let action = action.unwrap_or(Action::Deny);
        if broken && action == Action::Allow {
            peers.items = Some(Vec::new());
        }
        let rule = Rule { name, action, peers: peers.items, ports: ports.items };
        let unknown = !wire.unknown.is_empty();
        closed(rule, peers.broken || unknown, ports.broken || unknown)
    }

    fn rule_name(&mut self, name: Option<Value>, path: &str) -> Arc<str> {
        match name {
            None | Some(Value::Null) => Arc::default(),
            Some(Value::String(name)) if name.chars().count() <= LONGEST => self.names.get(&name),
            Some(_) => {
                let message = format!("is no text of up to {LONGEST} letters: write a shorter one");
                self.refuse(format!("{path}.name"), message);
                Arc::default()
            }
        }
    }

    /// `None`: nobody knows it.
    fn action(&mut self, wire: Option<&Value>, place: Place, path: &str) -> Option<Action> {
        let allow = if place.kind == Kind::ClusterNetworkPolicy { "Accept" } else { "Allow" };
        let baseline = place.kind == Kind::BaselineAdminNetworkPolicy;
        let text = wire.and_then(Value::as_str).unwrap_or_default();
        match text {
            "Deny" if place.reject => Some(Action::Reject),
            "Deny" => Some(Action::Deny),
            "Pass" if !baseline => Some(Action::Pass),
            "Reject" if place.kind == Kind::Policy => Some(Action::Reject),
            text if text == allow => Some(Action::Allow),
            _ => {
                let more = match place.kind {
                    Kind::BaselineAdminNetworkPolicy => " or Deny",
                    Kind::Policy => ", Deny, Reject or Pass",
                    _ => ", Deny or Pass",
                };
                let what = match wire {
                    None | Some(Value::Null) => "missing".to_owned(),
                    Some(other) => {
                        format!("{} is no action here", quoted(other.as_str().unwrap_or("a structure")))
                    }
                };
                self.refuse(format!("{path}.action"), format!("{what}: use {allow}{more}"));
                None
            }
        }
    }
}

fn anywhere(kind: Kind) -> bool {
    let ours = matches!(kind, Kind::Policy | Kind::VirtualNetwork | Kind::Egress);
    ours || kind == Kind::ClusterNetworkPolicy
}

fn tier(spec: &mut AdminPolicySpec, kind: Kind) -> Result<Tier, Refusal> {
    let foreign = |spec: &mut AdminPolicySpec, name: &str, value: Option<Value>| {
        spec.unknown.extend(value.map(|value| (name.to_owned(), value)));
    };
    match kind {
        Kind::AdminNetworkPolicy => {
            let tier = spec.tier.take().map(Value::from);
            foreign(spec, "tier", tier);
            Ok(Tier::Admin { priority: priority(spec.priority)? })
        }
        Kind::BaselineAdminNetworkPolicy => {
            let (tier, priority) = (spec.tier.take().map(Value::from), spec.priority.take().map(Value::from));
            foreign(spec, "tier", tier);
            foreign(spec, "priority", priority);
            Ok(Tier::Baseline { priority: LAST })
        }
        _ => match spec.tier.as_deref() {
            Some("Admin") => Ok(Tier::Admin { priority: priority(spec.priority)? }),
            Some("Baseline") => Ok(Tier::Baseline { priority: priority(spec.priority)? }),
            None => Err(Refusal::new("spec.tier", "missing: write Admin or Baseline")),
            Some(other) => {
                Err(Refusal::new("spec.tier", format!("{} is no tier: use Admin or Baseline", quoted(other))))
            }
        },
    }
}

fn priority(wire: Option<i64>) -> Result<u16, Refusal> {
    match wire.map(|number| (number, u16::try_from(number))) {
        Some((_, Ok(priority))) if priority <= LAST => Ok(priority),
        Some((number, _)) => Err(Refusal::new(
            "spec.priority",
            format!("{number} is no priority: use 0 (asked first) to {LAST}"),
        )),
        None => Err(Refusal::new("spec.priority", format!("missing: use 0 (asked first) to {LAST}"))),
    }
}
