//! How does a benchmark avoid measuring one hot, already rewritten packet? By a
//! front program that writes the packet anew, of a flow drawn at random, and
//! tail-calls the program under test. This is what it is told.

use bytemuck::{Pod, Zeroable};

/// Bytes of a frame that the front program restores: Ethernet, IPv4 and TCP
/// headers, and padding to the word.
pub const TEMPLATE_BYTES: usize = 56;

/// The single row of the front program's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Front {
    /// State of the generator (a linear congruential one, Knuth's constants).
    pub state: u64,
    /// Number of flows less one; a power of two less one.
    pub mask: u32,
    /// Offset in the frame of the address that tells flows apart: the source
    /// of requests, the destination of replies.
    pub varied: u32,
    pub template: [u64; TEMPLATE_BYTES / 8],
}

/// The address of flow `index`, in the 16 bits that vary: 10.x.y.z for any x.
pub const fn flow_address(index: u32) -> [u8; 4] {
    [10, 128 + (index >> 16) as u8, (index >> 8) as u8, index as u8]
}
