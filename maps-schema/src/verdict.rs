//! How can a packet's way end? In exactly one of these, each with its counter.

/// The end of a packet's way through a program. The sum of all counters is the
/// number of packets seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[must_use = "a verdict that nobody acts on is a packet that nobody decided"]
pub enum Verdict {
    /// Handed to a container of this node.
    Delivered = 0,
    /// Sent towards another node or the world.
    Forwarded = 1,
    /// An ARP request for the gateway, turned into its reply.
    GatewayArp = 2,
    /// A neighbour solicitation for the gateway, turned into the advertisement.
    GatewayNd = 3,
    /// An ICMP echo request to a service's address, turned into its reply.
    EchoReply = 4,
    /// A fragment that waits for the first of its datagram; counted again when
    /// that has come.
    HeldFragment = 5,
    /// Left to the host stack: the packet is for the host itself.
    StackHost = 6,
    /// Left to the host stack: neither IPv4 nor IPv6.
    StackNotIp = 7,
    /// Left to the host stack: a VLAN tag that no configuration names.
    StackVlan = 8,
    /// Left to the host stack: arrived on the uplink, for nobody we know.
    StackForeign = 9,
    /// Left to the host stack: multicast or broadcast.
    StackMulticast = 10,
    /// Shorter than its headers say.
    DropTruncated = 11,
    /// IP version, header length or total length that cannot be.
    DropMalformed = 12,
    /// More IPv6 extension headers than we walk.
    DropExtensions = 13,
    /// A fragment of a service's packet that cannot wait for its first one, or a
    /// first one too short for the L4 header.
    DropFragment = 14,
    /// TTL or hop limit used up.
    DropTtl = 15,
    /// A service without a backend; refused with RST or ICMP.
    DropNoBackend = 16,
    /// A service address, but a port or protocol nobody serves there; refused.
    DropNoFrontend = 17,
    /// The flow tables took no new entry.
    DropFlowTable = 18,
    /// No source port free for a flow that needs another one.
    DropNoPort = 19,
    /// The routing table has no way, or forbids it.
    DropNoRoute = 20,
    /// Larger than the next link's MTU, and not to be fragmented; refused with ICMP.
    DropTooBig = 21,
    /// From the uplink to a backend on another node: the reply would not come
    /// back this way.
    DropRemoteBackend = 22,
    /// A helper refused to rewrite the packet.
    DropRewrite = 23,
    /// A table named a row that is not there: a bug, or a foreign hand.
    DropInconsistent = 24,
    /// ARP from a container for anything but its gateway, or in another's name.
    DropArp = 25,
    /// Neighbour discovery from a container for anything but its gateway, or in
    /// another's name.
    DropNd = 26,
    /// From a container, with a source that is not its own.
    DropSpoofed = 27,
    /// From a container that plays DHCP server or router.
    DropRogueServer = 28,
    /// To a load balancer's address of a service, from outside its source ranges.
    DropSourceRange = 29,
    /// Of a connection that was silent for longer than its service allows, or of
    /// which nothing is known, to a service whose connections begin with a header.
    DropExpired = 30,
    /// A policy does not allow it.
    DropPolicy = 31,
    /// A policy does not allow it, and wants the sender told.
    DropPolicyReject = 32,
    /// In an outer header, to a service with direct return or an egress address,
    /// from a host that is no node.
    DropTunnelSource = 33,
    /// Of a container whose egress address no node holds.
    DropNoEgress = 34,
    /// To an egress address, and of no flow that left under it.
    DropEgressClosed = 35,
    /// To a service whose traffic policy wants a backend on this node, and there is
    /// none: those elsewhere do not count.
    DropNoLocalBackend = 36,
}

