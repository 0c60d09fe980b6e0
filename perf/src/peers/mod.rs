//! Who else brings packets to services, each as its users have it: rules shaped
//! as kube-proxy lays them, and proxies in userspace.

mod iptables;
mod nftables;
mod proxies;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use causeway_testkit::{
    child, cpu,
    netns::Netns,
    topology::{vip, widen},
};
use nix::sys::signal::Signal;

use crate::{
    load::{self, Workload},
    routed::{self, Routed},
    stock,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    IptablesLegacy,
    IptablesNft,
    Nftables,
    Haproxy,
    DockerProxy,
}

/// One port of a service.
pub struct ServicePort {
    /// Unique; no longer than 16 letters.
    pub name: String,
    pub address: Ipv4Addr,
    pub port: u16,
    pub endpoints: Vec<SocketAddrV4>,
}

/// What runs for a peer, until dropped.
#[derive(Default)]
pub struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|child| child::end(child, Signal::SIGKILL));
    }
}

impl Peer {
    pub const ALL: [Peer; 5] =
        [Peer::IptablesLegacy, Peer::IptablesNft, Peer::Nftables, Peer::Haproxy, Peer::DockerProxy];
    /// Those that are rules in the kernel.
    pub const RULES: [Peer; 3] = [Peer::IptablesLegacy, Peer::IptablesNft, Peer::Nftables];

    pub fn name(self) -> &'static str {
        match self {
            Peer::IptablesLegacy => "iptables-legacy, as kube-proxy",
            Peer::IptablesNft => "iptables-nft, as kube-proxy",
            Peer::Nftables => "nftables, as kube-proxy",
            Peer::Haproxy => "haproxy, TCP mode",
            Peer::DockerProxy => "docker-proxy",
        }
    }

    /// Serves all of them at `router`. A proxy serves the measured one alone: it has a
    /// socket for each, however many there are.
    pub fn serve(self, router: &Netns, services: &[ServicePort]) -> Result<Running> {
        match self {
            Peer::Haproxy => return proxies::haproxy(router, measured(services)),
            Peer::DockerProxy => return proxies::docker(router, measured(services)),
            _ => self.feed(router, &self.all(services))?,
        }
        Ok(Running::default())
    }

    /// The rules of all of them, from nothing.
    pub fn all(self, services: &[ServicePort]) -> String {
        match self {
            Peer::Nftables => nftables::all(services),
            _ => iptables::all(services),
        }
    }

    /// What changes when a service has other endpoints than before, of all that are
    /// served.
    pub fn change(self, services: &[ServicePort], index: usize) -> String {
        match self {
            Peer::Nftables => nftables::change(&services[index]),
            _ => iptables::change(services, index),
        }
    }

    /// Gives rules to the kernel.
    pub fn feed(self, router: &Netns, text: &str) -> Result<()> {
        let (program, arguments): (_, &[&str]) = match self {
            Peer::IptablesLegacy => ("iptables-legacy-restore", &["--noflush"]),
            Peer::IptablesNft => ("iptables-nft-restore", &["--noflush"]),
            _ => ("nft", &["-f", "-"]),
        };
        let output = router.run(|| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            child.stdin.take().expect("it is piped").write_all(text.as_bytes())?;
            child.wait_with_output()
        });
        let output = output.with_context(|| format!("run {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program}: {}", said.lines().next().unwrap_or_default());
        Ok(())
    }
}

/// Two containers and a router where a peer serves so many services with an
/// endpoint each.
pub fn bed(peer: Peer, count: u32) -> Result<(Routed, Running)> {
    let bed = Routed::new()?;
    // A proxy is a client too.
    widen(&bed.router);
    load::forget(&bed.router);
    // What programs is on a CPU that is not the measured one.
    cpu::stay_on(1);
    let running = peer.serve(&bed.router, &services(count, 1));
    cpu::stay_on(0);
    Ok((bed, running.with_context(|| format!("set up {}", peer.name()))?))
}

/// The measured service's ports, among `count` services with so many endpoints
/// each: half of them come before it.
pub fn services(count: u32, endpoints: u32) -> Vec<ServicePort> {
    let other = |index| ServicePort {
        name: format!("{index:016}"),
        address: stock::address(index),
        port: 80,
        endpoints: (0..endpoints)
            .map(|number| SocketAddrV4::new(stock::backend(index, number), 8080))
            .collect(),
    };
    let measured = Workload::ALL.map(|workload| ServicePort {
        name: format!("MEASURED{:08}", workload.port()),
        address: vip(1),
        port: workload.port(),
        endpoints: vec![SocketAddrV4::new(routed::SERVER, workload.port())],
    });
    let others = count.saturating_sub(1);
    (0..others / 2).map(other).chain(measured).chain((others / 2..others).map(other)).collect()
}

fn measured(services: &[ServicePort]) -> impl Iterator<Item = &ServicePort> {
    services.iter().filter(|service| service.address == vip(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 7002);

    fn reached(bed: &Routed) -> std::io::Result<load::Sample> {
        load::sample(&bed.client, Workload::ConnectRequestClose, TO, Duration::from_millis(50))
    }

    /// And by nobody else: without them there is no way to a VIP.
    #[test]
    fn each_brings_connections_to_the_measured_service() {
        for peer in Peer::ALL {
            let bed = Routed::new().unwrap();
            assert!(reached(&bed).is_err(), "without {peer:?}");
            let running = peer.serve(&bed.router, &services(20, 3)).unwrap();
            assert!(reached(&bed).unwrap().per_second > 100.0, "{peer:?}");
            drop(running);
        }
    }

    #[test]
    fn a_change_of_rules_is_one_of_the_way() {
        for peer in Peer::RULES {
            let bed = Routed::new().unwrap();
            let mut services = services(20, 3);
            let index = services.iter().position(|service| service.port == TO.port()).unwrap();
            let right = std::mem::replace(
                &mut services[index].endpoints,
                vec![SocketAddrV4::new(routed::SERVER, 7999)],
            );
            let _running = peer.serve(&bed.router, &services).unwrap();
            assert!(reached(&bed).is_err(), "{peer:?}: at a port of nobody's");
            services[index].endpoints = right;
            peer.feed(&bed.router, &peer.change(&services, index)).unwrap();
            assert!(reached(&bed).is_ok(), "{peer:?}: changed");
        }
    }

    #[test]
    fn the_measured_service_stands_in_the_middle() {
        let services = services(101, 2);
        let at = services.iter().position(|service| service.address == vip(1)).unwrap();
        assert_eq!((services.len(), at), (103, 50));
    }
}
