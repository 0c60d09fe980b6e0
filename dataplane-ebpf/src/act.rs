//! What happens to the packet? The one file that knows the actions of TC.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use causeway_schema::{TraceRecord, Verdict};

use crate::{count, trace};

/// "Not mine": the next program of the hook, then the stack (`TCX_NEXT`).
pub const PASS: i32 = TC_ACT_UNSPEC;

/// Where a packet leaves.
pub enum Exit {
    /// Into the network namespace behind a container's interface.
    Peer {
        ifindex: u32,
    },
    /// Out of an interface as it is.
    Interface {
        ifindex: u32,
    },
    /// Out of an interface, with the L2 header of a neighbour.
    Neighbour {
        ifindex: u32,
        next_hop: bpf_redir_neigh,
    },
    Stack,
    Drop,
}

/// The outcome of the pipeline.
#[must_use]
pub struct Decision {
    pub verdict: Verdict,
    pub exit: Exit,
    /// Service and backend ids, or [`TraceRecord::NONE`].
    pub service: u32,
    pub backend: u32,
}

impl Decision {
    #[inline(always)]
    pub fn new(verdict: Verdict, exit: Exit) -> Self {
        Self { verdict, exit, service: TraceRecord::NONE, backend: TraceRecord::NONE }
    }

    /// A verdict that needs no interface: dropped, or left to the stack.
    #[inline(always)]
    pub fn end(verdict: Verdict) -> Self {
        let exit = if verdict.is_drop() { Exit::Drop } else { Exit::Stack };
        Self::new(verdict, exit)
    }
}

/// Counts (or, for a trace, records) and acts.
#[inline(always)]
pub fn act(ctx: &TcContext, decision: Decision) -> i32 {
    if trace::is_dry(ctx) {
        trace::record(&decision);
    } else {
        count::verdict(decision.verdict);
    }
    // SAFETY: plain helper calls; `next_hop` outlives its call.
    unsafe {
        match decision.exit {
            Exit::Peer { ifindex } => bpf_redirect_peer(ifindex, 0) as i32,
            Exit::Interface { ifindex } => bpf_redirect(ifindex, 0) as i32,
            Exit::Neighbour { ifindex, mut next_hop } => {
                bpf_redirect_neigh(ifindex, &mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32
            }
            Exit::Stack => PASS,
            Exit::Drop => TC_ACT_SHOT,
        }
    }
}
