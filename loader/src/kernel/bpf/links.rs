//! How do the programs get packets? By a tcx link at the ingress of each
//! interface, and one at the egress where the node itself may answer, pinned; on
//! kernels before 6.6 by filters of a clsact qdisc. XDP programs have a link to
//! the interface's driver, those for sockets one to the root of the cgroups.
//!
//! `links/PROGRAM-IFINDEX` is the pin of the link. For a filter, which cannot
//! be pinned, it is a directory that remembers it, and in it `qdisc` when the
//! qdisc is ours too.

use std::{collections::BTreeMap, fs, io, os::fd::OwnedFd, path::Path, path::PathBuf};

use super::{
    BpfError,
    bpffs::{self, Pins},
    cgroup,
    fitter::{Fitted, Fitter},
    object::{FROM_CONTAINER, FROM_HOST, Object, UPLINK_XDP},
    sys::{self, Direction},
    tc,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Tcx,
    Clsact,
    Xdp,
    Cgroup,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Hook::Tcx => "tcx",
            Hook::Clsact => "clsact",
            Hook::Xdp => "xdp",
            Hook::Cgroup => "sockets",
        }
    }

    /// What this kernel offers.
    pub(super) fn probe() -> Self {
        // Kernels without tcx do not know the query. Interface 1 is lo; were
        // it missing, the error would be another.
        match sys::tcx_query(1, Direction::Ingress) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                Hook::Clsact
            }
            _ => Hook::Tcx,
        }
    }
}

/// An interface and a program at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub program: &'static str,
    pub ifindex: u32,
    pub interface: String,
}

impl Attachment {
    /// What a container's interface on the host's side has.
    pub fn of_container(ifindex: u32, interface: &str) -> [Self; 2] {
        let at = |program| Self { program, ifindex, interface: interface.to_owned() };
        [at(FROM_CONTAINER), at(FROM_HOST)]
    }

    /// Whether it sees what comes in by its interface, as the host would.
    pub fn is_ingress(&self) -> bool {
        self.program != UPLINK_XDP && direction(self.program) == Direction::Ingress
    }

    /// A program for sockets: at all of them, and no interface.
    pub fn sockets(program: &'static str) -> Self {
        Self { program, ifindex: 0, interface: "the root cgroup".into() }
    }
}

pub struct Links {
    /// Of all programs but those for XDP and for sockets.
    hook: Hook,
    pins: Pins,
    /// The link, where the hook has one: kept open, so that it outlives its pin.
    held: BTreeMap<Attachment, Option<OwnedFd>>,
}

