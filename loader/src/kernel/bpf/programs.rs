//! How do programs get into the kernel? Past the verifier, which is most of an
//! agent's start; or they are there already, since an earlier agent of the same
//! build.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Btf, Ebpf,
    maps::MapInfo,
    programs::{Program, ProgramError, ProgramInfo},
};

use causeway_schema::SOCK_LISTED;

use super::{BpfError, bpffs::Pins, sys};

/// Programs by name.
pub type Loaded = Vec<(&'static str, OwnedFd)>;

/// The pinned ones of this build; `None` unless all are there, work on these
/// maps, by id (whoever has put another map in a pin's place wants new programs),
/// and are of one load: those of two have maps of their own under the same name.
pub fn inherit(pins: &Pins, names: &[&'static str], maps: &BTreeSet<u32>) -> Option<Loaded> {
    let mut used = BTreeSet::new();
    let mut programs = Vec::new();
    for &name in names {
        let path = pins.programs().join(name);
        let info = ProgramInfo::from_pin(&path).ok()?;
        // The kernel keeps so much of a name.
        let is_it = info.name_as_str()? == &name[..name.len().min(15)];
        used.extend(info.map_ids().ok()?.filter(|_| is_it)?);
        programs.push((name, sys::open(&path).ok()?));
    }
    let names: Option<BTreeSet<String>> = used.iter().copied().map(map_name).collect();
    (maps.is_subset(&used) && names?.len() == used.len()).then_some(programs)
}

fn map_name(id: u32) -> Option<String> {
    MapInfo::from_id(id).ok()?.name_as_str().map(str::to_owned)
}

/// Each on a thread of its own: most of an agent's start is the verifier, and
/// for a privileged process it runs on all CPUs.
pub fn load(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<Loaded, BpfError> {
    let missing = |name: &str| BpfError::Missing { kind: "program", name: name.into() };
    let mut found: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| Some((*names.iter().find(|wanted| **wanted == name)?, program)))
        .collect();
    if let Some(name) = names.iter().find(|name| !found.iter().any(|(there, _)| there == *name)) {
        return Err(missing(name));
    }
    std::thread::scope(|scope| {
        let loads: Vec<_> = found
            .iter_mut()
            .map(|(name, program)| (*name, scope.spawn(|| load_program(program, name))))
            .collect();
        loads
            .into_iter()
            .map(|(name, load)| {
                let loaded = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok((name, loaded?))
            })
            .collect()
    })
}

fn load_program(program: &mut Program, name: &'static str) -> Result<OwnedFd, BpfError> {
    let missing = || BpfError::Missing { kind: "program", name: name.into() };
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::Iter(program) => Btf::from_sys_fs()
            .map_err(ProgramError::from)
            .and_then(|kernel| program.load(SOCK_LISTED, &kernel)),
        _ => return Err(missing()),
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            BpfError::Verifier { program: name, cause: io_error, log: end_of(&verifier_log.to_string()) }
        }
        other => BpfError::Object { step: "load a program of", cause: Box::new(other) },
    })?;
    let fd = program.fd().map_err(|_| missing())?;
    fd.as_fd().try_clone_to_owned().map_err(BpfError::call("duplicate the descriptor of", name))
}

/// The last lines of the verifier's log, where the reason stands.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
