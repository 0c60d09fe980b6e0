//! Does it cost more to find a service among many? Connections to one in the
//! middle of ever more, beside kube-proxy's rules and no VIP at all.

use std::path::Path;

use anyhow::Result;
use causeway_testkit::{
    cpu,
    topology::{Cluster, vip},
};

use crate::{
    compare::{Rounds, Series, Variant, interleave},
    load::Workload,
    path,
    peers::{self, Peer},
    plot::{self, Curve, Point},
    routed::{self, Routed},
    stats::{Report, median},
    stock,
};

const SIZES: [u32; 6] = [1, 100, 1_000, 5_000, 10_000, 30_000];
const PLOT: &str = "connections-by-services.svg";
/// The table, and `plots` in it: connections by number of services.
pub fn run(quick: bool, plots: Option<&Path>) -> Result<Report> {
    let sizes = if quick { &SIZES[..4] } else { &SIZES };
    let rounds = Rounds::new(quick);
    let names = || Peer::RULES.iter().map(|peer| peer.name());
    let names: Vec<&str> =
        ["Causeway"].into_iter().chain(names()).chain(["kernel routing, no VIP"]).collect();
    let mut curves: Vec<Curve> = names.iter().map(|name| Curve::new(name)).collect();
    for &size in sizes {
        eprintln!("among {size} services");
        for (curve, point) in curves.iter_mut().zip(measure(size, &rounds)?) {
            curve.points.push(point);
        }
    }
    let columns: Vec<String> = sizes.iter().map(|size| format!("{size}: p50 / p99 µs")).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let conditions = format!("Connect, one byte there and back, close. {}", rounds.conditions());
    let mut report = Report::new("Connections by number of services", conditions, &columns);
    for curve in &curves {
        let cells = curve.points.iter().map(|point| format!("{:.1} / {:.1}", point.y, point.high)).collect();
        report.row(&curve.name, cells);
    }
    if let Some(plots) = plots {
        let title = "One connection, µs (line: median, band: to p99)";
        plot::by_size(&plots.join(PLOT), title, "services", &curves)?;
        report.plots.push(PLOT.into());
    }
    Ok(report)
}

fn measure(size: u32, rounds: &Rounds) -> Result<Vec<Point>> {
    let mut cluster = Cluster::with_own_manifests(1);
    path::write_services(&cluster.nodes[0], size);
    // What programs is on a CPU that is not the measured one.
    cpu::stay_on(1);
    cluster.nodes[0].start_with(Some(stock::CAPACITY));
    cluster.wait_converged();
    cpu::stay_on(0);
    let beds = Peer::RULES.iter().map(|&peer| peers::bed(peer, size)).collect::<Result<Vec<_>>>()?;
    let plain = Routed::new()?;
    let (client, _server) = path::pair(&cluster.nodes[0])?;
    let mut variants = vec![Variant { name: "Causeway", client: &client.netns, to: vip(1) }];
    let others = Peer::RULES.iter().zip(&beds);
    variants.extend(others.map(|(peer, (bed, _))| Variant {
        name: peer.name(),
        client: &bed.client,
        to: vip(1),
    }));
    variants.push(Variant { name: "kernel routing, no VIP", client: &plain.client, to: routed::SERVER });
    let series = interleave(&variants, Workload::ConnectRequestClose, rounds)?;
    let point = |series: &Series| Point {
        x: f64::from(size),
        y: median(series.p50.iter().copied()),
        high: median(series.p99.iter().copied()),
    };
    Ok(series.iter().map(point).collect())
}
