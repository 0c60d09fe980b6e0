//! Do a rule that names a service and a rule that names who serves it say contrary
//! things? The one that is asked first decides, and the other is void without a word.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use causeway_schema::{
    Port,
    policy::{Outcome, PolicyStep, place},
};

use super::{
    Compiler, Name, RuleName,
    clauses::{Clause, Clauses, Effect},
    terms::{TermId, Who},
};
use crate::event::{Problem, Protocol, policy::Tier};

/// At which port of which protocol a service is served.
pub type Backend = (Protocol, SocketAddr);

type Served = HashMap<Name, BTreeSet<Backend>>;

/// What has been found of rules, by their numbers.
#[derive(Default)]
struct Findings {
    /// Rules that do for some endpoint here what they say: who is treated otherwise
    /// is an exception, and meant.
    heeded: BTreeSet<u32>,
    /// Of the others, where they are void.
    void: BTreeMap<u32, BTreeSet<Void>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Void {
    service: Name,
    /// The rule that decides in its place, and what.
    by: Arc<RuleName>,
    denies: bool,
    /// Of a rule by backend: nothing is left to it. One by service is void for some.
    wholly: bool,
}

/// A clause that names services, and the terms for them.
struct ByService<'a> {
    clause: &'a Clause,
    services: Vec<(TermId, Name)>,
}

impl Compiler {
    /// Rules of which one is by service, the other by backend, and of which one does
    /// for no endpoint of this node what it says.
    pub(super) fn conflicts(&self, backends: impl Fn(&Name) -> BTreeSet<Backend>) -> Vec<Problem> {
        if !self.terms.has_services() {
            return Vec::new();
        }
        let mut served = Served::new();
        let mut found = Findings::default();
        for (set, clauses) in self.sets.in_use() {
            let by_service: Vec<ByService<'_>> =
                all(clauses).filter_map(|clause| self.by_service(clause)).collect();
            // A rule may be several clauses.
            let mut lost: BTreeMap<u32, BTreeSet<Void>> = BTreeMap::new();
            for of in by_service.iter().filter(|of| !found.heeded.contains(&of.clause.rule)) {
                for (_, service) in &of.services {
                    served.entry(service.clone()).or_insert_with(|| backends(service));
                }
                if let Some(void) = self.lost(set, of, &served) {
                    lost.entry(of.clause.rule).or_default().extend(void);
                }
            }
            for (rule, void) in lost {
                found.add(rule, (!void.is_empty()).then_some(void));
            }
            for clause in all(clauses).filter(|clause| self.by_service(clause).is_none()) {
                if !found.heeded.contains(&clause.rule) {
                    found.add(clause.rule, self.eclipsed(set, clause, &by_service));
                }
            }
        }
        let void = found.void.iter().filter(|(rule, _)| !found.heeded.contains(rule));
        void.filter_map(|(rule, void)| self.told(*rule, void.first()?)).collect()
    }

