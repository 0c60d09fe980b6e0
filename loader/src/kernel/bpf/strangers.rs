//! Whose programs are at an interface? Ours are known by the pins of their
//! links; all is only looked at.

use std::{collections::BTreeSet, io, path::Path};

use super::{
    bpffs::{self, Pins},
    cgroup,
    links::{self, Hook},
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
    /// By tcx, and then by filters, in the order in which they run.
    pub programs: Vec<Found>,
    pub xdp: Option<Found>,
}

/// What there is at an interface; `xdp`: the program that its driver or the
/// stack runs, as rtnetlink has it.
///
/// # Errors
/// When the kernel does not say; without CAP_BPF.
pub fn hooks(root: &Path, ifindex: u32, xdp: Option<u32>) -> io::Result<Hooks> {
    let (links, ours) = ours(root)?;
    let found = |id: u32, is_ours: bool| Found {
        id,
        name: name(id),
        owner: if is_ours { Owner::Ours } else { Owner::Stranger },
    };
    let has_tcx = Hook::probe() == Hook::Tcx;
    let tcx = if has_tcx { sys::tcx_query(ifindex, Direction::Ingress)? } else { Vec::new() };
    let tcx = tcx.into_iter().map(|(program, link)| found(program, links.contains(&link)));
    let filters = tc::programs_in_filters(ifindex, Direction::Ingress)?;
    let filters = filters.into_iter().map(|(program, is_ours)| found(program, is_ours));
    Ok(Hooks {
        programs: tcx.chain(filters).collect(),
        xdp: xdp.map(|program| found(program, ours.contains(&program))),
    })
}

/// Programs that an agent has attached and pinned under its directory, and the
/// interfaces where they are.
///
/// # Errors
/// When it cannot be read.
pub fn pins(root: &Path) -> io::Result<Vec<(String, u32)>> {
    let mut names = bpffs::names(&Pins::at(root).links())?;
    names.sort_unstable();
    let parts = names.iter().filter_map(|name| links::parts(name));
    Ok(parts.map(|(program, ifindex)| (program.to_owned(), ifindex)).collect())
}

/// Whether the unified hierarchy of cgroups is mounted.
pub fn has_cgroups() -> bool {
    cgroup::root().is_ok()
}

/// Ids of our links, and of the programs that they run.
fn ours(root: &Path) -> io::Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let directory = Pins::at(root).links();
    let links =
        bpffs::names(&directory)?.into_iter().filter_map(|name| sys::open(&directory.join(name)).ok());
    let infos = links.filter_map(|link| sys::info::<sys::LinkInfo>(&link).ok());
    Ok(infos.map(|info| (info.id, info.program)).unzip())
}

/// Of a loaded program; empty when it is gone.
fn name(id: u32) -> String {
    let program = sys::program_by_id(id).and_then(|program| sys::info::<sys::ProgramName>(&program));
    let bytes = program.map(|info| info.name).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}
