//! Is everything as it should be? Maps, links, routes and interfaces are read
//! again, and what is not as wanted is put right and told.

use std::time::{Duration, Instant};

use causeway_schema::V4;

use super::{
    agent::Agent,
    status::{READ, WRITE},
};
use crate::{
    kernel::{Tables, bpf::Timeouts},
    plan::{Digest, Repair, Step, audit},
};

/// How often idle flows are looked for: more often when the table fills.
const FLOWS: Duration = Duration::from_secs(2);
const FLOWS_WHEN_FULL: Duration = Duration::from_secs(1);

impl Agent {
    /// One look at everything.
    pub async fn audit(&mut self) {
        let start = Instant::now();
        self.audit_endpoints().await;
        self.audit_links();
        self.keep_routes().await;
        self.audit_maps();
        self.expire_flows();
        self.last_audit = start.elapsed();
        self.audit_due = Instant::now() + self.config.resync;
        self.publish();
    }

    fn audit_links(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let (repaired, errors) = dataplane.audit_links();
        repaired.into_iter().for_each(|repair| self.remember_repair(repair));
        self.note("attach programs", errors.into_iter().next().map_or(Ok(()), Err));
    }

    /// Reads all maps back. A revision counts as applied when nothing had to
    /// be repaired, or when it reads right after the repair.
    fn audit_maps(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let found = audit(self.planner.image(), &dataplane.tables);
        let Some(repairs) = self.note(READ, found) else {
            self.kernel_digest = None;
            return;
        };
        if !repairs.is_empty() && !self.repair(&repairs) {
            return;
        }
        let Some(dataplane) = &self.dataplane else { return };
        // Rows that stand as the image says, and an image that has not changed,
        // have the digests they had.
        if self.undigested || !repairs.is_empty() || self.kernel_digest.is_none() {
            let digest = Digest::of_rows(&dataplane.tables);
            self.kernel_digest = self.note(READ, digest);
            self.digest = Digest::of_image(self.planner.image());
            self.undigested = self.kernel_digest != Some(self.digest);
        }
        if self.kernel_digest != Some(self.digest) {
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
        let steps = self.planner.release(self.started.elapsed());
        if !steps.is_empty() {
            self.write(&steps);
            self.audit_soon();
        }
    }

    /// Mends what the audit found; true when the maps then read right.
    fn repair(&mut self, repairs: &[Repair<V4>]) -> bool {
        // Rows of a write that failed are no foreign hand's work.
        let ours = self.failures.contains_key(WRITE);
        let steps: Vec<Step<V4>> = repairs.iter().map(|repair| repair.step.clone()).collect();
        let Some(dataplane) = &mut self.dataplane else { return false };
        let failed = dataplane.tables.apply(&steps);
        if let Some((_, error)) = failed.into_iter().next() {
            self.note(WRITE, Err::<(), _>(error));
            return false;
        }
        let left = audit(self.planner.image(), &dataplane.tables);
        let Some(left) = self.note(READ, left) else { return false };
        if let Some(repair) = left.first() {
            self.note(WRITE, Err::<(), _>(format!("{repair}, but it does not read back")));
            return false;
        }
        self.note(WRITE, Ok::<(), String>(()));
        if !ours {
            repairs.iter().for_each(|repair| self.remember_repair(repair.to_string()));
        }
        true
    }

    fn expire_flows(&mut self) {
        if Instant::now() < self.flows_due {
            return;
        }
        let Some(dataplane) = &mut self.dataplane else { return };
        let expired = dataplane.flows.expire(&Timeouts::default());
        if let Some((_, left)) = self.note("expire flows", expired) {
            self.flow_entries = left;
        }
        let crowded = self.flow_entries > u64::from(self.config.capacity.flows) * 3 / 2;
        self.flows_due = Instant::now() + if crowded { FLOWS_WHEN_FULL } else { FLOWS };
    }
}
