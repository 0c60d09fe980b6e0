//! FWD-11: can a container pass for another? Addresses, neighbours' names,
//! another's connection, a DHCP server, a router: nothing of it leaves, and a
//! counter tells which.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use causeway_schema::GATEWAY_MAC;
use causeway_testkit::{
    capture::Capture,
    client::requests,
    frame::{Datagram, Frame, Message},
    link,
    packet::Arp,
    raw::Raw,
    topology::{Cluster, Container, PATIENCE, UPLINK, outside_address, outside_address6, vip, vip6},
    wire::Protocol,
};

const TIMES: u64 = 20;
/// What the frames carry, to know them by.
const LIE: &[u8] = b"a lie";
const TRUTH: &[u8] = b"nobody's address but mine";
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn frame(packet: Datagram) -> Vec<u8> {
    Frame::new(packet).macs(OWN_MAC, GATEWAY_MAC).bytes()
}

/// What a container may not say, and the verdict on it.
fn lies(liar: &Container, other: &Container) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (own, own6) = (liar.address, liar.address6.unwrap());
    let (theirs, theirs6) = (other.address, other.address6.unwrap());
    let outside = outside_address();
    let neighbour = |message: Message| {
        let packet = Datagram::icmp(&own6.to_string(), "fe80::1", message).ttl(255);
        Frame::new(packet).macs(OWN_MAC, GATEWAY_MAC).bytes()
    };
    let arp = Arp::request(theirs, [169, 254, 1, 1].into());
    vec![
        (
            "another's address",
            frame(Datagram::udp(&format!("{theirs}:1"), &format!("{outside}:9"), LIE)),
            "drop_spoofed",
        ),
        ("nobody's address", frame(Datagram::tcp("192.0.2.9:1", &format!("{theirs}:9"))), "drop_spoofed"),
        (
            "another's, to a service",
            frame(Datagram::tcp(&format!("{theirs}:1"), &format!("{}:80", vip(1)))),
            "drop_spoofed",
        ),
        (
            "another's IPv6 address",
            frame(Datagram::udp(&format!("[{theirs6}]:1"), &format!("[{}]:9", vip6(9)), LIE)),
            "drop_spoofed",
        ),
        (
            "a ping in another's name",
            frame(Datagram::icmp(
                &theirs.to_string(),
                &outside.to_string(),
                Message::EchoRequest { id: 1, seq: 1, data: vec![] },
            )),
            "drop_spoofed",
        ),
        (
            "a DHCP server",
            frame(Datagram::udp(&format!("{own}:67"), &format!("{theirs}:68"), LIE)),
            "drop_rogue_server",
        ),
        (
            "a DHCPv6 server",
            frame(Datagram::udp(&format!("[{own6}]:547"), &format!("[{theirs6}]:546"), LIE)),
            "drop_rogue_server",
        ),
        ("an ARP answer in another's name", Arp { operation: 2, ..arp }.bytes_to(GATEWAY_MAC), "drop_arp"),
        ("an ARP question in another's name", arp.bytes_to([0xff; 6]), "drop_arp"),
        (
            "a neighbour's advertisement in another's name",
            neighbour(Message::NeighbourAdvertisement { flags: 0x60, target: theirs6, mac: Some(OWN_MAC) }),
            "drop_nd",
        ),
        (
            "a solicitation for somebody else",
            neighbour(Message::NeighbourSolicitation { target: theirs6, mac: Some(OWN_MAC) }),
            "drop_nd",
        ),
        (
            "a router",
            neighbour(Message::Other { kind: 134, code: 0, rest: vec![0; 12] }),
            "drop_rogue_server",
        ),
    ]
}

#[test]
fn a_container_passes_for_nobody_else() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let [liar, other] = [node.container("liar", 2), node.container("other", 3)];
    cluster.wait_converged();
    // Neighbours are known from here on, and nothing else is said.
    let _server = causeway_testkit::server::Server::start(&other.netns, "other", 7000);
    let to = SocketAddr::new(other.address.into(), 7000);
    requests(&liar.netns, to, 5, Protocol::Tcp).assert_clean(5, to);
    let captures =
        [(&other.netns, "eth0"), (&cluster.outside, "eth0"), (&node.netns, "up0")].map(|(netns, link)| {
            Capture::start_where(netns, link, |frame| {
                frame.bytes[6..12] == OWN_MAC || frame.bytes.ends_with(LIE)
            })
        });
    let raw = Raw::open(&liar.netns, "eth0");
    for (what, bytes, verdict) in lies(&liar, &other) {
        let before = node.agent().counters();
        for _ in 0..TIMES {
            raw.send(&bytes);
        }
        thread::sleep(Duration::from_millis(20));
        let after = node.agent().counters();
        assert_eq!(after[verdict] - before[verdict], TIMES, "{what}: {:?}", moved(&before, &after));
    }
    for capture in captures {
        let seen = capture.stop();
        assert!(seen.is_empty(), "{} got through: {:?}", seen.len(), seen[0].frame());
    }
    // The truth still passes.
    requests(&liar.netns, to, 5, Protocol::Tcp).assert_clean(5, to);
}

/// Whatever hardware address a container gives itself, the wire sees the uplink's.
#[test]
fn a_stolen_hardware_address_stays_inside() {
    let cluster = Cluster::dual(1);
    let node = &cluster.nodes[0];
    let [liar, other] = [node.container("liar", 2), node.container("other", 3)];
    cluster.wait_converged();
    let (stolen, uplink) = (link::mac(&other.netns, "eth0"), link::mac(&node.netns, UPLINK));
    let capture = Capture::start_where(&cluster.outside, "eth0", |frame| frame.bytes.ends_with(TRUTH));
    let raw = Raw::open(&liar.netns, "eth0");
    let [own, own6] = liar.addresses();
    let (outside, outside6) = (outside_address(), outside_address6());
    for (from, to) in
        [(format!("{own}:1"), format!("{outside}:9")), (format!("[{own6}]:1"), format!("[{outside6}]:9"))]
    {
        let frame = Frame::new(Datagram::udp(&from, &to, TRUTH)).macs(stolen, GATEWAY_MAC).bytes();
        raw.send(&frame);
        let left = capture
            .wait(PATIENCE, |seen| seen.frame().is_ok_and(|seen| seen.packet.is_v6() == to.starts_with('[')));
        let left = left.unwrap_or_else(|| panic!("{from} may speak for itself"));
        assert_eq!(left.bytes[6..12], uplink, "{from}");
    }
}

fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let grown = after.iter().map(|(name, count)| (name.clone(), count - before[name]));
    grown.filter(|(_, count)| *count != 0).collect()
}
