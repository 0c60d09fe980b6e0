//! Which flows did this CPU just see? A direct-mapped cache of established
//! flows in front of the flow table: a hit costs an array lookup and a
//! comparison where the table costs a hash.
//!
//! A line is a copy, so it holds only while no entry has left the table since
//! it was filled (the epoch), and only for packets that change nothing: SYN,
//! FIN and RST, and once a second any packet, go to the table itself.

use core::arch::asm;

use aya_ebpf::maps::Array;
use causeway_schema::{Flow, FlowKey, TraceRecord, flow::flags};

use crate::{family::Family, flow, maps, packet::Packet, service};

/// Lines per CPU; a power of two.
pub const LINES: u32 = 16_384;

/// One cache line (for IPv4).
#[repr(C, align(8))]
pub struct Line<A> {
    pub epoch: u64,
    pub key: FlowKey<A>,
    pub flow: Flow<A>,
}

/// Raised after an entry has left the table of established flows.
#[inline(always)]
pub fn invalidate() {
    raise(&maps::FLOW_EPOCH);
}

/// Adds one to what all CPUs count together.
#[inline(always)]
pub fn raise(counter: &Array<u64>) {
    if let Some(count) = counter.get_ptr_mut(0) {
        // SAFETY: the row lives as long as the map. `core` has no atomic
        // addition for this target; the instruction set has.
        unsafe { asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1_u64) };
    }
}

/// Read it before the table: a line filled from an entry that leaves meanwhile
/// is then already out of date.
#[inline(always)]
pub fn epoch() -> u64 {
    match maps::FLOW_EPOCH.get_ptr(0) {
        // SAFETY: as above.
        Some(epoch) => unsafe { core::ptr::read_volatile(epoch) },
        None => 0,
    }
}

/// The flow of a packet that this CPU has seen within the second.
#[inline(always)]
pub fn find<A: Family>(packet: &Packet<A>, ifindex: u32, epoch: u64, now: u32) -> Option<*mut Flow<A>> {
    if packet.changes_connection() {
        return None;
    }
    let line = A::cache_line(index(&packet.key))?;
    // SAFETY: the line belongs to this CPU, and programs do not migrate.
    let line = unsafe { &mut *line };
    if line.epoch != epoch || line.key != packet.key {
        return None;
    }
    let flow = &mut line.flow;
    if !flow::comes_by(flow, ifindex) || now.wrapping_sub(flow.last_seen) >= maps::TICKS_PER_SECOND.load() {
        return None;
    }
    if !packet.is_tcp()
        && flow.flags & flags::REPLY == 0
        && flow.service != TraceRecord::NONE
        && service::generation::<A>(flow.service) != Some(flow.generation)
    {
        return None;
    }
    Some(flow)
}

/// Remembers an established flow.
#[inline(always)]
pub fn fill<A: Family>(key: &FlowKey<A>, flow: &Flow<A>, epoch: u64) {
    if let Some(line) = A::cache_line(index(key)) {
        // SAFETY: as in `find`.
        unsafe { *line = Line { epoch, key: *key, flow: *flow } };
    }
}

#[inline(always)]
fn index<A: Family>(key: &FlowKey<A>) -> u32 {
    let addresses = key.src.fold() << 32 ^ key.dst.fold();
    let ports = u64::from(key.src_port.raw()) << 24 | u64::from(key.dst_port.raw()) << 8;
    let mixed =
        (addresses ^ ports ^ u64::from(key.protocol)).wrapping_mul(causeway_schema::hash::MULTIPLIER_A);
    (mixed >> 40) as u32 & (LINES - 1)
}
