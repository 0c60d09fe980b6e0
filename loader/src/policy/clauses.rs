//! What do the policies that select an endpoint say, one after the other? A
//! list of clauses in the order in which they are asked, equal for endpoints
//! that are treated alike.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Direction, PolicyId, RuleName,
    places::{self, EVERYWHERE, Places},
    rules::Rules,
    terms::{Term, TermId, Terms},
    world::{PortName, World},
};
use crate::event::policy::{Action, NamedPort, PolicyObject, Ports, Rule, Tier};

/// A rule, or the part of it that speaks of pods with a certain port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Sorted; `None`: everybody.
    pub peers: Option<Box<[TermId]>>,
    pub places: Box<[Places]>,
    pub effect: Effect,
    /// See [`Rules`].
    pub rule: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    Allow,
    Deny,
    Reject,
    /// Nothing more of this list.
    Pass,
    /// Would be denied, but the next clause is asked.
    Watch,
}

/// What a set stands for.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Clauses {
    pub admin: Vec<Clause>,
    /// Then these; what none of them decides is allowed.
    pub rest: Vec<Clause>,
    /// Whom the numbers in the clauses mean.
    pub names: BTreeSet<Arc<RuleName>>,
}

impl Clauses {
    pub fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.rest.is_empty()
    }

    /// The terms of all clauses.
    pub fn terms(&self) -> BTreeSet<TermId> {
        let clauses = self.admin.iter().chain(&self.rest);
        clauses.flat_map(|clause| clause.peers.iter().flatten().copied()).collect()
    }
}

/// A policy that selects an endpoint and says something about the direction.
pub type Applying<'a> = (&'a PolicyId, &'a PolicyObject);

/// Puts policies in the order in which they are asked.
pub fn order(policies: &mut [Applying<'_>]) {
    let name = |(id, policy): &Applying<'_>| match policy.tier {
        // Of a union only the names of the deciding rules depend on the order.
        Tier::Namespaced => None,
        Tier::Network | Tier::Admin { .. } | Tier::Baseline { .. } => Some(id.name.clone()),
    };
    policies.sort_by_cached_key(|policy| (policy.1.tier, name(policy), policy.0.clone()));
}

pub fn rules(policy: &PolicyObject, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

/// Peers and places.
type Part = (Option<Box<[TermId]>>, Box<[Places]>);

/// What the clauses are made with.
pub struct Builder<'a> {
    pub world: &'a World,
    pub terms: &'a mut Terms,
    pub rules: &'a mut Rules,
    pub direction: Direction,
    /// Of the endpoint itself.
    pub ports: &'a [NamedPort],
    /// Names of ports whose numbers bear on the clauses.
    pub asked: BTreeSet<PortName>,
}

