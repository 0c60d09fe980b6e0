//! Is this packet only a question? `causeway trace` runs the loaded program
//! over a packet that must leave no trace of its own.

use aya_ebpf::programs::TcContext;
use causeway_schema::TraceRecord;

use crate::{act::Decision, maps};

/// True for a packet that carries the mark of the running trace.
#[inline(always)]
pub fn is_dry(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the whole run of the program.
    let mark = unsafe { (*ctx.skb.skb).mark };
    mark != 0 && maps::CONFIG.get(0).is_some_and(|config| config.trace_mark == mark)
}

/// Leaves the decision where the agent reads it.
#[inline(always)]
pub fn record(decision: &Decision) {
    if let Some(row) = maps::TRACE.get_ptr_mut(0) {
        let verdict = decision.verdict as u32;
        // SAFETY: the agent runs one trace at a time.
        unsafe {
            *row = TraceRecord {
                verdict,
                service: decision.service,
                backend: decision.backend,
                ifindex: decision.ifindex,
                rule: (*row).rule,
            }
        };
    }
}

/// Leaves the rule that was asked.
#[inline(always)]
pub fn rule(number: u32) {
    if let Some(row) = maps::TRACE.get_ptr_mut(0) {
        // SAFETY: as in `record`.
        unsafe { (*row).rule = number };
    }
}