    /// `None`: it names no service, or only looks.
    fn by_service<'a>(&self, clause: &'a Clause) -> Option<ByService<'a>> {
        let services = clause.peers.iter().flatten().filter_map(|&id| match &self.terms.get(id)?.who {
            Who::Service(name) => Some((id, name.clone())),
            _ => None,
        });
        let services: Vec<_> = services.collect();
        let decides = matches!(clause.effect, Effect::Allow | Effect::Deny | Effect::Reject);
        (decides && !services.is_empty()).then_some(ByService { clause, services })
    }

    /// Where another rule decides, and otherwise, about backends of its services; `None`:
    /// it is about none of them.
    fn lost(&self, set: u32, of: &ByService<'_>, served: &Served) -> Option<BTreeSet<Void>> {
        let mut lost = None;
        for (term, service) in &of.services {
            for (protocol, address) in &served[service] {
                let place = place(protocol.number(), Port::new(address.port()));
                let class = self.class(address.ip());
                let is_meant = self.classes.terms(class).contains(term)
                    && of.clause.places.iter().any(|places| (places.first..=places.last).contains(&place));
                if !is_meant {
                    continue;
                }
                let lost = lost.get_or_insert_with(BTreeSet::new);
                if let Some(step) = self.step(set, class, place).filter(|step| contrary(of.clause, step))
                    && !self.is_for_others(of.clause.rule, step.rule())
                {
                    lost.extend(self.void(service, &step, false));
                }
            }
        }
        lost
    }

    /// The rules by service that decide, and otherwise, about everybody whom a clause is
    /// about, who may be nobody; `None` if that is not so.
    fn eclipsed(&self, set: u32, clause: &Clause, by_service: &[ByService<'_>]) -> Option<BTreeSet<Void>> {
        let mut void = BTreeSet::new();
        let peers = clause.peers.as_ref().filter(|_| !by_service.is_empty())?;
        for class in peers.iter().flat_map(|term| self.classes.with(*term)) {
            if !self.classes.is_used(class) {
                continue;
            }
            let steps = self.steps(set, class);
            for places in &clause.places {
                let first = steps.partition_point(|step| step.from <= places.first).saturating_sub(1);
                for step in steps[first..].iter().take_while(|step| step.from <= places.last) {
                    let deciding = by_service.iter().filter(|of| of.clause.rule == step.rule());
                    let mut services = deciding.flat_map(|of| &of.services);
                    let (_, service) = services.find(|(term, _)| self.classes.terms(class).contains(term))?;
                    contrary(clause, step).then(|| void.extend(self.void(service, step, true)))?;
                }
            }
        }
        Some(void)
    }

    fn void(&self, service: &Name, step: &PolicyStep, wholly: bool) -> Option<Void> {
        let by = self.image.rules.rows().get(&step.rule())?.clone();
        let denies = step.outcome() != Outcome::Allow;
        Some(Void { service: service.clone(), by, denies, wholly })
    }

    /// Is a rule of the baseline void because NetworkPolicies are there? So it is meant.
    fn is_for_others(&self, rule: u32, by: u32) -> bool {
        let tier = |rule| {
            let name = self.image.rules.rows().get(&rule)?;
            Some(self.policies.get(*name.policies().first()?)?.tier)
        };
        matches!((tier(rule), tier(by)), (Some(Tier::Baseline { .. }), Some(Tier::Namespaced)))
    }

    /// Nothing of it changes while backends come and go: it may be an Event's text.
    fn told(&self, rule: u32, void: &Void) -> Option<Problem> {
        let RuleName::Rule { policy, direction, index, .. } = &**self.image.rules.rows().get(&rule)? else {
            return None;
        };
        let Void { service: (namespace, name), by, denies, wholly } = void;
        let what = match wholly {
            false => format!("it names service {namespace}/{name}, but backends of it are"),
            true => {
                format!(
                    "it has no effect here: all whom it is about, as backends of service {namespace}/{name}, are"
                )
            }
        };
        let done = if *denies { "denied" } else { "allowed" };
        let message = format!(
            "{what} {done} by {by}, which is asked first: let only one of them speak of these, or change their order"
        );
        Some(Problem {
            origin: None,
            object: policy.to_string(),
            field: format!("spec.{direction}[{index}]"),
            message,
        })
    }
}

impl Findings {
    /// What has been found for the endpoints of one set; `None`: the rule is heeded.
    fn add(&mut self, rule: u32, void: Option<BTreeSet<Void>>) {
        match void {
            Some(void) if void.is_empty() => {}
            Some(void) => self.void.entry(rule).or_default().extend(void),
            None => drop(self.heeded.insert(rule)),
        }
    }
}

fn all(clauses: &Clauses) -> impl Iterator<Item = &Clause> {
    clauses.admin.iter().chain(&clauses.rest)
}

/// Does a step of another rule decide otherwise than a clause?
fn contrary(clause: &Clause, step: &PolicyStep) -> bool {
    let allows = match clause.effect {
        Effect::Allow => true,
        Effect::Deny | Effect::Reject => false,
        Effect::Pass | Effect::Watch => return false,
    };
    let allowed = match step.outcome() {
        Outcome::Allow => true,
        Outcome::Deny | Outcome::Reject => false,
        Outcome::Audit => return false,
    };
    step.rule() != clause.rule && allows != allowed
}
