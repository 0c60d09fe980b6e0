//! NetworkPolicy -> rules of the pods that it selects.

use std::sync::Arc;

use serde_json::Value;

use super::{
    AUDIT, Parts, REJECT, Reader, quoted,
    wire::{self, NetworkPolicySpec},
};
use crate::{
    event::{
        Kind, Object,
        policy::{Action, Namespaces, PodSelector, PolicyObject, Rule, Tier},
    },
    providers::{
        Names,
        convert::{Converted, Refusal, key},
    },
};

/// A policy whose subject is known isolates it, whatever of its rules can be
/// understood.
pub fn network_policy(wire: wire::Policy<NetworkPolicySpec>, names: &mut Names) -> Converted {
    let key = match key(Kind::NetworkPolicy, &wire.metadata, names) {
        Ok(key) => key,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    let Some(spec) = wire.spec else {
        return Converted::refused(vec![Refusal::new("spec", "missing: say what the policy allows")]);
    };
    let mut reader = Reader::new(names);
    let pods = match reader.selector(spec.pod_selector.unwrap_or_default(), "spec.podSelector") {
        Ok(pods) => pods,
        Err(refusal) => return Converted::refused(vec![refusal]),
    };
    reader.unknown(&spec.unknown, "spec");
    let [ingress, egress] = reader.directions(spec.policy_types.as_deref(), spec.egress.as_ref());
    let mut rules = |isolates: bool, list, direction| {
        isolates.then(|| reader.network_rules(list, direction, &key.namespace))
    };
    let (ingress, egress) = (rules(ingress, spec.ingress, "ingress"), rules(egress, spec.egress, "egress"));
    let audit = reader.switch(&wire.metadata, AUDIT);
    let reject = reader.switch(&wire.metadata, REJECT);
    let refusals = reader.refusals;
    let subject = PodSelector { namespaces: Namespaces::Named(key.namespace.clone()), pods };
    let faulty = !refusals.is_empty();
    let tier = Tier::Namespaced;
    let policy = PolicyObject { tier, subject, ingress, egress, audit, reject, faulty };
    Converted { objects: vec![(key, Object::Policy(Arc::new(policy)))], refusals }
}

impl Reader<'_> {
    /// Which directions are isolated. Without types ingress is, and egress when
    /// there are rules for it, as the API server has it; a type that nobody
    /// knows may have meant either.
    fn directions(&mut self, types: Option<&[String]>, egress: Option<&Value>) -> [bool; 2] {
        let Some(types) = types.filter(|types| !types.is_empty()) else {
            let empty = |list: &Value| list.is_null() || list.as_array().is_some_and(Vec::is_empty);
            return [true, egress.is_some_and(|list| !empty(list))];
        };
        let mut isolated = [false; 2];
        for (index, text) in types.iter().enumerate() {
            match text.as_str() {
                "Ingress" => isolated[0] = true,
                "Egress" => isolated[1] = true,
                other => {
                    let message = format!("{} is no direction: use Ingress or Egress", quoted(other));
                    self.refuse(format!("spec.policyTypes[{index}]"), message);
                    isolated = [true; 2];
                }
            }
        }
        isolated
    }

    fn network_rules(&mut self, list: Option<Value>, direction: &str, namespace: &Arc<str>) -> Vec<Rule> {
        let path = format!("spec.{direction}");
        let rules = self.each(list, &path, |reader, wire: wire::Rule, path| {
            Ok(vec![reader.network_rule(wire, direction, namespace, path)])
        });
        rules.items.unwrap_or_default()
    }

    /// Without peers it is for all, without ports for all ports.
    fn network_rule(
        &mut self,
        mut wire: wire::Rule,
        direction: &str,
        namespace: &Arc<str>,
        path: &str,
    ) -> Rule {
        let (here, peers, there, other) = match direction {
            "ingress" => ("from", wire.from.take(), "to", wire.to.take()),
            _ => ("to", wire.to.take(), "from", wire.from.take()),
        };
        let foreign =
            [("name", wire.name), ("action", wire.action), (there, other), ("protocols", wire.protocols)];
        wire.unknown.extend(foreign.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let broken = self.unknown(&wire.unknown, path);
        let peers = self.each(peers, &format!("{path}.{here}"), |reader, wire, path| {
            Ok(vec![reader.network_peer(wire, namespace, path)?])
        });
        let ports: Parts<_> = self.each(wire.ports, &format!("{path}.ports"), |reader, wire, path| {
            Ok(vec![reader.network_port(wire, path)?])
        });
        let peers = if broken { Some(Vec::new()) } else { peers.items };
        Rule { name: Arc::default(), action: Action::Allow, peers, ports: ports.items }
    }
}
