//! When does an idle flow go? When it is still idle now: userspace lists
//! candidates, this program checks each beside the traffic and removes it, or
//! declares its end, so that both sides can be told before it goes.
//!
//! The "packet": an Ethernet header of zeroes, then `timeout: u32` (ticks),
//! `count: u32` and `declare: u32` (0 removes), host order, then up to
//! [`SWEEP_KEYS`] keys. The trace record takes the answer: `backend` the clock,
//! `service` the number of flows that were idle.

use aya_ebpf::programs::TcContext;
use causeway_schema::{Flow, FlowKey, SWEEP_KEYS, TraceRecord, flow::flags};
use network_types::eth::EthHdr;

use crate::{cache, family::Family, flow::now, maps, packet};

const HEADER: usize = EthHdr::LEN + HEADER_WORDS * 4;
const HEADER_WORDS: usize = 3;

#[inline(always)]
pub fn run<A: Family>(ctx: &TcContext) {
    let length = size_of::<FlowKey<A>>();
    let now = now();
    let Some(answer) = maps::TRACE.get_ptr_mut(0) else { return };
    // SAFETY: the agent runs one trace or sweep at a time.
    unsafe { *answer = TraceRecord { verdict: 0, service: 0, backend: now, ifindex: 0, rule: 0 } };
    let Some(header) = packet::bytes(ctx, EthHdr::LEN, HEADER_WORDS * 4) else { return };
    // SAFETY: `bytes` has checked the length.
    let [timeout, count, declare] = unsafe { header.cast::<[u32; HEADER_WORDS]>().read_unaligned() };
    for index in 0..SWEEP_KEYS {
        if index as u32 >= count {
            break;
        }
        let Some(key) = packet::bytes(ctx, HEADER + index * length, length) else { break };
        // SAFETY: as above; the key is copied to the stack for the lookup.
        let key = unsafe { key.cast::<FlowKey<A>>().read_unaligned() };
        if end_idle(&key, timeout, now, declare != 0) {
            // Counted in memory, not in a register that would multiply the
            // verifier's states by the number of keys.
            // SAFETY: as above.
            unsafe { (*answer).service += 1 };
        }
    }
}

/// Removes both entries of a flow, or declares its end, if both have been idle
/// for `timeout`.
#[inline(always)]
fn end_idle<A: Family>(key: &FlowKey<A>, timeout: u32, now: u32, declare: bool) -> bool {
    // SAFETY (here and below): map values stay readable until the program ends
    // (RCU).
    let idle = |flow: *mut Flow<A>| now.wrapping_sub(unsafe { (*flow).last_seen }) >= timeout;
    let Some(flow) = A::established(key) else { return false };
    let other = unsafe { (*flow).twin(key.protocol) };
    let twin = A::established(&other);
    if !idle(flow) || twin.is_some_and(|twin| !idle(twin)) {
        return false;
    }
    if declare {
        for entry in [Some(flow), twin].into_iter().flatten() {
            unsafe {
                (*entry).flags |= flags::EXPIRED;
                // It stays for as long as its ends may take to hear of it.
                (*entry).last_seen = now;
            }
        }
    } else {
        A::drop_established(&other);
        A::drop_established(key);
    }
    cache::invalidate();
    true
}
