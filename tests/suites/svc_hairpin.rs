//! SVC-15: can a container call a service whose backend it is itself? It can,
//! and sees an address of ours as its client, not the host's and not its own.

use std::net::{IpAddr, SocketAddr};

use causeway_schema::{HAIRPIN_V4, HAIRPIN_V6};
use causeway_testkit::{
    client::requests,
    manifest::{Port, Service},
    server::Server,
    topology::{Cluster, vip, vip6, widen},
    wire::Protocol,
};

const REQUESTS: u64 = 1000;

#[test]
fn a_container_reaches_itself_through_its_service() {
    // With programs on sockets, and without.
    for cluster in [Cluster::dual(1), Cluster::configured(1, "host_services = false\n")] {
        reaches_itself(&cluster);
    }
}

fn reaches_itself(cluster: &Cluster) {
    let own = cluster.nodes[0].container("own", 2);
    let _server = Server::start(&own.netns, "own", 8080);
    let service = Service::new("own", vip(1), &[Port::tcp(80, 8080), Port::udp(53, 8080)]).dual(vip6(1));
    let backends: [IpAddr; 2] = [own.address.into(), own.address6.unwrap().into()];
    cluster.manifests().service(&service, &service.slice(&backends));
    widen(&own.netns);
    cluster.wait_converged();
    let hairpin: [IpAddr; 2] =
        [std::net::Ipv4Addr::from(HAIRPIN_V4).into(), std::net::Ipv6Addr::from(HAIRPIN_V6).into()];
    for (address, seen) in [IpAddr::from(vip(1)), vip6(1).into()].into_iter().zip(hairpin) {
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
            let to = SocketAddr::new(address, port);
            let report = requests(&own.netns, to, REQUESTS, protocol);
            report.assert_clean(REQUESTS, to);
            assert!(report.peers_seen.keys().eq([&seen]), "{protocol:?}: {:?}", report.peers_seen);
        }
    }
}
