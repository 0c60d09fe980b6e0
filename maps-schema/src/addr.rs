//! What differs between IPv4 and IPv6? Only what this trait says.

use bytemuck::{Pod, Zeroable};

/// IANA protocol numbers, as they stand in the IP header.
pub mod protocol {
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003), IPv6 in IP (RFC 2473).
    pub const IPV4: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// An address family, as a value: 4 or 16 network-order bytes.
pub trait Addr: Pod + Eq + Ord + core::hash::Hash + core::fmt::Debug {
    /// Address length in bytes.
    const BYTES: usize;
    /// `AF_INET` or `AF_INET6`.
    const FAMILY: u8;
    /// The unspecified address (all zero bytes).
    const UNSPECIFIED: Self;
    /// All bits one.
    const ONES: Self;
    /// What completes an address and four bytes to whole 8-byte words: rows of
    /// mapped arrays lie that far apart.
    type RowPad: Pod + Eq + core::fmt::Debug;

    /// The address as network-order bytes.
    fn bytes(&self) -> &[u8];

    /// 0 for equal addresses, and for no others.
    fn difference(&self, other: &Self) -> u32;

    /// As [`Addr::difference`], of the bits in `mask` only.
    fn difference_within(&self, other: &Self, mask: &Self) -> u32;

    /// The address folded into one word for hashing; host independent.
    fn fold(&self) -> u64;

    /// The one's complement sum of the address's 16-bit words, each in the
    /// byte order of this host, as the checksum helpers expect (RFC 1071).
    fn sum(&self) -> u32;

    /// As an IPv6 address: IPv4 becomes a mapped one.
    fn mapped(self) -> V6;

    /// Of the host itself, whoever asks.
    fn is_loopback(&self) -> bool;
}

/// An IPv4 address. Aligned so that BPF loads it as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct V4(pub [u8; 4]);

/// An IPv6 address. Aligned so that BPF loads it as four words.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct V6(pub [u8; 16]);

impl PartialEq for V6 {
    /// Without a branch for each word: the verifier would walk them all.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.difference(other) == 0
    }
}

impl core::hash::Hash for V6 {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl V4 {
    /// The address as one network-order word (bytes in memory order).
    #[inline(always)]
    pub fn word(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

impl V6 {
    /// The address as four network-order words.
    #[inline(always)]
    pub fn words(self) -> [u32; 4] {
        bytemuck::cast(self.0)
    }
}

impl Addr for V4 {
    const BYTES: usize = 4;
    const FAMILY: u8 = 2;
    const UNSPECIFIED: Self = V4([0; 4]);
    const ONES: Self = V4([0xff; 4]);
    type RowPad = ();

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[inline(always)]
    fn difference(&self, other: &Self) -> u32 {
        self.word() ^ other.word()
    }

    #[inline(always)]
    fn difference_within(&self, other: &Self, mask: &Self) -> u32 {
        (self.word() ^ other.word()) & mask.word()
    }

    #[inline(always)]
    fn fold(&self) -> u64 {
        u64::from(u32::from_be_bytes(self.0))
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        let word = self.word();
        (word & 0xffff) + (word >> 16)
    }

    #[inline(always)]
    fn mapped(self) -> V6 {
        self.to_mapped()
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.0[0] == 127
    }
}

impl Addr for V6 {
    const BYTES: usize = 16;
    const FAMILY: u8 = 10;
    const UNSPECIFIED: Self = V6([0; 16]);
    const ONES: Self = V6([0xff; 16]);
    type RowPad = u32;

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[inline(always)]
    fn difference(&self, other: &Self) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)
    }

    #[inline(always)]
    fn difference_within(&self, other: &Self, mask: &Self) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        let [w, x, y, z] = mask.words();
        (a ^ e) & w | (b ^ f) & x | (c ^ g) & y | (d ^ h) & z
    }

    #[inline(always)]
    fn fold(&self) -> u64 {
        let [a, b, c, d] = self.words();
        let high = u64::from(u32::from_be(a)) << 32 | u64::from(u32::from_be(b));
        let low = u64::from(u32::from_be(c)) << 32 | u64::from(u32::from_be(d));
        // Prefixes are alike within a cluster: spread them before the fold.
        high.wrapping_mul(crate::hash::MULTIPLIER_A).rotate_left(32) ^ low
    }

    #[inline(always)]
    fn sum(&self) -> u32 {
        let [a, b, c, d] = self.words();
        let halves = |word: u32| (word & 0xffff) + (word >> 16);
        halves(a) + halves(b) + halves(c) + halves(d)
    }

    #[inline(always)]
    fn mapped(self) -> V6 {
        self
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | c | (d ^ 1_u32.to_be()) == 0
    }
}

/// A TCP or UDP port: two network-order bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct Port(pub [u8; 2]);

impl Port {
    /// No port: in a key, "the whole address"; in a backend, "the service's port".
    pub const NONE: Port = Port([0; 2]);

    pub const fn new(port: u16) -> Self {
        Port(port.to_be_bytes())
    }

    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// The port as it lies in memory, for checksum arithmetic.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        u16::from_ne_bytes(self.0)
    }
}

impl From<core::net::Ipv4Addr> for V4 {
    fn from(addr: core::net::Ipv4Addr) -> Self {
        V4(addr.octets())
    }
}

impl From<V4> for core::net::Ipv4Addr {
    fn from(addr: V4) -> Self {
        addr.0.into()
    }
}

impl From<core::net::Ipv6Addr> for V6 {
    fn from(addr: core::net::Ipv6Addr) -> Self {
        V6(addr.octets())
    }
}

impl From<V6> for core::net::Ipv6Addr {
    fn from(addr: V6) -> Self {
        addr.0.into()
    }
}
