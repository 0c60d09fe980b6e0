//! Proxies in userspace: each connection is two, and each byte is copied twice.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use causeway_testkit::{child, link, netns::Netns, scratch::Dir, topology::vip, until::until};

use super::{Running, ServicePort};
use crate::load::Workload;

/// One process with one thread, on the CPU of who starts it.
pub fn haproxy<'a>(router: &Netns, services: impl Iterator<Item = &'a ServicePort>) -> Result<Running> {
    let mut text = "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                    timeout client 1m\n  timeout server 1m\n"
        .to_owned();
    for ServicePort { name, address, port, endpoints } in services {
        text += &format!("listen {name}\n  bind {address}:{port}\n");
        for (number, endpoint) in endpoints.iter().enumerate() {
            text += &format!("  server s{number} {endpoint}\n");
        }
    }
    link::address(router, "lo", &format!("{}/32", vip(1)));
    let scratch = Dir::new();
    let file = scratch.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let mut command = on_measured_cpu(router, "haproxy")?;
    command.args(["-db", "-q", "-f"]).arg(&file);
    // It has read the file when it listens.
    Ok(start(router, vec![command]))
}

/// As dockerd starts it for each published port.
pub fn docker<'a>(router: &Netns, services: impl Iterator<Item = &'a ServicePort>) -> Result<Running> {
    link::address(router, "lo", &format!("{}/32", vip(1)));
    let commands = services.map(|service| {
        let endpoint = service.endpoints[0];
        let mut command = on_measured_cpu(router, "docker-proxy")?;
        command
            .args(["-proto", "tcp", "-host-ip", &service.address.to_string()])
            .args(["-host-port", &service.port.to_string()])
            .args(["-container-ip", &endpoint.ip().to_string()])
            .args(["-container-port", &endpoint.port().to_string()]);
        Ok(command)
    });
    Ok(start(router, commands.collect::<Result<_>>()?))
}

/// What it costs is part of what is measured.
fn on_measured_cpu(router: &Netns, program: &str) -> Result<Command> {
    let found = Command::new("which").arg(program).stdout(Stdio::null()).status()?;
    ensure!(found.success(), "{program} is not installed: cargo xtask setup");
    // docker-proxy tells by its descriptor 3 that it listens.
    let script = "exec ip netns exec \"$@\" 3>/dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", router.name(), "taskset", "--cpu-list", "0", program]);
    Ok(command)
}

/// Until they listen.
fn start(router: &Netns, commands: Vec<Command>) -> Running {
    let quiet = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        child::spawn(command)
    };
    let running = Running(commands.into_iter().map(quiet).collect());
    for workload in Workload::ALL {
        let connect = || TcpStream::connect((vip(1), workload.port())).ok();
        until("a proxy listens", Duration::from_secs(5), || router.run(connect));
    }
    running
}
