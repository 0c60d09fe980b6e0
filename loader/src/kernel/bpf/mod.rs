//! The dataplane in the kernel: programs, maps, links and their pins, behind
//! one value. The only module that names aya.

mod batch;
mod bpffs;
mod cgroup;
mod egress;
mod error;
mod features;
mod fitter;
mod flows;
mod links;
mod mapped;
mod node;
mod object;
mod policies;
mod programs;
mod strangers;
mod sys;
mod tables;
mod tc;
mod tracer;

pub use bpffs::{MOUNT_POINT, would_be_in_bpffs};
pub use egress::EgressTables;
pub use error::BpfError;
pub use features::features;
pub use fitter::{Fitted, Fitter};
pub use flows::{Expired, Flows, Timeouts};
pub use links::{Attachment, Hook, Links};
pub use node::{NODE_PORTS, Node, node_address, widest};
pub use object::{FROM_HOST, FROM_UPLINK, UPLINK_XDP};
pub use policies::{PolicyTables, Walk as PolicyWalk};
pub use strangers::{Found, Hooks, Owner, has_cgroups, hooks, pins};
pub use tables::BpfTables;
pub use tracer::Tracer;

use std::{collections::HashMap, os::fd::OwnedFd, path::Path};

use causeway_schema::socket::Peers;

use crate::plan::{Capacity, Family};
use bpffs::Pins;
use cgroup::SOCKETS;
use object::Object;

/// Choices made when the dataplane is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Replace pinned maps that do not fit, losing their flows.
    pub recreate: bool,
    /// Attach as a kernel before 6.6 would.
    pub force_clsact: bool,
    /// Load the program for the uplink's driver too.
    pub xdp: bool,
}

pub struct Dataplane {
    pub tracer: Tracer,
    links: Links,
    object: Object,
    pins: Pins,
    capacity: Capacity,
}

impl Dataplane {
    /// Loads the programs and opens the maps under `root`, a directory of a
    /// BPF file system; takes over what an earlier agent left there.
    ///
    /// # Errors
    /// Names the step, the object and what helps.
    pub fn open(root: &Path, capacity: Capacity, options: Options) -> Result<Self, BpfError> {
        let pins = Pins::prepare(root)?;
        let object = Object::load(pins.clone(), &capacity, options)?;
        Ok(Self {
            tracer: Tracer::open(&object)?,
            links: Links::new(pins.clone(), options.force_clsact),
            object,
            pins,
            capacity,
        })
    }

    /// Tells the programs of the node they run on.
    ///
    /// # Errors
    /// When the kernel does not say its ports, or the map cannot be written.
    pub fn describe(&self, node: &Node) -> Result<(), BpfError> {
        node::describe(&self.object, node)
    }

    /// The tables of a family, for whoever writes them.
    ///
    /// # Errors
    /// When the process has no descriptor left, or no room for a mapping.
    pub fn tables<A: Family>(&self) -> Result<BpfTables<A>, BpfError> {
        BpfTables::open(&self.object, self.capacity)
    }

    /// The policy maps, for whoever writes them.
    ///
    /// # Errors
    /// As [`Dataplane::tables`].
    pub fn policies(&self) -> Result<PolicyTables, BpfError> {
        PolicyTables::open(&self.object, &self.capacity)
    }

    /// The egress maps, for whoever writes them.
    ///
    /// # Errors
    /// As [`Dataplane::tables`].
    pub fn egress(&self) -> Result<EgressTables, BpfError> {
        EgressTables::open(&self.object)
    }

