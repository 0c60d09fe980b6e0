//! How is a program attached where tcx is missing (kernels before 6.6)? As a
//! filter in one half of a clsact qdisc, by rtnetlink.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use super::{
    super::message::{Message, attribute_of, word},
    sys::Direction::{self, Egress, Ingress},
};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const FLAG_ACT_DIRECT: u32 = 1;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

impl Direction {
    /// That half of the qdisc.
    fn parent(self) -> u32 {
        match self {
            Direction::Ingress => 0xffff_fff2,
            Direction::Egress => 0xffff_fff3,
        }
    }
}

/// Before any other filter, as our tcx link is before any other link.
const PRIORITY: u32 = 1;
/// Ours at that priority.
const HANDLE: u32 = 0xca5e;
/// Length of `tcmsg`.
const TCMSG: usize = 20;

/// True when it was not there before.
pub fn add_clsact(ifindex: u32) -> io::Result<bool> {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = request(RTM_NEWQDISC, create, ifindex, CLSACT_HANDLE, CLSACT, 0);
    request.attribute(TCA_KIND, b"clsact\0");
    match request.send(libc::NETLINK_ROUTE) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the qdisc unless somebody's filters are in it; absent is fine.
pub fn remove_clsact_if_empty(ifindex: u32) -> io::Result<()> {
    if !filters(ifindex, Ingress)?.is_empty() || !filters(ifindex, Egress)?.is_empty() {
        return Ok(());
    }
    absent_is_fine(
        request(RTM_DELQDISC, 0, ifindex, CLSACT_HANDLE, CLSACT, 0).send(libc::NETLINK_ROUTE).map(drop),
    )
}

/// Sets our filter at the interface: makes it, or exchanges its program in one
/// step.
pub fn set_filter(ifindex: u32, at: Direction, program: &impl AsFd, name: &str) -> io::Result<()> {
    let (create, parent) = (libc::NLM_F_CREATE, at.parent());
    let mut request = request(RTM_NEWTFILTER, create, ifindex, HANDLE, parent, match_all(PRIORITY));
    request.attribute(TCA_KIND, b"bpf\0");
    let options = request.begin(TCA_OPTIONS);
    request.attribute(TCA_BPF_FD, &program.as_fd().as_raw_fd().to_ne_bytes());
    request.attribute(TCA_BPF_NAME, &[name.as_bytes(), b"\0"].concat());
    request.attribute(TCA_BPF_FLAGS, &FLAG_ACT_DIRECT.to_ne_bytes());
    request.end(options);
    request.send(libc::NETLINK_ROUTE).map(drop)
}

/// Absent is fine.
pub fn remove_filter(ifindex: u32, at: Direction) -> io::Result<()> {
    let request = request(RTM_DELTFILTER, 0, ifindex, HANDLE, at.parent(), match_all(PRIORITY));
    absent_is_fine(request.send(libc::NETLINK_ROUTE).map(drop))
}

/// Id of the program in our filter, if it is there.
pub fn program_in_filter(ifindex: u32, at: Direction) -> io::Result<Option<u32>> {
    let filters = filters(ifindex, at)?;
    Ok(filters
        .into_iter()
        .find(|filter| filter.priority == PRIORITY && filter.handle == HANDLE)
        .map(|f| f.program))
}

/// Ids of the programs in filters, as they run, and whether they stand where ours
/// does; 0 for a filter of another kind.
pub fn programs_in_filters(ifindex: u32, at: Direction) -> io::Result<Vec<(u32, bool)>> {
    let is_ours = |filter: &Filter| filter.priority == PRIORITY && filter.handle == HANDLE;
    Ok(filters(ifindex, at)?.into_iter().map(|filter| (filter.program, is_ours(&filter))).collect())
}

struct Filter {
    priority: u32,
    handle: u32,
    program: u32,
}

fn filters(ifindex: u32, at: Direction) -> io::Result<Vec<Filter>> {
    let answers = match request(RTM_GETTFILTER, libc::NLM_F_DUMP, ifindex, 0, at.parent(), 0)
        .send(libc::NETLINK_ROUTE)
    {
        // Without the qdisc there is no such parent.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for answer in answers.iter().filter(|answer| answer.len() >= TCMSG) {
        let handle = word(answer, 8);
        // A dump also names each priority, as a filter without a handle.
        if handle == 0 {
            continue;
        }
        let options = attribute_of(&answer[TCMSG..], TCA_OPTIONS).unwrap_or_default();
        let program =
            attribute_of(options, TCA_BPF_ID).filter(|id| id.len() >= 4).map_or(0, |id| word(id, 0));
        found.push(Filter { priority: word(answer, 16) >> 16, handle, program });
    }
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// `tcm_info` of a filter for every protocol.
fn match_all(priority: u32) -> u32 {
    priority << 16 | u32::from((libc::ETH_P_ALL as u16).to_be())
}

/// With a `tcmsg` of no family.
fn request(kind: u16, flags: libc::c_int, ifindex: u32, handle: u32, parent: u32, info: u32) -> Message {
    let header: Vec<u8> = [0, ifindex, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect();
    Message::new(kind, flags, &header)
}
