//! What do policies cost? Asked when a flow begins, of both ends, among a
//! thousand rules; and of packets of established flows nothing.

use std::net::Ipv4Addr;

use anyhow::Result;
use causeway_testkit::{
    cpu,
    topology::{Cluster, Node},
};

use crate::{
    compare::{Rounds, Variant, compare},
    load::Workload,
    path::pair,
    stats::Report,
};

/// Rules for each end.
const RULES: u32 = 1000;
const REFERENCE: &str = "no policy";

pub fn run(quick: bool) -> Result<Report> {
    let mut cluster = Cluster::with_own_manifests(2);
    write_rules(&cluster.nodes[1]);
    // The agents inherit a CPU that is not the measured one.
    cpu::stay_on(1);
    cluster.start();
    cpu::stay_on(0);
    let (free_client, free_server) = pair(&cluster.nodes[0])?;
    let (guarded_client, guarded_server) = pair(&cluster.nodes[1])?;
    cluster.wait_converged();
    let variants = [
        Variant {
            name: "1,000 rules for each end",
            client: &guarded_client.netns,
            to: guarded_server.address,
        },
        Variant { name: REFERENCE, client: &free_client.netns, to: free_server.address },
        Variant { name: "no policy, again (A/A)", client: &free_client.netns, to: free_server.address },
    ];
    compare("Policies", &variants, REFERENCE, &Workload::ALL, &Rounds::new(quick))
}

/// Each about another network; the last one allows what is measured.
fn write_rules(node: &Node) {
    let network = |index: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + index * 256);
    let rules = |peers: &str| -> String {
        let rule = |index: u32| {
            format!(
                "  - {{{peers}: [{{ipBlock: {{cidr: {}/24}}}}], ports: [{{port: 443}}]}}\n",
                network(index)
            )
        };
        let last = format!("  - {{{peers}: [{{ipBlock: {{cidr: {}}}}}]}}\n", node.pod_cidr());
        (1..RULES).map(rule).chain([last]).collect()
    };
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: measured}}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n{}  egress:\n{}",
        rules("from"),
        rules("to")
    );
    node.manifests.write("policy.yaml", &policy);
}
