//! One address family on this node: what is planned for it, its maps, its
//! flows. The agent has two, alike in everything.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use causeway_schema::{EndpointKey, Flow, FlowKey};
use ipnet::IpNet;

use super::status::{READ, WRITE};
use crate::{
    kernel::{
        Tables,
        bpf::{BpfTables, Dataplane, Flows, Timeouts, node_address},
        knock::Knocker,
    },
    model::desired::{Endpoint, Service, ServiceId},
    plan::{Capacity, Digest, Family, Planner, ReadError, Repair, Step, audit, confirm},
};

/// How often idle flows are looked for: more often when the table fills.
const FLOWS: Duration = Duration::from_secs(2);
const FLOWS_WHEN_FULL: Duration = Duration::from_secs(1);

pub struct Plane<A: Family> {
    pub planner: Planner<A>,
    pub flows: Flows<A>,
    tables: BpfTables<A>,
    /// The node's own address, and whether services have had a backend there.
    own: A,
    pub serves_itself: bool,
    pub digest: Digest,
    pub kernel_digest: Option<Digest>,
    /// A backend or a frontend has gone since the node's sockets were looked at.
    pub parted: bool,
    /// Something was written since the digests were made.
    undigested: bool,
    /// Probes sent so far: which frontend is next.
    pub probes: usize,
    flows_due: Instant,
    knocker: Knocker,
    /// Entries in the table of established flows, when last counted.
    pub flow_entries: u64,
    flow_capacity: u64,
}

/// What an audit found of a family's maps.
#[derive(Default)]
pub struct Audit {
    /// What a foreign hand had done and was mended.
    pub repaired: Vec<String>,
    /// What failed, by the name of its kind.
    pub failed: Option<(&'static str, String)>,
    /// Which kinds of work succeeded.
    pub worked: Vec<&'static str>,
}

impl<A: Family> Plane<A> {
    /// Takes over what an earlier agent left. `own`: the addresses of the uplink.
    ///
    /// # Errors
    /// When the maps cannot be opened or read.
    pub fn adopt(dataplane: &Dataplane, capacity: Capacity, own: &[IpNet]) -> anyhow::Result<Self> {
        let tables = dataplane.tables()?;
        let planner = Planner::adopt(capacity, &tables).context("read the maps")?;
        let own = node_address(own);
        let serves_itself = planner.image().backends.iter().any(|(_, row)| row.addr == own);
        Ok(Self {
            own,
            serves_itself,
            planner,
            flows: dataplane.flows()?,
            tables,
            digest: Digest::default(),
            kernel_digest: None,
            undigested: true,
            // Who knows what an earlier agent has not seen to.
            parted: true,
            probes: 0,
            flows_due: Instant::now(),
            knocker: Knocker::default(),
            flow_entries: 0,
            flow_capacity: u64::from(capacity.flows) * 2,
        })
    }

    /// The maps hold neither services nor endpoints.
    pub fn is_empty(&self) -> bool {
        let image = self.planner.image();
        image.services.is_empty() && image.endpoints.is_empty()
    }

    /// The index of an endpoint's policies, by the row that stands; 0: none.
    pub fn policy_of(&self, endpoint: &Endpoint) -> u16 {
        let image = self.planner.image();
        let mut keys = endpoint.addresses.iter().filter_map(|&address| A::from_ip(address)).map(EndpointKey);
        let row = keys.find_map(|key| image.endpoints.get(&image.endpoint_keys.get(&key)?.slot()).copied());
        row.map_or(0, |row| row.policy)
    }

    /// Plans and writes services that changed, or went away.
    ///
    /// # Errors
    /// What the maps refused; the next audit tries again.
    pub fn update<'a, S: Borrow<Service>>(
        &mut self,
        changes: impl Iterator<Item = (&'a ServiceId, Option<S>)>,
    ) -> Result<(), String> {
        let steps = self.planner.update(changes);
        self.write(&steps)
    }

    /// Makes these the addresses of nodes, or adds them while they are not all.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn set_nodes(&mut self, addresses: impl Iterator<Item = IpAddr>, all: bool) -> Result<(), String> {
        let steps = self.planner.set_nodes(addresses, all);
        self.write(&steps)
    }

