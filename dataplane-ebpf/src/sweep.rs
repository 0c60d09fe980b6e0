//! When does an idle flow go? When it is still idle now: userspace lists
//! candidates, this program checks each beside the traffic and removes it.
//!
//! The "packet": an Ethernet header of zeroes, then `timeout: u32` (ticks) and
//! `count: u32`, host order, then up to [`SWEEP_KEYS`] keys. The trace record
//! takes the answer: `backend` the clock, `service` the number removed.

use aya_ebpf::programs::TcContext;
use causeway_schema::{FlowKey, SWEEP_KEYS, TraceRecord};
use network_types::eth::EthHdr;

use crate::{cache, family::Family, flow::now, maps, packet};

const HEADER: usize = EthHdr::LEN + 8;

#[inline(always)]
pub fn run<A: Family>(ctx: &TcContext) {
    let length = size_of::<FlowKey<A>>();
    let now = now();
    let Some(answer) = maps::TRACE.get_ptr_mut(0) else { return };
    // SAFETY: the agent runs one trace or sweep at a time.
    unsafe { *answer = TraceRecord { verdict: 0, service: 0, backend: now, ifindex: 0 } };
    let Some(header) = packet::bytes(ctx, EthHdr::LEN, 8) else { return };
    // SAFETY: `bytes` has checked the length.
    let [timeout, count] = unsafe { header.cast::<[u32; 2]>().read_unaligned() };
    for index in 0..SWEEP_KEYS {
        if index as u32 >= count {
            break;
        }
        let Some(key) = packet::bytes(ctx, HEADER + index * length, length) else { break };
        // SAFETY: as above; the key is copied to the stack for the lookup.
        let key = unsafe { key.cast::<FlowKey<A>>().read_unaligned() };
        if remove_idle(&key, timeout, now) {
            // Counted in memory, not in a register that would multiply the
            // verifier's states by the number of keys.
            // SAFETY: as above.
            unsafe { (*answer).service += 1 };
        }
    }
}

/// Removes both entries of a flow, if both have been idle for `timeout`.
#[inline(always)]
fn remove_idle<A: Family>(key: &FlowKey<A>, timeout: u32, now: u32) -> bool {
    // SAFETY: map values stay readable until the program ends (RCU).
    let idle =
        |flow: *mut causeway_schema::Flow<A>| now.wrapping_sub(unsafe { (*flow).last_seen }) >= timeout;
    let Some(flow) = A::established(key) else { return false };
    // SAFETY: as above.
    let other = unsafe { (*flow).twin(key.protocol) };
    if !idle(flow) || A::established(&other).is_some_and(|twin| !idle(twin)) {
        return false;
    }
    A::drop_established(&other);
    A::drop_established(key);
    cache::invalidate();
    true
}
