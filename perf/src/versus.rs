//! Should one leave iptables? A container calls a service on its node, beside
//! everybody else who can bring it there.

use anyhow::Result;
use causeway_testkit::{
    cpu,
    topology::{Cluster, vip, widen},
};

use crate::{
    compare::{Rounds, Variant, compare},
    load::Workload,
    path,
    peers::{self, Peer},
    routed::{self, Routed},
    stats::Report,
    stock,
};

/// The variant that ratios refer to.
const REFERENCE: &str = "iptables-legacy, as kube-proxy";

/// Services, unless another number is asked for.
const MANY: u32 = 10_000;

#[derive(clap::Args, Clone)]
pub struct Scale {
    /// So many services, each with one endpoint; the measured one is in their middle.
    #[arg(long, default_value_t = MANY, value_parser = clap::value_parser!(u32).range(10..=30_000))]
    pub services: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { services: MANY }
    }
}

pub fn run(quick: bool, scale: &Scale) -> Result<Report> {
    let mut cluster = Cluster::with_own_manifests(1);
    path::write_services(&cluster.nodes[0], scale.services);
    // The agent's own connections are not many; the measured ones are.
    widen(&cluster.nodes[0].netns);
    // What programs is on a CPU that is not the measured one.
    cpu::stay_on(1);
    cluster.nodes[0].start_with(Some(stock::CAPACITY));
    cluster.wait_converged();
    cpu::stay_on(0);
    let beds = Peer::ALL.iter().map(|&peer| peers::bed(peer, scale.services)).collect::<Result<Vec<_>>>()?;
    let plain = Routed::new()?;
    let (client, server) = path::pair(&cluster.nodes[0])?;
    let mut variants = vec![
        Variant { name: "Causeway", client: &client.netns, to: vip(1) },
        Variant { name: "Causeway, again (A/A)", client: &client.netns, to: vip(1) },
        // From the node itself: the socket is connected to the backend.
        Variant { name: "Causeway, from the node", client: &cluster.nodes[0].netns, to: vip(1) },
    ];
    let others = Peer::ALL.iter().zip(&beds);
    variants.extend(others.map(|(peer, (bed, _))| Variant {
        name: peer.name(),
        client: &bed.client,
        to: vip(1),
    }));
    variants.extend([
        Variant { name: "kernel routing, no VIP", client: &plain.client, to: routed::SERVER },
        Variant { name: "loopback", client: &server.netns, to: [127, 0, 0, 1].into() },
    ]);
    let title = format!("A VIP among {} services", scale.services);
    compare(&title, &variants, REFERENCE, &Workload::ALL, &Rounds::new(quick))
}
