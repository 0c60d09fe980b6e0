//! Is everything as it should be? Maps, links, routes and interfaces are read
//! again, and what is not as wanted is put right and told.

use std::time::{Duration, Instant};

use super::{
    agent::Agent,
    status::{READ, WRITE},
};

/// After a change everything is read back this soon: the change's own rows
/// were read back at once.
const SOON: Duration = Duration::from_millis(20);

/// What there is to look at, in this order. Each is a turn of the loop, so that whoever
/// brings a change waits for one of them at most.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    Endpoints,
    Hooks,
    Policies,
    Maps,
    Flows,
}

impl Look {
    const FIRST: Look = Look::Endpoints;

    /// `None`: that was the last.
    fn next(self) -> Option<Look> {
        match self {
            Look::Endpoints => Some(Look::Hooks),
            Look::Hooks => Some(Look::Policies),
            Look::Policies => Some(Look::Maps),
            Look::Maps => Some(Look::Flows),
            Look::Flows => None,
        }
    }
}

/// When is everything looked at?
pub struct Audits {
    next: Look,
    due: Instant,
    /// Spent on this one, and on the last whole one.
    spent: Duration,
    last: Duration,
}

impl Audits {
    pub fn new() -> Self {
        Self { next: Look::FIRST, due: Instant::now(), spent: Duration::ZERO, last: Duration::ZERO }
    }

    /// Some looks of this one are still to come.
    pub fn is_under_way(&self) -> bool {
        self.next != Look::FIRST
    }

    /// How long the loop may sleep before the next one.
    pub fn until(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }
}

impl Agent {
    pub fn audit_soon(&mut self) {
        // At most a tenth of a CPU goes into reading back.
        let pause = SOON.max(self.audits.last * 10);
        self.audits.due = self.audits.due.min(Instant::now() + pause);
    }

    /// One look at everything, at once, and at every row of however many there are.
    pub async fn audit(&mut self) {
        self.audits.next = Look::FIRST;
        while !self.audit_next(true).await {}
    }

    /// The next look; true after the last.
    pub async fn audit_next(&mut self, whole: bool) -> bool {
        let (start, look) = (Instant::now(), self.audits.next);
        if look == Look::FIRST {
            // Whoever asks for another one meanwhile gets it.
            self.audits.due = start + self.config.resync;
            self.audits.spent = Duration::ZERO;
        }
        match look {
            Look::Endpoints => {
                self.audit_endpoints().await;
                self.finish_pending().await;
            }
            Look::Hooks => {
                self.audit_links();
                self.keep_routes().await;
            }
            Look::Policies => {
                self.walk_policies(whole);
                self.settle_egress().await;
                self.health_checks.settle();
            }
            Look::Maps => {
                self.confirm_policies();
                self.audit_maps();
                self.tell_cluster_the_truth();
                // What is being attached holds nothing yet, and would be taken for left behind.
                if !self.settled && self.start_micros != 0 && self.wiring.is_idle() {
                    self.settle();
                }
                if self.settled && self.misses_plugin() {
                    self.install_plugin();
                }
            }
            Look::Flows => {
                self.expire_flows();
                self.end_stale_connections();
                self.guarded.remember(false);
            }
        }
        let next = look.next();
        self.audits.next = next.unwrap_or(Look::FIRST);
        self.audits.spent += start.elapsed();
        if next.is_none() {
            self.audits.last = self.audits.spent;
            // However often they are wanted, most of the time is for others.
            let rest = (self.audits.last * 10).min(self.config.resync);
            self.audits.due = self.audits.due.max(Instant::now() + rest);
            self.publish();
        }
        next.is_none()
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
