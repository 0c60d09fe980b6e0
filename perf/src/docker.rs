//! How soon does a container of Docker serve by its label, and what do ten thousand
//! published ports cost?

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use causeway_testkit::{
    docker::Docker,
    netns::Netns,
    topology::{Cluster, PATIENCE, vip},
};

use crate::{
    memory,
    stats::{Report, median},
};

/// What nobody answers is asked anew after so long, rather than sent again by TCP.
const PATIENCE_OF_ONE: Duration = Duration::from_millis(4);
/// Between two looks whether a service is served.
const LOOK: Duration = Duration::from_micros(500);

pub fn run(quick: bool) -> Result<Report> {
    let conditions = "Docker 20.10, the agent and who asks on the machine's CPUs alike; ms.";
    let mut report = Report::new("Docker", conditions.into(), &["median", "worst"]);
    let mut cluster = Cluster::dual(1);
    let docker = Docker::watched(&mut cluster);
    docker.network("net", &[]);
    let millis = |seconds: &[f64]| {
        let worst = seconds.iter().copied().fold(0.0, f64::max);
        [median(seconds.iter().copied()), worst].map(|seconds| format!("{:.1}", seconds * 1e3)).into()
    };
    let rounds = if quick { 3 } else { 30 };
    let served: Vec<f64> =
        (0..rounds).map(|_| until_served(&docker, &cluster.outside)).collect::<Result<_>>()?;
    report.row("start event -> first connection by the label's address", millis(&served));
    let rounds = if quick { 2 } else { 10 };
    let (mut plain, mut ranged, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        plain.push(start(&docker, &[]));
        docker.remove("measured");
        let before = held(&cluster)?;
        ranged.push(start(&docker, &["--publish", "20000-30000:20000-30000"]));
        grown.push(held(&cluster)? - before);
        docker.remove("measured");
    }
    report.row("docker run", millis(&plain));
    report.row("docker run with 10,001 published ports", millis(&ranged));
    let worst = grown.iter().copied().fold(0.0, f64::max);
    let mib = [median(grown), worst].map(|mib| format!("{mib:.2} MiB"));
    report.row("more memory of agent and maps for these ports", mib.into());
    Ok(report)
}

fn start(docker: &Docker, options: &[&str]) -> f64 {
    let begun = Instant::now();
    docker.serve("net", "measured", options);
    begun.elapsed().as_secs_f64()
}

/// Seconds from the engine's event to the first connection from outside.
fn until_served(docker: &Docker, outside: &Netns) -> Result<f64> {
    let answers = || TcpStream::connect_timeout(&(vip(1), 80).into(), PATIENCE_OF_ONE).is_ok();
    let answered = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let end = Instant::now() + PATIENCE;
            // One thread inside, for a namespace is not entered in no time.
            outside.run(|| {
                while !answers() {
                    ensure!(Instant::now() < end, "it is not served");
                    thread::sleep(LOOK);
                }
                Ok(SystemTime::now())
            })
        });
        start(docker, &["--label", &format!("causeway.io/vip={}:80>8080", vip(1))]);
        asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 1;
    let filters = ["--filter", "container=measured", "--filter", "event=start"];
    let since = (until - 120).to_string();
    let until = until.to_string();
    let words =
        [&["events", "--since", &since, "--until", &until][..], &filters, &["--format", "{{.TimeNano}}"]];
    let events = docker.done(&words.concat());
    let started: u64 = events.lines().last().context("no start event")?.trim().parse()?;
    docker.remove("measured");
    let end = Instant::now() + PATIENCE;
    while outside.run(answers) {
        ensure!(Instant::now() < end, "it is served without a container");
    }
    let answered = answered.duration_since(UNIX_EPOCH)?.as_nanos() as i128;
    Ok((answered - i128::from(started)) as f64 / 1e9)
}

/// MiB of the agent and its maps, flow tables apart.
fn held(cluster: &Cluster) -> Result<f64> {
    let memory = memory::of(cluster.nodes[0].agent().pid())?;
    Ok(memory.anonymous + memory.text + memory.maps)
}
