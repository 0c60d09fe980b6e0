//! What does the pipeline need of an address family? Its maps, and where its
//! header keeps what gets rewritten.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_NOEXIST},
    maps::lpm_trie,
};
use causeway_schema::{
    Addr, Arena, Backend, Cell, Client, ClientKey, Egress, Endpoint, EndpointKey, Flow, FlowKey, Frontend,
    FrontendKey, HAIRPIN_V4, HAIRPIN_V6, Hop, Member, MemberKey, Network, NodeConfig, PortRanges, Service,
    SourceRangeKey, V4, V6, checksum, egress::NETWORKS, policy::PeerKey, protocol,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    cache::Line,
    context::Context,
    fragment::{Datagram, Queue, Routed},
    jump,
    loose::Loose,
    maps,
    new_flow::Pair,
    source_range::Sourced,
    tables::tables,
};

pub trait Family: Addr {
    /// ICMP or ICMPv6.
    const ICMP: u8;
    /// Whether its checksum covers the addresses.
    const ICMP_COVERS_ADDRESSES: bool;
    /// The EtherType, as it lies in memory.
    const ETHER_TYPE: u16;
    /// The slow programs that go on for another: see [`jump::Target`].
    const TO_ICMP: jump::Target;
    const TO_RELEASE: jump::Target;
    const TO_REFUSE: jump::Target;
    const TO_CARRY: jump::Target;
    const TO_BEGIN: jump::Target;
    const TO_AFFINITY: jump::Target;
    const TO_PORT_RANGE: jump::Target;
    const TO_POLICY: jump::Target;
    const TO_SLOW: jump::Target;
    const TO_ENCAP: jump::Target;
    const TO_DECAP: jump::Target;
    const TO_EGRESS: jump::Target;
    const TO_PROXY: jump::Target;
    /// This family in an outer header of its own: the protocol, and what
    /// `bpf_skb_adjust_room` is told of such a header.
    const WITHIN: u8;
    const ENCAP_FLAG: u32;
    /// Whom a container that calls its own service sees as its client.
    const HAIRPIN: Self;
    /// Length of a header without options.
    const HEADER: usize;
    /// Offset of the L4 header in a frame without options or VLAN tag.
    const L4: usize = EthHdr::LEN + Self::HEADER;
    /// Offsets in the frame.
    const SRC: usize;
    const DST: usize;
    const TTL: usize;
    /// That of the header's length field, and how many bytes of the frame stand
    /// before those that it counts.
    const LENGTH: usize;
    const UNCOUNTED: usize;
    /// TCP of this family in the words of the PROXY protocol.
    const PROXY: u8;

    /// What `bpf_l4_csum_replace` needs to be told of the family.
    const PSEUDO_FLAG: u64;

    fn is_multicast(address: Self) -> bool;

    /// An address that no router passes on (RFC 4291); IPv4 has none that we
    /// need to know.
    fn is_link_local(address: Self) -> bool;

    /// Networks where containers' own addresses are known.
    fn native(config: &NodeConfig) -> &[Network<Self>; NETWORKS];

    /// The node's address, or the unspecified one.
    fn node() -> Self;

    /// The packet's TTL goes from `before` to one less: what that adds to the
    /// header's sum.
    fn account_ttl<C: Context>(ctx: &C, before: u32) -> u32;

    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend>;
    fn service(id: u32) -> Option<*const Service>;
    fn arena() -> impl Arena;
    fn backend(id: u32) -> Option<Backend<Self>>;
    fn member(key: &MemberKey<Self>) -> Option<Member>;
    fn client(key: &ClientKey<Self>) -> Option<*mut Client<Self>>;
    /// Never over what another CPU has just remembered.
    fn remember(key: &ClientKey<Self>, client: &Client<Self>) -> bool;
    fn forget(key: &ClientKey<Self>);
    fn has_source_range(client: &SourceRangeKey<Self>) -> bool;
    fn port_ranges(address: Self) -> Option<&'static PortRanges>;
    /// Of a container here, or of an egress address that this node holds.
    fn egress(address: Self) -> Option<Egress<Self>>;
    /// Of a peer: [`PeerKey`](causeway_schema::policy::PeerKey).
    fn class(generation: u32, peer: Self) -> Option<u32>;
    fn endpoint(slot: u32) -> Option<&'static Endpoint>;
    fn endpoint_hop(address: Self) -> Option<Hop>;

