//! How do the programs get packets? By a tcx link at the ingress of each
//! interface, pinned; on kernels before 6.6 by a filter of a clsact qdisc.

use std::{collections::BTreeMap, io, os::fd::OwnedFd, path::PathBuf};

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};

use super::{
    BpfError,
    bpffs::{self, Pins},
    object::Object,
    sys,
};

/// Ours among the filters of a clsact qdisc.
const PRIORITY: u16 = 2020;
const HANDLE: TcHandle = TcHandle::new(0, 0xca5e);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tcx,
    Clsact,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Hook::Tcx => "tcx",
            Hook::Clsact => "clsact",
        }
    }
}

/// An interface and the program at its ingress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub program: &'static str,
    pub ifindex: u32,
    pub interface: String,
}

pub struct Links {
    hook: Hook,
    pins: Pins,
    /// The link, where the hook has one.
    held: BTreeMap<Attachment, Option<OwnedFd>>,
}

impl Links {
    pub(super) fn new(pins: Pins, force_clsact: bool) -> Self {
        // Kernels without tcx do not know the query (EINVAL). Interface 1 is
        // always there: lo.
        let hook = if force_clsact || sys::tcx_query(1).is_err() { Hook::Clsact } else { Hook::Tcx };
        Self { hook, pins, held: BTreeMap::new() }
    }

    pub fn hook(&self) -> Hook {
        self.hook
    }

    pub fn held(&self) -> impl Iterator<Item = &Attachment> {
        self.held.keys()
    }

    /// Puts the program at the interface, in place of what an earlier agent
    /// left there, without a gap.
    pub(super) fn attach(&mut self, object: &mut Object, attachment: Attachment) -> Result<(), BpfError> {
        let link = match self.hook {
            Hook::Tcx => Some(self.attach_tcx(object, &attachment)?),
            Hook::Clsact => {
                attach_clsact(object, &attachment)?;
                None
            }
        };
        self.held.insert(attachment, link);
        Ok(())
    }

    /// Puts back what somebody took away; says what it was.
    pub(super) fn audit(&mut self, object: &mut Object) -> (Vec<String>, Vec<BpfError>) {
        let mut repaired = Vec::new();
        let mut errors = Vec::new();
        let attachments: Vec<Attachment> = self.held.keys().cloned().collect();
        for attachment in attachments {
            // A filter cannot be looked at without a link: it is set again at
            // every start, and `causeway doctor` will tell.
            let Some(Some(link)) = self.held.get(&attachment) else { continue };
            let Some(fault) = self.fault_of(link, object, &attachment) else { continue };
            match self.attach(object, attachment.clone()) {
                Ok(()) => repaired.push(format!(
                    "link {} at {}: {fault}, put back",
                    attachment.program, attachment.interface
                )),
                Err(error) => errors.push(error),
            }
        }
        (repaired, errors)
    }

    /// Takes the program off an interface; absent is fine.
    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let gone: Vec<Attachment> =
            self.held.keys().filter(|attachment| attachment.ifindex == ifindex).cloned().collect();
        for attachment in gone {
            let path = self.path(&attachment);
            if let Some(Some(link)) = self.held.remove(&attachment) {
                match sys::link_detach(&link) {
                    // The interface took the link with it.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                    other => other.map_err(BpfError::call("detach", path.display().to_string()))?,
                }
            } else if self.hook == Hook::Clsact {
                detach_clsact(&attachment);
            }
            bpffs::remove_file(&path).map_err(BpfError::call("remove", path.display().to_string()))?;
        }
        Ok(())
    }

    /// Detaches everything, whoever pinned it under our directory.
    pub(super) fn detach_all(&mut self) -> Result<(), BpfError> {
        let mut errors = Vec::new();
        let interfaces: Vec<u32> = self.held.keys().map(|attachment| attachment.ifindex).collect();
        for ifindex in interfaces {
            errors.extend(self.detach(ifindex).err());
        }
        let directory = self.pins.links();
        for name in bpffs::names(&directory).unwrap_or_default() {
            let path = directory.join(name);
            if let Ok(link) = sys::open(&path) {
                // Detached already when its interface has gone.
                let _ = sys::link_detach(&link);
            }
            let removed = bpffs::remove_file(&path);
            errors.extend(removed.map_err(BpfError::call("remove", path.display().to_string())).err());
        }
        BpfError::collect(errors)
    }

    fn path(&self, attachment: &Attachment) -> PathBuf {
        self.pins.links().join(format!("{}-{}", attachment.program, attachment.ifindex))
    }

    fn attach_tcx(&self, object: &Object, attachment: &Attachment) -> Result<OwnedFd, BpfError> {
        let path = self.path(attachment);
        let program = object.program(attachment.program)?;
        if let Ok(link) = sys::open(&path) {
            // An old link may be of an interface that had this index before.
            let current =
                sys::info::<sys::LinkInfo>(&link).is_ok_and(|info| info.ifindex == attachment.ifindex);
            if current && sys::link_update(&link, &program).is_ok() {
                return Ok(link);
            }
        }
        let link = sys::tcx_create(&program, attachment.ifindex)
            .map_err(BpfError::call("attach to", attachment.interface.clone()))?;
        bpffs::publish(&link, &path)?;
        Ok(link)
    }

    fn fault_of(&self, link: &OwnedFd, object: &Object, attachment: &Attachment) -> Option<&'static str> {
        let info = match sys::info::<sys::LinkInfo>(link) {
            Ok(info) if info.ifindex != 0 => info,
            _ => return Some("detached"),
        };
        let pinned = sys::open(&self.path(attachment)).and_then(|pinned| sys::info::<sys::LinkInfo>(&pinned));
        if pinned.map(|pinned| pinned.id).ok() != Some(info.id) {
            return Some("pin missing");
        }
        let ours = object.program(attachment.program).ok();
        let ours = ours.and_then(|program| sys::info::<sys::ProgramInfo>(&program).ok());
        (ours.map(|ours| ours.id) != Some(info.program)).then_some("program replaced")
    }
}

fn classifier<'a>(object: &'a mut Object, name: &'static str) -> Result<&'a mut SchedClassifier, BpfError> {
    let missing = || BpfError::Missing { kind: "program", name: name.into() };
    object.ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn attach_clsact(object: &mut Object, attachment: &Attachment) -> Result<(), BpfError> {
    let failed = |cause: io::Error| BpfError::call("attach to", attachment.interface.clone())(cause);
    match qdisc_add_clsact(&attachment.interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) => return Err(failed(io::Error::other(error))),
    }
    let program = classifier(object, attachment.program)?;
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let fresh = program.attach_with_options(
        &attachment.interface,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(options),
    );
    let id = match fresh {
        Ok(id) => id,
        // Our filter of an earlier agent: the program is exchanged in place.
        Err(_) => {
            let old = existing(attachment).map_err(|error| failed(io::Error::other(error)))?;
            program.attach_to_link(old).map_err(|error| failed(io::Error::other(error)))?
        }
    };
    let link = program.take_link(id).map_err(|error| failed(io::Error::other(error)))?;
    // Dropped, it would take the filter away; the filter outlives the agent.
    std::mem::forget(link);
    Ok(())
}

fn existing(attachment: &Attachment) -> Result<SchedClassifierLink, TcError> {
    SchedClassifierLink::attached(&attachment.interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
        .map_err(TcError::IoError)
}

fn detach_clsact(attachment: &Attachment) {
    // Dropping the link deletes the filter; one that has gone is fine.
    drop(existing(attachment));
}