    /// Makes these the egress addresses that this node holds.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn hold(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), String> {
        let steps = self.planner.hold(addresses);
        self.write(&steps)
    }

    /// Removes what an earlier agent left and nobody wants.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn prune(&mut self) -> Result<(), String> {
        let steps = self.planner.prune();
        self.write(&steps)
    }

    /// # Errors
    /// As [`Self::update`].
    pub fn set_endpoints(&mut self, endpoints: &BTreeMap<String, Endpoint>) -> Result<(), String> {
        let steps = self.planner.set_endpoints(endpoints);
        self.write(&steps)
    }

    /// Lets what was freed be used again; true when something was written.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn release(&mut self, now: Duration) -> Result<bool, String> {
        let steps = self.planner.release(now);
        self.write(&steps).map(|()| !steps.is_empty())
    }

    /// Writes steps and reads their rows back.
    fn write(&mut self, steps: &[Step<A>]) -> Result<(), String> {
        if steps.is_empty() {
            return Ok(());
        }
        self.undigested = true;
        let serves = |step: &Step<A>| matches!(step, Step::PutBackend { row, .. } if row.addr == self.own);
        self.serves_itself |= steps.iter().any(serves);
        let parts = |step: &Step<A>| {
            matches!(
                step,
                Step::ClearBackend { .. }
                    | Step::DeleteFrontend { .. }
                    | Step::PutPortRanges { .. }
                    | Step::DeletePortRanges { .. }
            )
        };
        self.parted |= steps.iter().any(parts);
        let failed = self.tables.apply(steps);
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error.to_string());
        }
        let wrong = confirm(steps, &self.tables).map_err(|error| error.to_string())?;
        match wrong.first().and_then(|index| steps.get(*index)) {
            Some(step) => Err(format!("{} does not read back as written", step.map())),
            None => Ok(()),
        }
    }

    /// Reads all maps back and mends what is not as wanted. `ours`: a write
    /// failed before, so wrong rows are no foreign hand's work.
    pub fn audit(&mut self, ours: bool) -> Audit {
        let mut audit = Audit::default();
        if let Err(failed) = self.look(ours, &mut audit) {
            if failed.0 == READ {
                self.kernel_digest = None;
            }
            audit.failed = Some(failed);
        }
        audit
    }

    fn look(&mut self, ours: bool, outcome: &mut Audit) -> Result<(), (&'static str, String)> {
        let unread = |error: ReadError| (READ, error.to_string());
        let repairs = audit(self.planner.image(), &self.tables).map_err(unread)?;
        if !repairs.is_empty() {
            self.repair(&repairs)?;
            outcome.worked.push(WRITE);
            if !ours {
                outcome.repaired.extend(repairs.iter().map(ToString::to_string));
            }
        }
        // Rows that stand as the image says, and an image that has not changed,
        // have the digests they had.
        if self.undigested || !repairs.is_empty() || self.kernel_digest.is_none() {
            self.kernel_digest = Some(Digest::of_rows(&self.tables).map_err(unread)?);
            self.digest = Digest::of_image(self.planner.image());
            self.undigested = self.kernel_digest != Some(self.digest);
        }
        outcome.worked.push(READ);
        Ok(())
    }

    fn repair(&mut self, repairs: &[Repair<A>]) -> Result<(), (&'static str, String)> {
        let steps: Vec<Step<A>> = repairs.iter().map(|repair| repair.step.clone()).collect();
        if let Some((_, error)) = self.tables.apply(&steps).into_iter().next() {
            return Err((WRITE, error.to_string()));
        }
        let left = audit(self.planner.image(), &self.tables).map_err(|error| (READ, error.to_string()))?;
        match left.first() {
            Some(repair) => Err((WRITE, format!("{repair}, but it does not read back"))),
            None => Ok(()),
        }
    }

    /// Ends the flows that `denies` names.
    ///
    /// # Errors
    /// As [`Self::expire_flows`].
    pub fn revoke(&mut self, denies: impl Fn(&FlowKey<A>, &Flow<A>) -> bool) -> io::Result<()> {
        let revoked = self.flows.revoke(denies)?;
        self.tell(&revoked.told);
        Ok(())
    }

    /// Forgets the flows that `of` names, so that they begin anew.
    ///
    /// # Errors
    /// As [`Self::expire_flows`].
    pub fn forget(&mut self, of: impl Fn(&FlowKey<A>, &Flow<A>) -> bool) -> io::Result<()> {
        self.flows.end(of, false).map(drop)
    }

    /// An end that there is no way to has nothing to be told.
    fn tell(&mut self, ends: &[(SocketAddr, SocketAddr)]) {
        let failed = ends.iter().filter(|(peer, end)| self.knocker.knock(*peer, *end).is_err()).count();
        if failed > 0 {
            tracing::debug!(failed, "ends of connections that are over were not told");
        }
    }

    /// Ends idle flows, when it is time to look for them.
    ///
    /// # Errors
    /// When the tables cannot be read or the program cannot be run.
    pub fn expire_flows(&mut self) -> io::Result<()> {
        if Instant::now() < self.flows_due {
            return Ok(());
        }
        let expired = self.flows.expire(&Timeouts::default(), &self.planner.idle_timeouts());
        let crowded = self.flow_entries > self.flow_capacity * 3 / 4;
        self.flows_due = Instant::now() + if crowded { FLOWS_WHEN_FULL } else { FLOWS };
        let expired = expired?;
        self.flow_entries = expired.left;
        self.tell(&expired.told);
        Ok(())
    }
}
