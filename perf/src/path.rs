//! How good is the path, with and without a VIP, beside the kernel's own?

use anyhow::Result;
use causeway_testkit::{
    cpu,
    manifest::{Port, Service},
    topology::{Cluster, Container, Node, vip},
};

use crate::{
    compare::{Rounds, Variant, compare},
    load::{self, Workload},
    routed::{self, Routed},
    stats::Report,
};

/// Services on the larger node.
const MANY: u32 = 10_000;
/// The variant that ratios refer to.
const REFERENCE: &str = "kernel routing, no VIP";

/// What to run of it: everything, or one variant for as long as a profiler
/// needs.
#[derive(clap::Args, Clone, Default)]
pub struct Selection {
    /// Only variants whose name contains this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only this workload.
    #[arg(long, value_enum)]
    workload: Option<Workload>,
}

impl Selection {
    fn has(&self, variant: &Variant) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| variant.name.contains(text.as_str()))
    }

    fn workloads(&self) -> Vec<Workload> {
        self.workload.map_or_else(|| Workload::ALL.to_vec(), |workload| vec![workload])
    }
}

pub fn run(quick: bool, selection: &Selection) -> Result<Report> {
    let mut cluster = Cluster::with_own_manifests(2);
    write_services(&cluster.nodes[0], 1);
    write_services(&cluster.nodes[1], MANY);
    // The agents inherit a CPU that is not the measured one.
    cpu::stay_on(1);
    cluster.start();
    cpu::stay_on(0);
    let (few_client, _few_server) = pair(&cluster.nodes[0])?;
    let (many_client, many_server) = pair(&cluster.nodes[1])?;
    // A client of its own: its ports must not meet those used through the VIP.
    let direct_client = cluster.nodes[1].container("direct", 4);
    let routed = Routed::new()?;
    let mut variants = vec![
        Variant { name: "VIP, 10,000 services", client: &many_client.netns, to: vip(1) },
        Variant { name: "VIP, 1 service", client: &few_client.netns, to: vip(1) },
        Variant { name: "no VIP, 10,000 services", client: &direct_client.netns, to: many_server.address },
        Variant { name: "VIP, 10,000 services, again (A/A)", client: &many_client.netns, to: vip(1) },
        Variant { name: REFERENCE, client: &routed.client, to: routed::SERVER },
        Variant { name: "loopback", client: &many_server.netns, to: [127, 0, 0, 1].into() },
    ];
    variants.retain(|variant| selection.has(variant));
    compare("Path quality", &variants, REFERENCE, &selection.workloads(), &Rounds::new(quick))
}

/// The measured service at `vip(1)` over the node's one server, and as many
/// others beside it as make `count`.
pub fn write_services(node: &Node, count: u32) {
    let ports: Vec<Port> = Workload::ALL
        .iter()
        .map(|workload| Port {
            name: format!("p{}", workload.port()),
            ..Port::tcp(workload.port(), workload.port())
        })
        .collect();
    let measured = Service::new("measured", vip(1), &ports);
    node.manifests.service(&measured, &measured.slice(&[node.pod_address(2)]));
    let mut text = String::new();
    for index in 1..count {
        let address = [10, 96, 1 + (index >> 8) as u8, index as u8];
        let service = Service::new(&format!("other-{index}"), address, &[Port::tcp(80, 8080)]);
        let backends: Vec<_> = (0..5).map(|backend| node.pod_address(100 + backend)).collect();
        text.push_str(&format!("---\n{}---\n{}", service.yaml(), service.slice(&backends).yaml()));
    }
    if !text.is_empty() {
        node.manifests.write("others.yaml", &text);
    }
}

pub fn pair(node: &Node) -> Result<(Container, Container)> {
    let server = node.container("server", 2);
    let client = node.container("client", 3);
    load::serve(&server.netns)?;
    Ok((client, server))
}
