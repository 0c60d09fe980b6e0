//! FWD-06: does traffic go on when a container gives itself another hardware
//! address? Nothing outside its own interface ever sees that address, so there
//! is nothing to refuse.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use causeway_testkit::{
    client::requests,
    link,
    manifest::{Port, Service},
    netns::Netns,
    ping::ping,
    server::Server,
    talk::Talk,
    topology::{Cluster, Container, PATIENCE, outside_address, outside_address6, vip, vip6},
    wire::Protocol,
};

const PORT: u16 = 7000;
const WHILE: Duration = Duration::from_secs(2);

/// The service of the container, and that of another on the other node.
const OWN: u8 = 1;
const FAR: u8 = 2;

fn addresses(container: &Container) -> [IpAddr; 2] {
    [container.address.into(), container.address6.unwrap().into()]
}

fn service(cluster: &Cluster, name: &str, host: u8, backend: &Container) {
    let service = Service::new(name, vip(host), &[Port::tcp(80, PORT)]).dual(vip6(host));
    cluster.manifests().service(&service, &service.slice(&addresses(backend)));
}

fn at_service(host: u8) -> [SocketAddr; 2] {
    [vip(host).into(), vip6(host).into()].map(|address: IpAddr| SocketAddr::new(address, 80))
}

fn drops(counters: &BTreeMap<String, u64>) -> BTreeMap<&String, &u64> {
    counters.iter().filter(|(name, _)| name.starts_with("drop_")).collect()
}

/// As a program inside does it.
fn change(container: &Container, last: u8) {
    container.netns.ip(&format!("link set eth0 address 02:00:00:00:77:{last:02x}"));
}

/// The interface's kernel keeps the change to itself.
fn keep_silent(container: &Container) {
    container.netns.set_sysctl("net/ipv4/conf/eth0/arp_notify", "0");
    container.netns.set_sysctl("net/ipv6/conf/eth0/ndisc_notify", "0");
}

/// The container's gateway is unknown to it, and so learned anew.
fn forget_gateway(container: &Container) {
    for family in ["-4", "-6"] {
        container.netns.ip(&format!("{family} neigh flush dev eth0"));
    }
}

#[test]
fn a_container_may_change_its_hardware_address() {
    let cluster = Cluster::dual(2);
    let [here, there] = [&cluster.nodes[0], &cluster.nodes[1]];
    let [own, peer, far] = [here.container("own", 2), here.container("peer", 3), there.container("far", 2)];
    let given = link::mac(&own.netns, "eth0");
    let _servers = [
        Server::start(&own.netns, "own", PORT),
        Server::start(&far.netns, "far", PORT),
        Server::start(&cluster.outside, "outside", PORT),
    ];
    service(&cluster, "own", OWN, &own);
    service(&cluster, "far", FAR, &far);
    cluster.wait_converged();
    let outside: [IpAddr; 2] = [outside_address().into(), outside_address6().into()];
    // Neighbours are known from here on: what is not, costs nobody a drop.
    let talk = |host: bool| {
        let mut talk = Talk::default();
        for (((at, out), other), (mine, fars)) in addresses(&own)
            .into_iter()
            .zip(outside)
            .zip(addresses(&peer))
            .zip(at_service(OWN).into_iter().zip(at_service(FAR)))
        {
            talk.one_way((&peer.netns, other), (&own.netns, SocketAddr::new(at, 9000)));
            talk.one_way((&own.netns, at), (&cluster.outside, SocketAddr::new(out, 9000)));
            let to_own = SocketAddr::new(at, PORT);
            let mut clients: Vec<&Netns> = vec![&peer.netns, &far.netns, &cluster.outside];
            clients.extend(host.then_some(&here.netns));
            for client in clients {
                talk.both_ways(client, to_own);
            }
            talk.both_ways(&peer.netns, mine);
            talk.both_ways(&own.netns, fars);
            talk.both_ways(&own.netns, SocketAddr::new(out, PORT));
        }
        talk
    };
    for (round, announced) in [true, false].into_iter().enumerate() {
        if !announced {
            keep_silent(&own);
        }
        // What the node itself sends goes by its kernel's neighbours.
        let talking = talk(announced);
        let before = here.agent().counters();
        thread::sleep(WHILE);
        change(&own, round as u8);
        thread::sleep(WHILE);
        forget_gateway(&own);
        let from: [SocketAddr; 2] = addresses(&own).map(|address| SocketAddr::new(address, PORT));
        for (to, out) in from.into_iter().zip(outside) {
            let out = SocketAddr::new(out, PORT);
            requests(&peer.netns, to, 10, Protocol::Tcp).assert_clean(10, to);
            requests(&own.netns, out, 10, Protocol::Udp).assert_clean(10, out);
        }
        for to in at_service(FAR) {
            let answered = own.netns.run(|| ping(to.ip(), 3, PATIENCE)).unwrap();
            assert_eq!(answered, 3, "pings of {to}");
        }
        let after = here.agent().counters();
        talking.assert_uninterrupted(if announced { "announced" } else { "silent" });
        assert_eq!(drops(&before), drops(&after));
    }

    // Attached again, it has the address that it was given.
    assert_ne!(link::mac(&own.netns, "eth0"), given);
    keep_silent(&own);
    let talking = talk(false);
    here.agent().ask(&[
        "endpoint",
        "attach",
        "own",
        "--netns",
        own.netns.path().to_str().unwrap(),
        "--address",
        &own.address.to_string(),
        "--address",
        &own.address6.unwrap().to_string(),
    ]);
    thread::sleep(WHILE);
    talking.assert_uninterrupted("attached again");
    assert_eq!(link::mac(&own.netns, "eth0"), given);
}
