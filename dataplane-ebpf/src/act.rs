//! What happens to the packet? The one file that knows the actions of TC.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use causeway_schema::{TraceRecord, Verdict};

use crate::{count, maps, trace};

/// A packet for the interface's own address.
const PACKET_HOST: u32 = 0;

/// "Not mine": the next program of the hook, then the stack (`TCX_NEXT`).
pub const PASS: i32 = TC_ACT_UNSPEC;

/// A frame of which clones have gone on, counted by what becomes of them.
pub const CLONED: i32 = TC_ACT_SHOT;

/// How a packet leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Into the network namespace behind a container's interface.
    Peer,
    /// Out of an interface as it is.
    Interface,
    /// Out of an interface, with the L2 header of the neighbour in [`maps::NEXT_HOP`].
    Neighbour,
    Stack,
    Drop,
    /// Not decided: a slow program must.
    Slow,
}

/// The outcome of the pipeline. Flat, with every field set, so that the
/// compiler has no undefined halves to merge, which the verifier would refuse.
#[must_use]
#[derive(Clone, Copy)]
pub struct Decision {
    pub verdict: Verdict,
    pub exit: Exit,
    /// For the exits that have one.
    pub ifindex: u32,
    /// Service and backend ids, or [`TraceRecord::NONE`].
    pub service: u32,
    pub backend: u32,
}

impl Decision {
    #[inline(always)]
    pub fn new(verdict: Verdict, exit: Exit, ifindex: u32) -> Self {
        Self { verdict, exit, ifindex, service: TraceRecord::NONE, backend: TraceRecord::NONE }
    }

    /// A verdict that needs no interface: dropped, held, or left to the stack.
    #[inline(always)]
    pub fn end(verdict: Verdict) -> Self {
        let gone = verdict.is_drop() || verdict == Verdict::HeldFragment;
        Self::new(verdict, if gone { Exit::Drop } else { Exit::Stack }, 0)
    }

    /// Back out of the interface that it came in by.
    #[inline(always)]
    pub fn back(ctx: &TcContext, verdict: Verdict) -> Self {
        // SAFETY: the context is valid for the whole run of the program.
        Self::new(verdict, Exit::Interface, unsafe { (*ctx.skb.skb).ifindex })
    }

    /// The answer to a container that asks for its gateway. Not by the queue of our end of
    /// the pair, which takes nothing until the kernel has seen that its other end is up:
    /// whose first question is lost waits for a second. Only for frames whose headers are
    /// where they were, since the kernel does not look for them again on this way.
    #[inline(always)]
    pub fn answer(ctx: &TcContext, verdict: Verdict) -> Self {
        // A question to all is answered to one.
        let _ = ctx.skb.change_type(PACKET_HOST);
        Self { exit: Exit::Peer, ..Self::back(ctx, verdict) }
    }

    /// A plain program does not decide about this packet.
    #[inline(always)]
    pub fn slow() -> Self {
        Self::refused(Verdict::DropInconsistent)
    }

    /// A drop that the sender has to be told of, which slow programs do.
    #[inline(always)]
    pub fn refused(verdict: Verdict) -> Self {
        Self::new(verdict, Exit::Slow, 0)
    }

    #[inline(always)]
    pub fn is_slow(&self) -> bool {
        self.exit == Exit::Slow
    }

    /// Names what the packet belongs to.
    #[inline(always)]
    pub fn of(mut self, service: u32, backend: u32) -> Self {
        self.service = service;
        self.backend = backend;
        self
    }
}

/// A row that must be there is not.
#[inline(always)]
pub fn broken(ctx: &TcContext) -> i32 {
    act(ctx, Decision::end(Verdict::DropInconsistent))
}

/// Counts (or, for a trace, records) and acts.
#[inline(always)]
pub fn act(ctx: &TcContext, decision: Decision) -> i32 {
    if trace::is_dry(ctx) {
        trace::record(&decision);
    } else {
        count::verdict(decision.verdict);
    }
    // SAFETY: plain helper calls; the next hop is of this CPU.
    unsafe {
        match decision.exit {
            Exit::Peer => bpf_redirect_peer(decision.ifindex, 0) as i32,
            Exit::Interface => bpf_redirect(decision.ifindex, 0) as i32,
            Exit::Neighbour => match maps::NEXT_HOP.get_ptr_mut(0) {
                // Of no family: the kernel is to find it.
                Some(next_hop) if (*next_hop).nh_family == 0 => {
                    bpf_redirect_neigh(decision.ifindex, core::ptr::null_mut(), 0, 0) as i32
                }
                Some(next_hop) => {
                    let length = size_of::<bpf_redir_neigh>() as i32;
                    bpf_redirect_neigh(decision.ifindex, next_hop, length, 0) as i32
                }
                None => TC_ACT_SHOT,
            },
            Exit::Stack => PASS,
            Exit::Drop | Exit::Slow => TC_ACT_SHOT,
        }
    }
}
