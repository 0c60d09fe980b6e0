//! How are the facts read? From `/proc`, netlink, the kernel's BPF, and the
//! agent; each by itself, so that what cannot be read hides nothing else.

use std::{fs, io, path::Path, str::FromStr, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    Place,
    facts::{Agent, Answer, Facts, Kernel, Network, Said, Settings, Strangers},
};
use crate::{
    api::client::get,
    kernel::{bpf, driver, netfilter},
    netlink::{Netlink, Seen},
    snapshot::Status,
    sysctl,
};

/// How long an agent that is well may take.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long one takes that reads back what it has written.
const CHANGE: Duration = Duration::from_millis(300);
/// `comm` of the processes of other dataplanes, of which the kernel keeps 15
/// bytes.
const DATAPLANES: [&str; 10] = [
    "antrea-agent",
    "calico-felix",
    "calico-node",
    "cilium-agent",
    "flanneld",
    "kube-proxy",
    "kube-router",
    "ovn-controller",
    "ovnkube",
    "weaver",
];

/// Reads everything, in the network namespace of the calling process.
///
/// # Errors
/// When the kernel gives no netlink socket.
pub async fn collect(place: &Place) -> io::Result<Facts> {
    let mut unread = Vec::new();
    let netlink = Netlink::open()?;
    let agent = Agent {
        answer: answer(&place.socket, &mut unread).await,
        socket: place.socket.clone(),
        pins: note(&mut unread, "pins", bpf::pins(&place.bpffs)),
    };
    let links = note(&mut unread, "links", netlink.survey_links().await);
    let told = agent.said().and_then(|said| said.status.uplink.clone());
    let named = place.uplink.clone().or(told).or_else(|| left(&agent.pins, &links));
    let routes = note(&mut unread, "routes", netlink.survey_routes().await);
    let mut network = Network { links, routes, named, native_xdp: None };
    let uplink = network.uplink().cloned();
    network.native_xdp = uplink.as_ref().and_then(|uplink| driver::runs_xdp(uplink.link.index));
    let hooks = uplink.as_ref().and_then(|uplink| {
        let hooks = bpf::hooks(&place.bpffs, uplink.link.index, uplink.xdp);
        note(&mut unread, "programs at the uplink", hooks.map(Some))
    });
    Ok(Facts {
        kernel: kernel(&place.bpffs),
        settings: settings(uplink.as_ref().map_or("", |uplink| uplink.link.name.as_str())),
        strangers: Strangers {
            hooks,
            rules: note(&mut unread, "rules of nf_tables", netfilter::rules()),
            legacy: legacy_tables(),
            processes: note(&mut unread, "processes", processes()),
        },
        network,
        agent,
        unread,
    })
}

fn note<T: Default>(unread: &mut Vec<String>, what: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        unread.push(format!("{what}: {error}"));
        T::default()
    })
}

/// The uplink of the agent that has left its pins.
fn left(pins: &[(String, u32)], links: &[Seen]) -> Option<String> {
    let (_, index) = pins.iter().find(|(program, _)| program == bpf::FROM_UPLINK)?;
    links.iter().find(|seen| seen.link.index == *index).map(|seen| seen.link.name.clone())
}

async fn answer(socket: &Path, unread: &mut Vec<String>) -> Answer {
    match socket.try_exists() {
        Ok(true) => {}
        Ok(false) => return Answer::Absent,
        Err(error) => return Answer::Silent(error.to_string()),
    }
    let mut status: Status = match ask(socket, "/v1/status").await {
        Ok(status) => status,
        Err(error) => return Answer::Silent(error),
    };
    if !status.reasons.is_empty() {
        // A change may be under way: what is so still, and in the same words, is wrong.
        tokio::time::sleep(CHANGE).await;
        match ask::<Status>(socket, "/v1/status").await {
            Ok(later) => status.reasons.retain(|reason| later.reasons.contains(reason)),
            Err(error) => return Answer::Silent(error),
        }
    }
    let mut said = Said { status, ..Said::default() };
    let asked = async {
        said.nodes = ask(socket, "/v1/nodes").await?;
        said.endpoints = ask(socket, "/v1/endpoints").await?;
        said.services = ask(socket, "/v1/services").await?;
        Ok::<_, String>(())
    };
    unread.extend(asked.await.err().map(|error| format!("what the agent knows: {error}")));
    Answer::Said(Box::new(said))
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, String> {
    match timeout(PATIENCE, get(socket, path)).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("it took the question and did not answer within {PATIENCE:?}")),
    }
}

fn kernel(bpffs: &Path) -> Kernel {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    Kernel {
        release: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        capabilities: capabilities.unwrap_or(0),
        bpffs: (bpffs.to_owned(), bpf::would_be_in_bpffs(bpffs).unwrap_or(false)),
        cgroups: bpf::has_cgroups(),
        jit: read::<u64>("/proc/sys/net/core/bpf_jit_enable").map(|value| value != 0),
        features: bpf::features(),
    }
}

fn settings(uplink: &str) -> Settings {
    let of = |family: &str, key: &str| read::<u64>(&format!("/proc/sys/net/{family}/conf/{uplink}/{key}"));
    Settings {
        rp_filter_all: read("/proc/sys/net/ipv4/conf/all/rp_filter"),
        rp_filter: of("ipv4", "rp_filter"),
        forwarding_v4: of("ipv4", "forwarding"),
        forwarding_v6: of("ipv6", "forwarding"),
        accept_ra: of("ipv6", "accept_ra"),
        ipv6_disabled: if sysctl::has_ipv6() { of("ipv6", "disable_ipv6") } else { Some(1) },
        local_ports: text("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| {
            let (first, last) = text.split_once(char::is_whitespace)?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        }),
        reserved_ports: ranges(&text("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default()),
        conntrack: read("/proc/sys/net/netfilter/nf_conntrack_count")
            .zip(read("/proc/sys/net/netfilter/nf_conntrack_max")),
    }
}

/// `80,30000-32767` as pairs.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(range).collect()
}

fn legacy_tables() -> Vec<String> {
    let of = |family: &str| {
        let names = text(&format!("/proc/self/net/{family}_tables_names")).unwrap_or_default();
        names.lines().map(|name| format!("{family} {name}")).collect::<Vec<_>>()
    };
    [of("ip"), of("ip6")].concat()
}

/// Of this network namespace: a node that is a container on this machine is
/// another node.
fn processes() -> io::Result<Vec<(u32, String)>> {
    let here = fs::read_link("/proc/self/ns/net")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may end while we look.
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let name = name.trim();
        let is_here = || fs::read_link(entry.path().join("ns/net")).is_ok_and(|netns| netns == here);
        if DATAPLANES.contains(&name) && is_here() {
            found.push((pid, name.to_owned()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn read<T: FromStr>(path: &str) -> Option<T> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_the_kernel_writes_them() {
        assert_eq!(ranges(""), []);
        assert_eq!(ranges("80,30000-32767"), [(80, 80), (30_000, 32_767)]);
    }

    #[test]
    fn names_are_as_long_as_the_kernel_keeps_them() {
        assert!(DATAPLANES.iter().all(|name| name.len() <= 15));
    }
}
