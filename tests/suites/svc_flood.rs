//! SVC-24, in part: does a flood of connection attempts cost anybody who is
//! connected already? Spoofed SYNs as fast as one CPU sends them, tables of
//! 10,000 flows, 1,000 streams: none is lost, none reset; and new connections
//! are still made.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use causeway_testkit::{
    client::requests,
    frame::{Datagram, Frame},
    link,
    manifest::{Port, Service},
    raw::Raw,
    streams::Streams,
    topology::{Cluster, UPLINK, vip, widen},
    wire::Protocol,
};

const STREAMS: usize = 1000;
const LENGTH: Duration = Duration::from_secs(5);
/// Far less than what a machine sends, and enough to fill the tables ten times a second.
const AT_LEAST: f64 = 50_000.0;

#[test]
fn a_flood_costs_nobody_a_connection() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].start_with(Some("[capacity]\nflows = 10000\nembryonic = 10000\n"));
    cluster.wait_converged();
    let servers = cluster.servers(2, 8080);
    let backends: Vec<_> = servers.iter().map(|(container, _)| container.address).collect();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]);
    cluster.manifests().service(&web, &web.slice(&backends));
    cluster.wait_converged();
    widen(&cluster.outside);
    let to = SocketAddr::V4(SocketAddrV4::new(vip(1), 80));
    let streams = Streams::open(&cluster.outside, to, STREAMS, Duration::from_millis(500));

    let mac = link::mac(&cluster.nodes[0].netns, UPLINK);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let raw = Raw::open(&cluster.outside, "eth0");
            let syn = Datagram::tcp("203.0.113.1:1", &to.to_string());
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    let number = sent.fetch_add(1, Ordering::Relaxed) as u32;
                    let source = Ipv4Addr::from(0xcb00_0000 | number.wrapping_mul(0x9e37_79b1) >> 8);
                    let packet = Datagram { src: IpAddr::V4(source), ..syn.clone() };
                    raw.send(&Frame::new(packet).macs([2; 6], mac).bytes());
                }
            }
        });
        let begun = Instant::now();
        let report = requests(&cluster.outside, to, 200, Protocol::Tcp);
        while begun.elapsed() < LENGTH {
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        let rate = sent.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:.0} SYN/s; meanwhile {report}");
        assert!(rate > AT_LEAST, "{rate:.0} SYN/s are no flood");
        assert!(report.ok >= 190, "new connections under the flood: {report}");
    });
    let report = streams.close();
    println!("{report:?}");
    report.assert_clean(STREAMS);
}