impl Builder<'_> {
    /// The policies are [in order](order), and each has rules for the direction.
    pub fn build(&mut self, policies: &[Applying<'_>]) -> Clauses {
        let mut clauses = Clauses::default();
        let of = |tier: fn(&Tier) -> bool| policies.iter().filter(move |(_, policy)| tier(&policy.tier));
        for policy in of(|tier| matches!(tier, Tier::Network | Tier::Admin { .. })) {
            let effect = |action| match action {
                Action::Deny | Action::Reject if policy.1.audit => Some(Effect::Watch),
                Action::Allow => Some(Effect::Allow),
                Action::Deny => Some(Effect::Deny),
                Action::Reject => Some(Effect::Reject),
                Action::Pass => Some(Effect::Pass),
            };
            let mut list = std::mem::take(&mut clauses.admin);
            self.policy(policy, effect, &mut list, &mut clauses.names);
            clauses.admin = list;
        }
        let mut rest = Vec::new();
        for policy in of(|tier| matches!(tier, Tier::Namespaced)) {
            let effect = |action| (action == Action::Allow).then_some(Effect::Allow);
            self.policy(policy, effect, &mut rest, &mut clauses.names);
        }
        let isolating: Vec<_> = of(|tier| matches!(tier, Tier::Namespaced)).collect();
        self.isolate(&isolating, &mut rest, &mut clauses.names);
        for policy in of(|tier| matches!(tier, Tier::Baseline { .. })) {
            let effect = |action| match action {
                Action::Deny | Action::Reject if policy.1.audit => Some(Effect::Watch),
                Action::Allow => Some(Effect::Allow),
                Action::Deny => Some(Effect::Deny),
                Action::Reject => Some(Effect::Reject),
                // There is no tier that it could be left to.
                Action::Pass => None,
            };
            self.policy(policy, effect, &mut rest, &mut clauses.names);
        }
        clauses.rest = rest;
        clauses
    }

    /// What no namespaced policy allows.
    fn isolate(
        &mut self,
        policies: &[&Applying<'_>],
        list: &mut Vec<Clause>,
        names: &mut BTreeSet<Arc<RuleName>>,
    ) {
        let (watching, enforced): (Vec<_>, Vec<_>) = policies.iter().partition(|(_, policy)| policy.audit);
        let (effect, by): (Effect, Vec<&&Applying<'_>>) = match (&enforced[..], &watching[..]) {
            ([], []) => return,
            ([], _) => (Effect::Watch, watching),
            _ if enforced.iter().any(|(_, policy)| policy.reject) => (Effect::Reject, enforced),
            _ => (Effect::Deny, enforced),
        };
        let policies = by.into_iter().map(|(id, _)| (*id).clone()).collect();
        let name = RuleName::DefaultDeny { direction: self.direction, policies };
        let rule = self.number(name, names);
        list.push(Clause { peers: None, places: [EVERYWHERE].into(), effect, rule });
    }

    fn policy(
        &mut self,
        (id, policy): &Applying<'_>,
        effect: impl Fn(Action) -> Option<Effect>,
        list: &mut Vec<Clause>,
        names: &mut BTreeSet<Arc<RuleName>>,
    ) {
        for (index, rule) in rules(policy, self.direction).unwrap_or_default().iter().enumerate() {
            let Some(effect) = effect(rule.action) else { continue };
            let parts = self.parts(rule);
            if parts.is_empty() {
                continue;
            }
            let name = RuleName::Rule {
                policy: (*id).clone(),
                direction: self.direction,
                index,
                name: rule.name.clone(),
            };
            let rule = self.number(name, names);
            list.extend(parts.into_iter().map(|(peers, places)| Clause { peers, places, effect, rule }));
        }
    }

    fn number(&mut self, name: RuleName, names: &mut BTreeSet<Arc<RuleName>>) -> u32 {
        let (number, name) = self.rules.intern(name);
        names.insert(name);
        number
    }

    /// The peers and places of a rule; more than one pair where it names ports
    /// of its peers.
    fn parts(&mut self, rule: &Rule) -> Vec<Part> {
        let mut parts = Vec::new();
        let Some(ports) = &rule.ports else {
            parts.extend(self.peers(rule, None).map(|peers| (peers, [EVERYWHERE].into())));
            return parts;
        };
        let mut places = Vec::new();
        for port in ports {
            match &port.ports {
                Ports::All => places.extend(places::of(port.protocol, 0, u16::MAX)),
                Ports::Range(first, last) if first > last => {}
                Ports::Range(first, last) => places.extend(places::of(port.protocol, *first, *last)),
                Ports::Named(name) => match self.direction {
                    Direction::Ingress => {
                        let own = self.ports.iter();
                        let own = own.filter(|own| own.name == *name && own.protocol == port.protocol);
                        places.extend(own.flat_map(|own| places::of(own.protocol, own.port, own.port)));
                    }
                    Direction::Egress => {
                        let asked = (name.clone(), port.protocol);
                        for number in self.world.numbers(&asked) {
                            let has = NamedPort { name: name.clone(), protocol: port.protocol, port: number };
                            if let Some(peers) = self.peers(rule, Some(has)) {
                                parts.push((peers, places::of(port.protocol, number, number).collect()));
                            }
                        }
                        self.asked.insert(asked);
                    }
                },
            }
        }
        if !places.is_empty()
            && let Some(peers) = self.peers(rule, None)
        {
            places.sort_unstable();
            places.dedup();
            parts.push((peers, places.into()));
        }
        parts
    }

    /// `None`: nobody.
    fn peers(&mut self, rule: &Rule, port: Option<NamedPort>) -> Option<Option<Box<[TermId]>>> {
        let peers = match (&rule.peers, port) {
            (None, None) => return Some(None),
            (None, port) => vec![self.terms.intern(Term::new(None, port))],
            (Some(peers), port) => {
                let terms = peers.iter().map(|peer| Term::new(Some(peer), port.clone()));
                let mut ids: Vec<TermId> = terms.map(|term| self.terms.intern(term)).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            }
        };
        (!peers.is_empty()).then(|| Some(peers.into()))
    }
}
