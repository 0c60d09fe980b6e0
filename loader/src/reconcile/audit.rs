//! Is everything as it should be? Maps, links, routes and interfaces are read
//! again, and what is not as wanted is put right and told.

use std::time::Instant;

use super::{
    agent::Agent,
    status::{READ, WRITE},
};

impl Agent {
    /// One look at everything.
    pub async fn audit(&mut self) {
        let start = Instant::now();
        self.audit_endpoints().await;
        self.finish_pending().await;
        self.audit_links();
        self.keep_routes().await;
        self.audit_policies();
        self.settle_egress().await;
        self.health_checks.settle();
        self.audit_maps();
        // What is being attached holds nothing yet, and would be taken for left behind.
        if !self.settled && self.start_micros != 0 && self.wiring.is_idle() {
            self.settle();
        }
        if self.settled && self.misses_plugin() {
            self.install_plugin();
        }
        self.expire_flows();
        self.tell_cluster_the_truth();
        self.guarded.remember(false);
        self.last_audit = start.elapsed();
        self.audit_due = Instant::now() + self.config.resync;
        self.publish();
    }

    /// Reads all maps back. A revision counts as applied when nothing had to
    /// be repaired, or when it reads right after the repair.
    fn audit_maps(&mut self) {
        // Rows of a write that failed are no foreign hand's work.
        let ours = self.failures.contains_key(WRITE);
        let found = [self.v4.audit(ours), self.v6.audit(ours)];
        for kind in [WRITE, READ] {
            let failed =
                found.iter().filter_map(|audit| audit.failed.as_ref()).find(|(what, _)| *what == kind);
            if let Some((_, error)) = failed {
                self.note(kind, Err::<(), _>(error));
            } else if found.iter().any(|audit| audit.worked.contains(&kind)) {
                self.note(kind, Ok::<(), String>(()));
            }
        }
        let failed = found.iter().any(|audit| audit.failed.is_some());
        found.into_iter().flat_map(|audit| audit.repaired).for_each(|repair| self.remember_repair(repair));
        let policies = self.policies.stand || !self.model.containers_known();
        if failed || !policies || self.kernel_digest() != Some(self.digest()) {
            return;
        }
        let probed = self.probe();
        if self.note("serve a test packet", probed).is_none() {
            return;
        }
        self.applied_revision = self.model.revision();
        if self.start_micros == 0 && self.model.synced() && self.pruned {
            self.start_micros = self.started.elapsed().as_micros() as u64;
        }
        // What was freed may be used again, now that nothing names it.
        let now = self.started.elapsed();
        self.ipam.read_back(now);
        let (v4, v6) = (self.v4.release(now), self.v6.release(now));
        if v4 == Ok(true) || v6 == Ok(true) {
            // Who waited may have a place now.
            self.attach_from_host();
            self.audit_soon();
        }
        if v4 != Ok(false) || v6 != Ok(false) {
            self.note_written((v4.map(drop), v6.map(drop)));
        }
    }

    fn expire_flows(&mut self) {
        let expired = (self.v4.expire_flows(), self.v6.expire_flows());
        self.note("expire flows", expired.0.and(expired.1));
    }
}
