//! How do things stand, in the operator's words?

use std::collections::BTreeSet;

use super::{agent::Agent, host_ports, plane::Plane};
use crate::snapshot::{ALARM_PERCENT, Drift, MapUse, ProblemView, SourceStatus, Status};
use crate::{
    event::Problem,
    kernel::bpf::Dataplane,
    plan::{Capacity, Family, policy::SEALED},
};

/// Names of failures; see [`Agent::note`].
pub(super) const WRITE: &str = "write to the maps";
pub(super) const READ: &str = "read the maps back";
pub(super) const ATTACH: &str = "attach programs";

impl Agent {
    pub fn status(&self, problems: &[Problem]) -> Status {
        let revision = self.model.revision();
        let maps = self.map_use();
        let reasons = self.reasons(revision);
        Status {
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision,
            applied_revision: self.applied_revision,
            digest: self.digest().to_string(),
            kernel_digest: self.kernel_digest().map(|digest| digest.to_string()).unwrap_or_default(),
            converged: reasons.is_empty(),
            reasons,
            sources: self
                .model
                .sources()
                // Our own is no news where it has nothing to say.
                .filter(|(name, _, objects, _)| &***name != host_ports::SOURCE || *objects > 0)
                .map(|(name, synced, objects, problems)| SourceStatus {
                    name: name.to_string(),
                    held: self.guarded.held(name),
                    synced,
                    objects,
                    problems,
                })
                .collect(),
            problems: views(problems),
            alarms: self.alarms(&maps),
            maps,
            sockets_ended: self.sockets_ended,
            drift: Drift { repaired: self.repaired, last: self.repairs.iter().cloned().collect() },
            uplink: Some(self.uplink.name.clone()),
            hook: self.dataplane.as_ref().map(Dataplane::hooks).unwrap_or_default(),
            services: self.model.services(),
            endpoints: self.store.iter().count(),
            nodes: self.model.nodes().len(),
            policies: self.model.policy_count(),
            last_apply_micros: self.last_apply.as_micros() as u64,
            start_micros: self.start_micros,
        }
    }

    /// Whether all that the model says has been read back.
    pub fn stands(&self) -> bool {
        self.reasons(self.model.revision()).is_empty()
    }

    /// Whether services' rows in the kernel are not as wanted, whatever sources have
    /// yet to say; policies, and what cannot have room, are no matter of theirs.
    pub fn is_behind(&self) -> bool {
        let fails = [WRITE, READ, ATTACH].iter().any(|what| self.failures.contains_key(what));
        let differs = self.kernel_digest().is_some_and(|digest| digest != self.digest());
        self.dataplane.is_none() || fails || differs
    }

    /// Why the node has not converged; empty when it has.
    fn reasons(&self, revision: u64) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.dataplane.is_none() {
            reasons.push("uninstalled".to_owned());
        }
        for (source, synced, ..) in self.model.sources() {
            let held = self.guarded.held(source);
            reasons.extend(held.iter().map(|held| {
                let (objects, of, kind) = (held.objects, held.of, &held.kind);
                format!(
                    "{objects} of {of} {kind} of source {source} are held (causeway source release {source})"
                )
            }));
            if !synced && !held.iter().any(|held| held.earlier) {
                reasons.push(format!("source {source} has not said everything yet"));
            }
        }
        let sealed =
            self.store.iter().filter(|(name, stored)| self.policy_of(name, stored) == Some(SEALED)).count();
        if sealed > 0 {
            reasons.push(format!(
                "{sealed} endpoints are cut off until the sources have said which policies there are"
            ));
        }
        reasons.extend(self.waiting());
        reasons.extend(self.failures.iter().map(|(what, error)| format!("cannot {what}: {error}")));
        if self.applied_revision < revision {
            reasons.push(format!("revision {} is applied, {revision} is wanted", self.applied_revision));
        }
        if self.kernel_digest() != Some(self.digest()) {
            reasons.push("the maps have not been read back as wanted".to_owned());
        }
        if !self.policies.stand {
            reasons.push("the policies have not been read back as wanted".to_owned());
        }
        reasons
    }

    /// Services that have no room; one line a kind.
    fn waiting(&self) -> Vec<String> {
        let waiting = self.v4.planner.waiting().chain(self.v6.planner.waiting());
        let mut messages: Vec<&str> = waiting.map(|problem| problem.message.as_str()).collect();
        messages.sort_unstable();
        let kinds = messages.chunk_by(|a, b| a == b);
        kinds.map(|kind| format!("{} services wait for room: {}", kind.len(), kind[0])).collect()
    }

    /// What cannot be served, wherever that was found.
    pub fn every_problem(&self) -> impl Iterator<Item = Problem> {
        let all = self.model.problems().chain(self.plan_problems()).chain(&self.route_problems);
        let all = all.chain(&self.egress.decision.problems).chain(self.health_checks.problems());
        all.chain(&self.policies.problems).cloned().chain(self.network_problems())
    }

    /// What the plans could not serve; what is wrong in both families, once.
    pub fn plan_problems(&self) -> impl Iterator<Item = &Problem> {
        let v4: BTreeSet<&Problem> = self.v4.planner.problems().collect();
        let v6 = self.v6.planner.problems().filter(move |problem| !v4.contains(problem));
        self.v4.planner.problems().chain(v6)
    }

    fn map_use(&self) -> Vec<MapUse> {
        let mut maps = family_use(&self.v4, &self.config.capacity, "");
        maps.extend(family_use(&self.v6, &self.config.capacity, "_v6"));
        maps
    }

    fn alarms(&self, maps: &[MapUse]) -> Vec<String> {
        let full = maps.iter().filter(|map| map.used * 100 >= map.capacity * ALARM_PERCENT);
        let full = full.map(|map| {
            let MapUse { map, used, capacity } = map;
            let stem = map.trim_end_matches("_v6");
            let key = if stem == "endpoint_keys" { "endpoints" } else { stem };
            format!("map {map} is full ({used} of {capacity}): raise capacity.{key}")
        });
        let failed = self.failures.iter().map(|(what, error)| format!("cannot {what}: {error}"));
        let sources = self.model.sources();
        let held = sources
            .flat_map(|(name, ..)| self.guarded.held(name).into_iter().map(move |held| held.alarm(name)));
        let all = held.chain(full).chain(self.waiting()).chain(failed).chain(self.published.trouble());
        all.chain(self.warnings.iter().cloned()).collect()
    }
}

fn views(problems: &[Problem]) -> Vec<ProblemView> {
    let mut views: Vec<ProblemView> = problems.iter().map(ProblemView::from).collect();
    // Each port of a service has a plan of its own.
    views.dedup();
    views
}

fn family_use<A: Family>(plane: &Plane<A>, capacity: &Capacity, suffix: &str) -> Vec<MapUse> {
    let view = |map: &str, used, capacity| MapUse { map: format!("{map}{suffix}"), used, capacity };
    let tables = plane.planner.usage().into_iter();
    let mut maps: Vec<MapUse> =
        tables.map(|(map, used, capacity)| view(map.name(), used, capacity)).collect();
    maps.push(view("flows", plane.flow_entries, u64::from(capacity.flows) * 2));
    maps
}