    fn established(key: &FlowKey<Self>) -> Option<*mut Flow<Self>>;
    fn embryonic(key: &FlowKey<Self>) -> Option<*mut Flow<Self>>;
    fn put_established(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool;
    fn put_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool;
    /// As `put_embryonic`, but never over another entry.
    fn reserve_embryonic(key: &FlowKey<Self>, flow: &Flow<Self>) -> bool;
    fn drop_established(key: &FlowKey<Self>);
    fn drop_embryonic(key: &FlowKey<Self>);

    fn routed(index: u32) -> Option<*mut Routed<Self>>;
    fn queue(datagram: &Datagram<Self>) -> Option<*mut Queue>;
    fn open_queue(datagram: &Datagram<Self>);
    fn close_queue(datagram: &Datagram<Self>);

    /// Where this CPU makes the entries of a new flow.
    fn pair() -> Option<*mut Pair<Self>>;

    /// Where this CPU keeps what it has read of a packet that is not plain.
    fn loose(row: u32) -> Option<*mut Loose<Self>>;

    /// A line of this CPU's flow cache.
    fn cache_line(index: u32) -> Option<*mut Line<Self>>;

    /// Updates the header's own checksum, if it has one, for a changed sum.
    ///
    /// # Safety
    /// `header` points at a whole, writable header.
    unsafe fn update_header_checksum(header: *mut u8, difference: u32);
}

impl Family for V4 {
    const ICMP: u8 = protocol::ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    const ETHER_TYPE: u16 = 0x0800_u16.to_be();
    const TO_ICMP: jump::Target = jump::Target::IcmpV4;
    const TO_RELEASE: jump::Target = jump::Target::ReleaseV4;
    const TO_REFUSE: jump::Target = jump::Target::RefuseV4;
    const TO_CARRY: jump::Target = jump::Target::CarryV4;
    const TO_BEGIN: jump::Target = jump::Target::BeginV4;
    const TO_AFFINITY: jump::Target = jump::Target::AffinityV4;
    const TO_PORT_RANGE: jump::Target = jump::Target::PortRangeV4;
    const TO_POLICY: jump::Target = jump::Target::PolicyV4;
    const TO_SLOW: jump::Target = jump::Target::SlowV4;
    const TO_ENCAP: jump::Target = jump::Target::EncapV4;
    const TO_DECAP: jump::Target = jump::Target::DecapV4;
    const TO_EGRESS: jump::Target = jump::Target::EgressV4;
    const TO_PROXY: jump::Target = jump::Target::ProxyV4;
    const WITHIN: u8 = protocol::IPV4;
    const ENCAP_FLAG: u32 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
    const HAIRPIN: Self = HAIRPIN_V4;
    const HEADER: usize = Ipv4Hdr::LEN;
    const SRC: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, src_addr);
    const DST: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, dst_addr);
    const TTL: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, ttl);
    const LENGTH: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, tot_len);
    const UNCOUNTED: usize = EthHdr::LEN;
    const PROXY: u8 = 0x11;

    const PSEUDO_FLAG: u64 = 0;

    #[inline(always)]
    fn is_multicast(address: Self) -> bool {
        address.0[0] >= 224
    }

    #[inline(always)]
    fn is_link_local(_address: Self) -> bool {
        false
    }

    #[inline(always)]
    fn native(config: &NodeConfig) -> &[Network<Self>; NETWORKS] {
        &config.native_v4
    }

    #[inline(always)]
    fn node() -> Self {
        maps::CONFIG.get(0).map_or(Self::UNSPECIFIED, |config| config.node_v4)
    }

    #[inline(always)]
    fn account_ttl<C: Context>(_ctx: &C, before: u32) -> u32 {
        // The first byte of its word, which is the low one on this machine.
        checksum::difference(before, before - 1)
    }

    tables!(
        FRONTENDS_V4,
        SERVICES_V4,
        BACKENDS_V4,
        ARENA_V4,
        AFFINITY_V4,
        MEMBERS_V4,
        SRC_RANGES_V4,
        PORT_RANGES_V4,
        EP_KEYS_V4,
        ENDPOINTS_V4,
        CLASSES_V4,
        FLOWS_V4,
        EMBRYONIC_V4,
        CACHE_V4,
        PAIR_V4,
        LOOSE_V4,
        FRAGMENTS_V4,
        QUEUES_V4,
        EGRESS_V4
    );

    #[inline(always)]
    unsafe fn update_header_checksum(header: *mut u8, difference: u32) {
        // SAFETY: the caller vouches for the header; IP headers are 2-aligned.
        unsafe {
            let check = header.add(core::mem::offset_of!(Ipv4Hdr, check)).cast::<u16>();
            *check = checksum::update(*check, difference);
        }
    }
}