impl Links {
    pub(super) fn new(pins: Pins, force_clsact: bool) -> Self {
        let hook = if force_clsact { Hook::Clsact } else { Hook::probe() };
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
    pub(super) fn attach(&mut self, object: &Object, attachment: Attachment) -> Result<(), BpfError> {
        let held = self.held.get(&attachment).and_then(Option::as_ref);
        let program = object.program(attachment.program)?;
        let link = put(self.hook_of(&attachment), &self.pins, &program, &attachment, held)?;
        self.insert(attachment, link);
        Ok(())
    }

    /// What attaches the programs of a container beside this.
    pub(super) fn fitter(&self, object: &Object) -> Result<Fitter, BpfError> {
        Fitter::new(self.hook, self.pins.clone(), object)
    }

    pub(super) fn hold(&mut self, fitted: Fitted) {
        fitted.into_links().into_iter().for_each(|(attachment, link)| self.insert(attachment, link));
    }

    /// What stands at an interface is no concern of this any more.
    pub(super) fn let_go(&mut self, ifindex: u32) -> Fitted {
        let links = self.held.extract_if(.., |held, _| held.ifindex == ifindex).collect();
        Fitted::new(links, self.pins.clone())
    }

    fn insert(&mut self, attachment: Attachment, link: Option<OwnedFd>) {
        let same =
            |other: &Attachment| (other.program, other.ifindex) == (attachment.program, attachment.ifindex);
        // The interface may have had another name.
        self.held.retain(|other, _| !same(other));
        self.held.insert(attachment, link);
    }

    /// Puts back what somebody took away; says what it was.
    pub(super) fn audit(&mut self, object: &Object) -> (Vec<String>, Vec<BpfError>) {
        let mut repaired = Vec::new();
        let mut errors = Vec::new();
        let attachments: Vec<Attachment> = self.held.keys().cloned().collect();
        for attachment in attachments {
            let Some(fault) = self.fault_of(object, &attachment) else { continue };
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

    /// Takes whatever is ours off an interface; absent is fine.
    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        self.remove(|_, of| of == Some(ifindex))
    }

    /// Removes what an earlier agent attached and this one has not taken over.
    pub(super) fn prune(&mut self) -> Result<(), BpfError> {
        let held: Vec<_> = self.held.keys().map(|held| (held.program, Some(held.ifindex))).collect();
        self.remove(|program, of| !held.contains(&(program, of)))
    }

    /// Detaches everything, whoever pinned it under our directory.
    pub(super) fn detach_all(&mut self) -> Result<(), BpfError> {
        self.remove(|_, _| true)
    }

    /// Removes chosen attachments, by program and interface; `None` stands for
    /// a name that is none of ours.
    fn remove(&mut self, chosen: impl Fn(&str, Option<u32>) -> bool) -> Result<(), BpfError> {
        let mut errors = Vec::new();
        let gone = self.held.extract_if(.., |held, _| chosen(held.program, Some(held.ifindex)));
        for link in gone.filter_map(|(_, link)| link) {
            // Its pin may be missing. A link whose interface is gone is
            // detached already.
            let _ = sys::link_detach(&link);
        }
        let directory = self.pins.links();
        let names =
            bpffs::names(&directory).map_err(BpfError::call("list", directory.display().to_string()))?;
        for name in names {
            let parts = parts(&name);
            if chosen(parts.map_or("", |(program, _)| program), parts.map(|(_, ifindex)| ifindex)) {
                let path = directory.join(&name);
                let removed = remove(&path);
                errors.extend(removed.map_err(BpfError::call("detach", path.display().to_string())).err());
            }
        }
        BpfError::collect(errors)
    }

    pub(super) fn path(&self, attachment: &Attachment) -> PathBuf {
        path(&self.pins, attachment)
    }

    fn hook_of(&self, attachment: &Attachment) -> Hook {
        match attachment.program {
            UPLINK_XDP => Hook::Xdp,
            program if cgroup::attach_type(program).is_some() => Hook::Cgroup,
            _ => self.hook,
        }
    }

    fn fault_of(&self, object: &Object, attachment: &Attachment) -> Option<&'static str> {
        let path = self.path(attachment);
        let program = object.program(attachment.program).ok()?;
        let wanted = sys::info::<sys::ProgramInfo>(&program).ok()?.id;
        let (there, remembered) = match self.held.get(attachment)? {
            Some(link) => {
                (link_at(link, attachment, self.hook_of(attachment)), id_of(link) == pinned_id(&path))
            }
            None => {
                let at = direction(attachment.program);
                (tc::program_in_filter(attachment.ifindex, at).ok().flatten(), path.is_dir())
            }
        };
        match there {
            None => Some("detached"),
            Some(id) if id != wanted => Some("program replaced"),
            Some(_) if !remembered => Some("pin missing"),
            Some(_) => None,
        }
    }
}

pub(super) fn path(pins: &Pins, attachment: &Attachment) -> PathBuf {
    pins.links().join(format!("{}-{}", attachment.program, attachment.ifindex))
}

/// Puts a program at its place; the link, where the hook has one. `held` is that of
/// an earlier time.
pub(super) fn put(
    hook: Hook,
    pins: &Pins,
    program: &OwnedFd,
    attachment: &Attachment,
    held: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>, BpfError> {
    let path = path(pins, attachment);
    let failed = || BpfError::call("attach to", attachment.interface.clone());
    if hook == Hook::Clsact {
        attach_clsact(program, attachment, &path).map_err(failed())?;
        return Ok(None);
    }
    // Ours, though its pin may be gone; else the pinned one.
    for link in [held.and_then(|link| link.try_clone().ok()), sys::open(&path).ok()].into_iter().flatten() {
        if link_at(&link, attachment, hook).is_some() && sys::link_update(&link, program).is_ok() {
            if id_of(&link) != pinned_id(&path) {
                bpffs::publish(&link, &path)?;
            }
            return Ok(Some(link));
        }
    }
    let created = match (hook, cgroup::attach_type(attachment.program)) {
        (_, Some(kind)) => cgroup::root().and_then(|root| sys::cgroup_create(program, &root, kind)),
        (Hook::Xdp, None) => sys::xdp_create(program, attachment.ifindex),
        _ => sys::tcx_create(program, attachment.ifindex, direction(attachment.program)),
    };
    let link = created.map_err(failed())?;
    if path.is_dir() {
        // A filter of an agent that used the other hook.
        remove(&path).map_err(failed())?;
    }
    bpffs::publish(&link, &path)?;
    Ok(Some(link))
}

/// Where a program is put.
fn direction(program: &str) -> Direction {
    if program == FROM_HOST { Direction::Egress } else { Direction::Ingress }
}

/// Id of the program that the link runs at this interface of this network
/// namespace; an index alone may be another interface's.
fn link_at(link: &OwnedFd, attachment: &Attachment, hook: Hook) -> Option<u32> {
    let ifindex = attachment.ifindex;
    let sys::LinkInfo { id, program, target, .. } = sys::info(link).ok()?;
    match hook {
        // A driver has one program, and no list of links to look into.
        Hook::Xdp => (target == ifindex).then_some(program),
        Hook::Cgroup => (target != 0).then_some(program),
        Hook::Tcx | Hook::Clsact => {
            let there = sys::tcx_query(ifindex, direction(attachment.program)).ok()?;
            there.into_iter().find(|(_, link)| *link == id).map(|(program, _)| program)
        }
    }
}

fn id_of(link: &OwnedFd) -> Option<u32> {
    sys::info::<sys::LinkInfo>(link).ok().map(|info| info.id)
}

fn pinned_id(path: &Path) -> Option<u32> {
    sys::open(path).ok().as_ref().and_then(id_of)
}

fn attach_clsact(program: &OwnedFd, attachment: &Attachment, path: &Path) -> io::Result<()> {
    // Whoever of ours leaves last takes it away.
    let is_ours = tc::add_clsact(attachment.ifindex)? || has_our_qdisc(path, attachment.ifindex)?;
    tc::set_filter(attachment.ifindex, direction(attachment.program), program, attachment.program)?;
    if path.is_file() {
        // A link of an agent that used the other hook.
        remove(path)?;
    }
    fs::create_dir_all(if is_ours { path.join("qdisc") } else { path.to_owned() })
}

/// Whether another filter at the interface has remembered that the qdisc is ours.
fn has_our_qdisc(path: &Path, ifindex: u32) -> io::Result<bool> {
    let Some(directory) = path.parent() else { return Ok(false) };
    let mut names = bpffs::names(directory)?.into_iter();
    let of_it = |name: &String| parts(name).is_some_and(|(_, of)| of == ifindex);
    Ok(names.any(|name| of_it(&name) && directory.join(name).join("qdisc").is_dir()))
}

/// Program and interface of an entry of the directory.
pub(super) fn parts(name: &str) -> Option<(&str, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    Some((program, ifindex.parse().ok()?))
}

/// Detaches what an entry of the directory stands for, and removes the entry.
fn remove(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        if let Ok(link) = sys::open(path) {
            // Detached already when its interface has gone.
            let _ = sys::link_detach(&link);
        }
        return bpffs::remove_file(path);
    }
    let name = path.file_name().and_then(|name| name.to_str()).and_then(parts);
    let (program, ifindex) = name.unwrap_or_default();
    tc::remove_filter(ifindex, direction(program))?;
    let qdisc = path.join("qdisc");
    if qdisc.is_dir() {
        tc::remove_clsact_if_empty(ifindex)?;
        fs::remove_dir(qdisc)?;
    }
    fs::remove_dir(path)
}