impl Verdict {
    /// Every verdict, in numeric order.
    pub const ALL: [Verdict; 37] = [
        Verdict::Delivered,
        Verdict::Forwarded,
        Verdict::GatewayArp,
        Verdict::GatewayNd,
        Verdict::EchoReply,
        Verdict::HeldFragment,
        Verdict::StackHost,
        Verdict::StackNotIp,
        Verdict::StackVlan,
        Verdict::StackForeign,
        Verdict::StackMulticast,
        Verdict::DropTruncated,
        Verdict::DropMalformed,
        Verdict::DropExtensions,
        Verdict::DropFragment,
        Verdict::DropTtl,
        Verdict::DropNoBackend,
        Verdict::DropNoFrontend,
        Verdict::DropFlowTable,
        Verdict::DropNoPort,
        Verdict::DropNoRoute,
        Verdict::DropTooBig,
        Verdict::DropRemoteBackend,
        Verdict::DropRewrite,
        Verdict::DropInconsistent,
        Verdict::DropArp,
        Verdict::DropNd,
        Verdict::DropSpoofed,
        Verdict::DropRogueServer,
        Verdict::DropSourceRange,
        Verdict::DropExpired,
        Verdict::DropPolicy,
        Verdict::DropPolicyReject,
        Verdict::DropTunnelSource,
        Verdict::DropNoEgress,
        Verdict::DropEgressClosed,
        Verdict::DropNoLocalBackend,
    ];

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// The name in metrics, in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::Forwarded => "forwarded",
            Verdict::GatewayArp => "gateway_arp",
            Verdict::GatewayNd => "gateway_nd",
            Verdict::EchoReply => "echo_reply",
            Verdict::HeldFragment => "held_fragment",
            Verdict::StackHost => "stack_host",
            Verdict::StackNotIp => "stack_not_ip",
            Verdict::StackVlan => "stack_vlan",
            Verdict::StackForeign => "stack_foreign",
            Verdict::StackMulticast => "stack_multicast",
            Verdict::DropTruncated => "drop_truncated",
            Verdict::DropMalformed => "drop_malformed",
            Verdict::DropExtensions => "drop_extensions",
            Verdict::DropFragment => "drop_fragment",
            Verdict::DropTtl => "drop_ttl",
            Verdict::DropNoBackend => "drop_no_backend",
            Verdict::DropNoFrontend => "drop_no_frontend",
            Verdict::DropFlowTable => "drop_flow_table",
            Verdict::DropNoPort => "drop_no_port",
            Verdict::DropNoRoute => "drop_no_route",
            Verdict::DropTooBig => "drop_too_big",
            Verdict::DropRemoteBackend => "drop_remote_backend",
            Verdict::DropRewrite => "drop_rewrite",
            Verdict::DropInconsistent => "drop_inconsistent",
            Verdict::DropArp => "drop_arp",
            Verdict::DropNd => "drop_nd",
            Verdict::DropSpoofed => "drop_spoofed",
            Verdict::DropRogueServer => "drop_rogue_server",
            Verdict::DropSourceRange => "drop_source_range",
            Verdict::DropExpired => "drop_expired",
            Verdict::DropPolicy => "drop_policy",
            Verdict::DropPolicyReject => "drop_policy_reject",
            Verdict::DropTunnelSource => "drop_tunnel_source",
            Verdict::DropNoEgress => "drop_no_egress",
            Verdict::DropEgressClosed => "drop_egress_closed",
            Verdict::DropNoLocalBackend => "drop_no_local_backend",
        }
    }

    pub const fn is_drop(self) -> bool {
        self as u32 >= Verdict::DropTruncated as u32
    }
}

/// What happened on the way, beside the verdict. Counted, never an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Event {
    /// A flow began: a backend was chosen.
    FlowCreated = 0,
    /// A flow moved to the table of established flows.
    FlowPromoted = 1,
    /// That table was full: the flow stays where a flood may evict it.
    FlowPromotionFailed = 2,
    /// A flow's service had lost a backend: chosen anew.
    FlowStale = 3,
    /// A flow got another source: its own would have met another flow's replies.
    FlowTranslated = 4,
    /// A drop was told to its sender: TCP RST, or an ICMP error.
    Refused = 5,
    /// An ICMP error about a service's packet was translated.
    IcmpTranslated = 6,
    /// A forwarded packet left from the uplink's driver already.
    XdpForwarded = 7,
    /// A socket of the host that named a service got a backend.
    SocketServed = 8,
    /// A socket of the host named a service that has no backend or tells backends
    /// of their clients, or a service's address at a port nobody serves: it was
    /// told so at once.
    SocketRefused = 9,
    /// A packet left in an outer header, for its backend or for the node that
    /// holds its container's egress address.
    Encapsulated = 10,
    /// A packet came to such a node in an outer header, and lost it.
    Decapsulated = 11,
    /// A socket of the node answered a container or the outside in a service's name.
    HostAnswered = 12,
}

impl Event {
    pub const ALL: [Event; 13] = [
        Event::FlowCreated,
        Event::FlowPromoted,
        Event::FlowPromotionFailed,
        Event::FlowStale,
        Event::FlowTranslated,
        Event::Refused,
        Event::IcmpTranslated,
        Event::XdpForwarded,
        Event::SocketServed,
        Event::SocketRefused,
        Event::Encapsulated,
        Event::Decapsulated,
        Event::HostAnswered,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Event::FlowCreated => "flow_created",
            Event::FlowPromoted => "flow_promoted",
            Event::FlowPromotionFailed => "flow_promotion_failed",
            Event::FlowStale => "flow_stale",
            Event::FlowTranslated => "flow_translated",
            Event::Refused => "refused",
            Event::IcmpTranslated => "icmp_translated",
            Event::XdpForwarded => "xdp_forwarded",
            Event::SocketServed => "socket_served",
            Event::SocketRefused => "socket_refused",
            Event::Encapsulated => "encapsulated",
            Event::Decapsulated => "decapsulated",
            Event::HostAnswered => "host_answered",
        }
    }

    /// Index of the counter: events follow the verdicts in one array.
    pub const fn index(self) -> u32 {
        Verdict::ALL.len() as u32 + self as u32
    }
}

/// Length of the counter array: verdicts, then events.
pub const COUNTERS: u32 = (Verdict::ALL.len() + Event::ALL.len()) as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        for (number, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, number);
            assert_eq!(verdict.is_drop(), verdict.name().starts_with("drop_"));
            assert_eq!(Verdict::ALL.iter().filter(|other| other.name() == verdict.name()).count(), 1);
        }
    }
}
