//! Who leaves under the node's name? Containers' flows to hosts that know no
//! way back to a container, where the operator wants it.

use aya_ebpf::programs::TcContext;
use causeway_schema::{
    FlowKey, Network, NodeConfig, Port, config::flags::MASQUERADE, egress::NETWORKS, hash::flow_hash,
    nat::Ports, protocol,
};

use crate::{
    deliver::{self, Way},
    family::Family,
    icmp, jump,
    loose::Loose,
    maps,
    pipeline::Side,
    policy,
    refuse::Refuse,
    service, slow, source_range,
};

/// Whether an address outside of this node sees the node's address instead of
/// a container's.
#[inline(always)]
pub fn is_foreign<A: Family>(address: A) -> bool {
    let Some(config) = maps::CONFIG.get(0) else { return false };
    if config.flags & MASQUERADE == 0 {
        return false;
    }
    let networks: &[Network<A>; NETWORKS] = A::native(config);
    // Without a branch for each: the verifier would walk them all.
    let mut native = 0_u32;
    for network in networks {
        native |= u32::from(network.contains(&address));
    }
    native == 0
}

/// Source ports of flows that go by the node's address.
#[inline(always)]
pub fn ports() -> Ports {
    maps::CONFIG.get(0).map_or(Ports::ALL, |config: &NodeConfig| config.ports)
}

/// Whether a packet to no service leaves the node under the node's name.
#[inline(always)]
pub fn leaves<A: Refuse>(ctx: &TcContext, side: Side, loose: &Loose<A>) -> bool {
    let key = &loose.packet.key;
    side == Side::Container
        && key.protocol != protocol::SCTP
        && is_foreign(key.dst)
        // Nodes are no part of the world: they see what they asked a container answer.
        && !source_range::is_node(key.dst)
        && A::node() != A::UNSPECIFIED
        && deliver::endpoint(key.dst).is_none()
        && !service::owns(key.dst)
        && matches!(deliver::way(ctx, &loose.packet, key.src, key.dst), Way::Out(_))
}

/// The source port that a flow under the node's address tries first.
#[inline(always)]
pub fn first_port<A: Family>(key: &FlowKey<A>, ports: Ports) -> Port {
    let hash = flow_hash(&key.src, key.src_port, &key.dst, key.dst_port, key.protocol);
    ports.first(key.src_port, hash)
}

/// Who goes on with an echo message of a flow: one that leaves under the node's
/// name, or that a policy is asked about, or answers one that did or was.
#[inline(always)]
pub fn echo<A: Refuse>(ctx: &TcContext, side: Side, loose: &mut Loose<A>) -> Option<jump::Target> {
    let asks = icmp::name_echo(ctx, loose)?;
    if let Some(carrier) = slow::known(ctx, loose) {
        return Some(carrier);
    }
    if asks && leaves(ctx, side, loose) {
        loose.side = side;
        return Some(A::TO_EGRESS);
    }
    if policy::asks(side, loose) {
        return Some(A::TO_POLICY);
    }
    let key = &mut loose.packet.key;
    (key.src_port, key.dst_port) = (Port::NONE, Port::NONE);
    None
}
