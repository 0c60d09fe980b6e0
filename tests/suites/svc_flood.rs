//! SVC-24, in part: does a flood of connection attempts cost anybody who is
//! connected already? More than 100,000 spoofed SYNs a second where the machine
//! makes them, tables of 10,000 flows, 1,000 streams: none is lost, none reset; and new connections are still made.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    topology::{Cluster, UPLINK, vip, vip6, widen},
    wire::Protocol,
};

const SMALL: &str = "[capacity]\nflows = 10000\nembryonic = 10000\n";
const STREAMS: usize = 1000;
const LENGTH: Duration = Duration::from_secs(5);
/// SYNs a second: as fast as one CPU sends them, the link itself has no room for
/// anybody else.
const RATE: f64 = 120_000.0;
/// What a busy machine sends yet; it fills the tables several times a second.
const AT_LEAST: f64 = 60_000.0;

#[test]
fn a_flood_costs_nobody_a_connection() {
    let starts: [fn(&mut Cluster); 2] = [
        |cluster| cluster.start_xdp_with(SMALL),
        |cluster| {
            cluster.nodes[0].start_with(Some(SMALL));
            cluster.wait_converged();
        },
    ];
    for start in starts {
        let mut cluster = Cluster::idle(1);
        start(&mut cluster);
        costs_nobody_a_connection(&cluster);
    }
}

fn costs_nobody_a_connection(cluster: &Cluster) {
    let servers = cluster.servers(2, 8080);
    let backends: Vec<IpAddr> = servers.iter().flat_map(|(container, _)| container.addresses()).collect();
    let web = Service::new("web", vip(1), &[Port::tcp(80, 8080)]).dual(vip6(1));
    cluster.manifests().service(&web, &web.slice(&backends));
    cluster.wait_converged();
    widen(&cluster.outside);
    let ways = [IpAddr::from(vip(1)), vip6(1).into()].map(|address| SocketAddr::new(address, 80));
    let streams = ways.map(|to| Streams::open(&cluster.outside, to, STREAMS / 2, Duration::from_millis(500)));

    let mac = link::mac(&cluster.nodes[0].netns, UPLINK);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let raw = Raw::open(&cluster.outside, "eth0");
            let syns = [("203.0.113.1:1", ways[0]), ("[fd00:203::1]:1", ways[1])]
                .map(|(from, to)| Datagram::tcp(from, &to.to_string()));
            let (begun, mut number) = (Instant::now(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                if sent.load(Ordering::Relaxed) as f64 > begun.elapsed().as_secs_f64() * RATE {
                    thread::yield_now();
                    continue;
                }
                for _ in 0..64 {
                    number = number.wrapping_add(1);
                    let host = number.wrapping_mul(0x9e37_79b1) >> 8;
                    let syn = &syns[number as usize % 2];
                    let src = match syn.src {
                        IpAddr::V4(_) => Ipv4Addr::from(0xcb00_0000 | host).into(),
                        IpAddr::V6(at) => Ipv6Addr::from(u128::from(at) | u128::from(host) << 32).into(),
                    };
                    let packet = Datagram { src, ..syn.clone() };
                    if raw.offer(&Frame::new(packet).macs([2; 6], mac).bytes()) {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let begun = Instant::now();
        let reports = ways.map(|to| requests(&cluster.outside, to, 100, Protocol::Tcp));
        while begun.elapsed() < LENGTH {
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        let rate = sent.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:.0} SYN/s; meanwhile {} and {}", reports[0], reports[1]);
        assert!(rate > AT_LEAST, "{rate:.0} SYN/s are no flood");
        for report in reports {
            assert!(report.ok >= 95, "new connections under the flood: {report}");
        }
    });
    for streams in streams {
        let report = streams.close();
        println!("{report:?}");
        report.assert_clean(STREAMS / 2);
    }
}
