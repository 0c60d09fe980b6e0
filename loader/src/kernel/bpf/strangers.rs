//! Whose programs are at an interface? Ours are known by the pins of their
//! links; all is only looked at.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{
    bpffs, cgroup,
    links::Hook,
    sys::{self, Direction},
    tc,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Ours,
    Stranger,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: u32,
    pub name: String,
    pub owner: Owner,
}

/// What is at an interface's ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Whether the kernel has tcx; else filters are what there is.
    pub tcx_exists: bool,
    /// In the order in which they run.
    pub tcx: Vec<Found>,
    /// Filters that are not ours; they run after tcx.
    pub filters: Vec<Found>,
    pub xdp: Option<Found>,
}

/// What there is at an interface; `xdp`: the program that its driver or the
/// stack runs, as rtnetlink has it.
///
/// # Errors
/// When the kernel does not say; without CAP_BPF.
pub fn hooks(root: &Path, ifindex: u32, xdp: Option<u32>) -> io::Result<Hooks> {
    let (links, programs) = ours(root);
    let found = |id: u32, is_ours: bool| Found {
        id,
        name: name(id),
        owner: if is_ours { Owner::Ours } else { Owner::Stranger },
    };
    let tcx_exists = Hook::probe() == Hook::Tcx;
    let tcx = if tcx_exists { sys::tcx_query(ifindex, Direction::Ingress)? } else { Vec::new() };
    let filters = tc::foreign_filters(ifindex, Direction::Ingress)?;
    Ok(Hooks {
        tcx_exists,
        tcx: tcx.into_iter().map(|(program, link)| found(program, links.contains(&link))).collect(),
        filters: filters.into_iter().map(|program| found(program, false)).collect(),
        xdp: xdp.map(|program| found(program, programs.contains(&program))),
    })
}

/// Links and filters that an agent has pinned under its directory.
pub fn pins(root: &Path) -> Vec<String> {
    let mut names = bpffs::names(&root.join("links")).unwrap_or_default();
    names.sort_unstable();
    names
}

/// Whether a directory is, or would be made, in a BPF file system.
pub fn is_bpffs(root: &Path) -> bool {
    let there = root.ancestors().find(|path| path.exists());
    there.is_some_and(|path| bpffs::is_bpffs(path).unwrap_or(false))
}

/// Whether the unified hierarchy of cgroups is mounted.
pub fn has_cgroups() -> bool {
    cgroup::root().is_ok()
}

/// Ids of our links, and of the programs that they run.
fn ours(root: &Path) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let path = |name: String| -> PathBuf { root.join("links").join(name) };
    let links = pins(root).into_iter().filter_map(|name| sys::open(&path(name)).ok());
    let infos = links.filter_map(|link: OwnedFd| sys::info::<sys::LinkInfo>(&link).ok());
    infos.map(|info| (info.id, info.program)).unzip()
}

/// Of a loaded program; empty when it is gone.
fn name(id: u32) -> String {
    let program = sys::program_by_id(id).and_then(|program| sys::info::<sys::ProgramName>(&program));
    let bytes = program.map(|info| info.name).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}