impl Family for V6 {
    const ICMP: u8 = protocol::ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const ETHER_TYPE: u16 = 0x86dd_u16.to_be();
    const TO_ICMP: jump::Target = jump::Target::IcmpV6;
    const TO_RELEASE: jump::Target = jump::Target::ReleaseV6;
    const TO_REFUSE: jump::Target = jump::Target::RefuseV6;
    const TO_CARRY: jump::Target = jump::Target::CarryV6;
    const TO_BEGIN: jump::Target = jump::Target::BeginV6;
    const TO_AFFINITY: jump::Target = jump::Target::AffinityV6;
    const TO_PORT_RANGE: jump::Target = jump::Target::PortRangeV6;
    const TO_POLICY: jump::Target = jump::Target::PolicyV6;
    const TO_SLOW: jump::Target = jump::Target::SlowV6;
    const TO_ENCAP: jump::Target = jump::Target::EncapV6;
    const TO_DECAP: jump::Target = jump::Target::DecapV6;
    const TO_EGRESS: jump::Target = jump::Target::EgressV6;
    const TO_PROXY: jump::Target = jump::Target::ProxyV6;
    const WITHIN: u8 = protocol::IPV6;
    const ENCAP_FLAG: u32 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
    const HAIRPIN: Self = HAIRPIN_V6;
    const HEADER: usize = Ipv6Hdr::LEN;
    const SRC: usize = EthHdr::LEN + core::mem::offset_of!(Ipv6Hdr, src_addr);
    const DST: usize = EthHdr::LEN + core::mem::offset_of!(Ipv6Hdr, dst_addr);
    const TTL: usize = EthHdr::LEN + core::mem::offset_of!(Ipv6Hdr, hop_limit);
    const LENGTH: usize = EthHdr::LEN + core::mem::offset_of!(Ipv6Hdr, payload_len);
    const UNCOUNTED: usize = Self::L4;
    const PROXY: u8 = 0x21;

    /// `BPF_F_IPV6`: the addresses are in no checksum but this one.
    const PSEUDO_FLAG: u64 = 1 << 7;

    #[inline(always)]
    fn is_multicast(address: Self) -> bool {
        address.0[0] == 0xff
    }

    #[inline(always)]
    fn is_link_local(address: Self) -> bool {
        address.0[0] == 0xfe && address.0[1] & 0xc0 == 0x80
    }

    #[inline(always)]
    fn native(config: &NodeConfig) -> &[Network<Self>; NETWORKS] {
        &config.native_v6
    }

    #[inline(always)]
    fn node() -> Self {
        maps::CONFIG.get(0).map_or(Self::UNSPECIFIED, |config| config.node_v6)
    }

    /// The hop limit is in no checksum of the packet, but in the sum that a
    /// NIC has taken of it (CHECKSUM_COMPLETE).
    #[inline(always)]
    fn account_ttl<C: Context>(ctx: &C, before: u32) -> u32 {
        // The second byte of its word.
        ctx.account(checksum::difference(before << 8, (before - 1) << 8));
        0
    }

    tables!(
        FRONTENDS_V6,
        SERVICES_V6,
        BACKENDS_V6,
        ARENA_V6,
        AFFINITY_V6,
        MEMBERS_V6,
        SRC_RANGES_V6,
        PORT_RANGES_V6,
        EP_KEYS_V6,
        ENDPOINTS_V6,
        CLASSES_V6,
        FLOWS_V6,
        EMBRYONIC_V6,
        CACHE_V6,
        PAIR_V6,
        LOOSE_V6,
        FRAGMENTS_V6,
        QUEUES_V6,
        EGRESS_V6
    );

    /// IPv6 leaves checksums to the layers below and above (RFC 8200, section 8.1).
    #[inline(always)]
    unsafe fn update_header_checksum(_header: *mut u8, _difference: u32) {}
}