    /// Whom each socket has named, and got, by the socket's number (`SO_COOKIE`).
    /// None while the programs are not loaded.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn named(&self) -> Result<HashMap<u64, Peers>, BpfError> {
        self.object.named()
    }

    /// The flows of a family.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn flows<A: Family>(&self) -> Result<Flows<A>, BpfError> {
        Flows::open(&self.object)
    }

    pub fn hook(&self) -> Hook {
        self.links.hook()
    }

    /// The hooks in use, joined by `+`.
    pub fn hooks(&self) -> String {
        let mut names = self.hook().name().to_owned();
        for (program, hook) in [(UPLINK_XDP, Hook::Xdp), (SOCKETS[0], Hook::Cgroup)] {
            if self.attached().any(|held| held.program == program) {
                names = format!("{names}+{}", hook.name());
            }
        }
        names
    }

    pub fn has_xdp(&self) -> bool {
        self.attached().any(|held| held.program == UPLINK_XDP)
    }

    pub fn attached(&self) -> impl Iterator<Item = &Attachment> {
        self.links.held()
    }

    /// Whether this agent, or one before it, has put a program at its place.
    pub fn has_pin(&self, attachment: &Attachment) -> bool {
        self.links.path(attachment).exists()
    }

    /// Puts a program at its place of an interface.
    ///
    /// # Errors
    /// When the interface is gone, or the kernel refuses.
    pub fn attach(&mut self, attachment: Attachment) -> Result<(), BpfError> {
        self.links.attach(&self.object, attachment)
    }

    /// What attaches the programs of a container beside this.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn fitter(&self) -> Result<Fitter, BpfError> {
        self.links.fitter(&self.object)
    }

    /// Looks after what was attached so.
    pub fn hold(&mut self, fitted: Fitted) {
        self.links.hold(fitted);
    }

    /// What is at an interface that is about to be deleted.
    pub fn let_go(&mut self, ifindex: u32) -> Fitted {
        self.links.let_go(ifindex)
    }

    /// Loads the programs for sockets and attaches them.
    ///
    /// # Errors
    /// When the kernel refuses, or knows no unified cgroups.
    pub fn attach_sockets(&mut self) -> Result<(), BpfError> {
        self.object.load_sockets(&self.capacity)?;
        SOCKETS.into_iter().try_for_each(|program| self.attach(Attachment::sockets(program)))
    }

    /// Makes [`Dataplane::named`] possible.
    ///
    /// # Errors
    /// When the kernel refuses, or does not describe itself (BTF).
    pub fn list_sockets(&mut self) -> Result<(), BpfError> {
        self.object.load_sock_list(&self.capacity)
    }

    /// Takes whatever we put there off an interface.
    ///
    /// # Errors
    /// When the kernel refuses; an interface that is gone is no error.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.links.detach(ifindex)
    }

    /// Puts back links and pins that somebody took away: what was repaired, and
    /// what could not be.
    pub fn audit_links(&mut self) -> (Vec<String>, Vec<BpfError>) {
        let (mut repaired, mut errors) = self.links.audit(&self.object);
        let pins = self.object.audit_pins();
        repaired.extend(pins.0);
        errors.extend(pins.1);
        (repaired, errors)
    }

    /// Removes links that an earlier agent left at interfaces where this one
    /// has attached nothing.
    ///
    /// # Errors
    /// All that could not be removed; everything is tried.
    pub fn prune_links(&mut self) -> Result<(), BpfError> {
        self.links.prune()
    }

    /// The loaded program that is attached at an interface, for a trace.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn program_at(&self, ifindex: u32) -> Result<Option<OwnedFd>, BpfError> {
        let mut held = self.links.held();
        let attachment = held.find(|held| held.ifindex == ifindex && held.is_ingress());
        attachment.map(|attachment| self.object.program(attachment.program)).transpose()
    }

    /// Detaches everything and removes every pin.
    ///
    /// # Errors
    /// All that could not be removed; everything is tried.
    pub fn uninstall(mut self) -> Result<(), BpfError> {
        let mut errors = Vec::new();
        errors.extend(self.links.detach_all().err());
        errors.extend(self.pins.remove().err());
        BpfError::collect(errors)
    }
}

#[cfg(test)]
mod tests;
