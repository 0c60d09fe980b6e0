//! What does a program get with its packet? TC has a socket buffer, with what
//! the stack already knows; XDP the bare frame. Whatever runs at both hooks
//! asks here.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_fib_lookup as FibLookup},
    helpers::{bpf_csum_update, bpf_fib_lookup, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use causeway_schema::{checksum, protocol};

use crate::{family::Family, packet};

pub trait Context {
    /// The linear part of the frame: its first byte, and the one behind it.
    fn start(&self) -> usize;
    fn end(&self) -> usize;
    /// Length of the whole frame in bytes.
    fn length(&self) -> u32;
    fn ifindex(&self) -> u32;
    /// A VLAN tag stands beside the frame, not in it.
    fn has_tag(&self) -> bool;
    /// Brings that many bytes into the linear part, if the hook can.
    fn pull(&self, length: u32) -> bool;
    /// Payload bytes of each packet that the frame will be cut into; 0 for a
    /// frame that goes as it is.
    fn segment(&self) -> u32;
    /// Asks the routing table: `BPF_FIB_LKUP_RET_*`.
    fn route(&self, lookup: &mut FibLookup) -> u32;
    /// Bytes outside of every checksum have changed by `difference`.
    fn account(&self, difference: u32);
    /// Writes outside of the linear part.
    fn store<T>(&self, offset: usize, value: &T) -> Option<()>;
    /// Updates the L4 checksum at `offset` for what addresses and ports have
    /// changed.
    fn update_checksum<A: Family>(
        &self,
        offset: usize,
        protocol: u8,
        addresses: u16,
        ports: u16,
    ) -> Option<()>;
}

impl Context for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY (here and below): the context is valid for the whole run of
        // the program.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn has_tag(&self) -> bool {
        unsafe { (*self.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn pull(&self, length: u32) -> bool {
        self.pull_data(length).is_ok()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn route(&self, lookup: &mut FibLookup) -> u32 {
        unsafe { bpf_fib_lookup(self.skb.skb.cast(), lookup, size_of::<FibLookup>() as i32, 0) as u32 }
    }

    /// They are in the sum that a NIC may have taken (CHECKSUM_COMPLETE).
    #[inline(always)]
    fn account(&self, difference: u32) {
        // An error means "no such sum".
        unsafe { bpf_csum_update(self.skb.skb, difference) };
    }

    #[inline(always)]
    fn store<T>(&self, offset: usize, value: &T) -> Option<()> {
        TcContext::store(self, offset, value, 0).ok()
    }

    /// The checksum of a locally made packet holds only the pseudo header's
    /// sum (CHECKSUM_PARTIAL), which no program can see but the helper can:
    /// addresses belong to that sum, ports do not.
    #[inline(always)]
    fn update_checksum<A: Family>(
        &self,
        offset: usize,
        protocol: u8,
        addresses: u16,
        ports: u16,
    ) -> Option<()> {
        let mangled = if protocol == protocol::TCP { 0 } else { u64::from(BPF_F_MARK_MANGLED_0) };
        if addresses != 0 {
            let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
            let added = self.l4_csum_replace(offset, 0, u64::from(addresses), pseudo | A::PSEUDO_FLAG);
            if A::PSEUDO_FLAG == 0 {
                added.ok()?;
            } else if added.is_err() {
                // Kernels before 6.16 do not know the flag.
                self.l4_csum_replace(offset, 0, u64::from(addresses), pseudo).ok()?;
            }
        }
        if ports != 0 {
            self.l4_csum_replace(offset, 0, u64::from(ports), mangled).ok()?;
        }
        Some(())
    }
}

impl Context for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    /// XDP is not told: the NIC must leave tags in the frames.
    #[inline(always)]
    fn has_tag(&self) -> bool {
        false
    }

    #[inline(always)]
    fn pull(&self, _length: u32) -> bool {
        false
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn route(&self, lookup: &mut FibLookup) -> u32 {
        // SAFETY: as above.
        unsafe { bpf_fib_lookup(self.ctx.cast(), lookup, size_of::<FibLookup>() as i32, 0) as u32 }
    }

    #[inline(always)]
    fn account(&self, _difference: u32) {}

    #[inline(always)]
    fn store<T>(&self, _offset: usize, _value: &T) -> Option<()> {
        None
    }

    /// From a wire, checksums come whole.
    #[inline(always)]
    fn update_checksum<A: Family>(
        &self,
        offset: usize,
        protocol: u8,
        addresses: u16,
        ports: u16,
    ) -> Option<()> {
        let field = packet::bytes(self, offset, 2)?.cast::<u16>();
        // SAFETY: `bytes` has checked the field's length.
        unsafe {
            let before = *field;
            if protocol == protocol::UDP && before == 0 {
                // The sender has left it out (RFC 768).
                return Some(());
            }
            let after = checksum::update(before, u32::from(addresses) + u32::from(ports));
            *field = if protocol == protocol::UDP && after == 0 { u16::MAX } else { after };
        }
        Some(())
    }
}
