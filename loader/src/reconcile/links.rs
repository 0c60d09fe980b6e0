//! Which programs stand where, and are they still there?

use std::collections::BTreeSet;

use super::{agent::Agent, status::ATTACH};
use crate::{
    attach::{Stored, Uplink},
    kernel::bpf::{Attachment, BpfError, FROM_HOST, FROM_UPLINK, UPLINK_XDP},
};

impl Agent {
    /// Programs at the uplink and at every endpoint's interface.
    pub fn attach_all(&mut self) {
        let failed = self.attach_missing();
        self.note(ATTACH, failed.map_or(Ok(()), Err));
    }

    /// Puts back what somebody took away, and tries again what failed.
    pub fn audit_links(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let (repaired, errors) = dataplane.audit_links();
        repaired.into_iter().for_each(|repair| self.remember_repair(repair));
        let failed = self.attach_missing();
        self.note(ATTACH, errors.into_iter().next().or(failed).map_or(Ok(()), Err));
    }

    /// Attaches what is missing at the uplink and at endpoints' interfaces; tries
    /// everything, and says what failed first.
    fn attach_missing(&mut self) -> Option<BpfError> {
        let dataplane = self.dataplane.as_mut()?;
        let from_host = at(&self.uplink, FROM_HOST);
        // Where it stands it stays, for the flows that there are.
        let answers = self.v4.serves_itself || self.v6.serves_itself || dataplane.has_pin(&from_host);
        let mut wanted = vec![at(&self.uplink, FROM_UPLINK)];
        wanted.extend(self.store.iter().flat_map(|(_, Stored { endpoint, .. })| {
            Attachment::of_container(endpoint.ifindex, &endpoint.interface)
        }));
        wanted.extend(answers.then_some(from_host));
        let held: BTreeSet<Attachment> = dataplane.attached().cloned().collect();
        wanted.retain(|attachment| !held.contains(attachment));
        let failed = wanted.into_iter().filter_map(|attachment| dataplane.attach(attachment).err());
        failed.reduce(|first, _| first)
    }

    /// Attaches the program for what the node itself answers to the outside, once a
    /// service has a backend here: all that leaves passes it, so others do without.
    pub fn attach_from_host(&mut self) {
        let wanted = at(&self.uplink, FROM_HOST);
        let serves = self.v4.serves_itself || self.v6.serves_itself;
        let Some(dataplane) = self.dataplane.as_mut().filter(|_| serves) else { return };
        let stands = dataplane.attached().any(|held| *held == wanted);
        if !stands && let Err(error) = dataplane.attach(wanted) {
            self.note(ATTACH, Err::<(), _>(error));
        }
    }

    /// The program of the uplink's driver. Without it everything goes by tc,
    /// which is slower but right: no reason to call the node unready.
    pub fn attach_xdp(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        if let Err(error) = dataplane.attach(at(&self.uplink, UPLINK_XDP)) {
            let warning = format!("no XDP, packets go by {} alone: {error}", dataplane.hook().name());
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// The programs for the node's own sockets. Containers and the world are
    /// served without them.
    pub fn attach_sockets(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        if let Err(error) = dataplane.attach_sockets() {
            let warning = format!("processes of the node itself cannot call services: {error}");
            tracing::warn!("{warning}");
            self.warnings.push(warning);
            return;
        }
        if let Err(error) = dataplane.list_sockets() {
            let warning = format!("connected datagram sockets of the node keep a backend that goes: {error}");
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
    }
}

fn at(uplink: &Uplink, program: &'static str) -> Attachment {
    Attachment { program, ifindex: uplink.ifindex, interface: uplink.name.clone() }
}
