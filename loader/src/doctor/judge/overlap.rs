//! Does an address mean one thing? Networks of pods, of the host, and addresses
//! of services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Report;
use crate::{
    doctor::{
        Level,
        facts::{Facts, Network, Said},
    },
    kernel::routes::ROUTE_PROTOCOL,
};

pub fn judge(facts: &Facts, report: &mut Report) {
    let Some(said) = facts.agent.said() else { return };
    let pods: Vec<(&str, IpNet)> = said
        .nodes
        .iter()
        .flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (node.name.as_str(), cidr)))
        .filter_map(|(node, cidr)| Some((node, cidr.parse().ok()?)))
        .collect();
    between_nodes(&pods, report);
    with_host(&pods, &facts.network, said, report);
    services(&pods, &facts.network, said, report);
    routes(&pods, &facts.network, said, report);
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn between_nodes(pods: &[(&str, IpNet)], report: &mut Report) {
    // By where they begin, so that what overlaps stands close by.
    let mut sorted: Vec<_> = pods.iter().map(|(node, network)| (network.trunc(), *node)).collect();
    sorted.sort_unstable();
    let mut widest: Option<(IpNet, &str)> = None;
    for (network, node) in sorted {
        if let Some((other, owner)) = widest
            && overlap(&other, &network)
        {
            let message =
                format!("{network} of {node} lies in {other} of {owner}: one gets the other's packets");
            let remedy = "give each node a network of its own (Node spec.podCIDRs)";
            report.fault("pod-network-overlap", format!("nodes {owner}, {node}"), message, remedy);
        } else {
            widest = Some((network, node));
        }
    }
}

fn with_host(pods: &[(&str, IpNet)], network: &Network, said: &Said, report: &mut Report) {
    let nodes = said.nodes.iter().flat_map(|node| &node.addresses).filter_map(|address| address.parse().ok());
    let hosts: Vec<IpAddr> = nodes.chain(network.routes.iter().filter_map(|seen| seen.route.via)).collect();
    let mut told = BTreeSet::new();
    for (seen, connected) in network.connected() {
        let connected = connected.trunc();
        for (node, pods) in pods.iter().filter(|(_, pods)| overlap(pods, &connected)) {
            let name = &seen.link.name;
            if told.insert((name, connected, pods)) {
                let message = format!("{connected} at {name} overlaps the pods' {pods} of {node}");
                let remedy = "take the address off that interface, or give the node another pod network";
                // The routes of narrower networks win: it is to be hoped that no host is there.
                let wins = connected.prefix_len() < pods.prefix_len();
                let taken = hosts.iter().any(|host| pods.contains(host));
                let level = if wins && !taken { Level::Warning } else { Level::Fault };
                report.add(level, "host-network-overlap", name, message, remedy);
            }
        }
    }
}

fn services(pods: &[(&str, IpNet)], network: &Network, said: &Said, report: &mut Report) {
    let nodes: BTreeSet<IpAddr> = said
        .nodes
        .iter()
        .flat_map(|node| &node.addresses)
        .filter_map(|address| address.parse().ok())
        .chain(network.connected().map(|(_, network)| network.addr()))
        .collect();
    let mut places: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for service in &said.services {
        for address in service.frontends.iter().filter_map(|frontend| address(frontend)) {
            if !address.is_unspecified() && !nodes.contains(&address) {
                places.entry(address).or_insert(&service.name);
            }
        }
    }
    let within = |network: &IpNet| {
        let mut inside = places.iter().filter(|(address, _)| network.contains(*address));
        let (address, service) = inside.next()?;
        let more = inside.count();
        let more = if more == 0 { String::new() } else { format!(", and {more} more,") };
        Some((service.to_string(), format!("{address}{more} in {network}")))
    };
    for (node, network) in pods {
        if let Some((service, what)) = within(network) {
            let message = format!("{what}, where pods of {node} have theirs");
            let remedy = "keep the range of service addresses apart from pod networks";
            report.fault("service-in-pod-network", service, message, remedy);
        }
    }
    let connected: BTreeMap<IpNet, &str> =
        network.connected().map(|(seen, network)| (network.trunc(), seen.link.name.as_str())).collect();
    for (network, name) in connected {
        // The host's own address is nobody else's.
        if network.prefix_len() < network.max_prefix_len()
            && let Some((service, what)) = within(&network)
        {
            let message = format!(
                "{what} at {name}: hosts there look for it on the link, and find whoever announces it, or nobody"
            );
            let remedy = "none needed where they are announced; else take them from a range of their own";
            report.note("service-in-host-network", service, message, remedy);
        }
    }
}

/// Of `10.0.0.1:80/TCP (from inside)`.
fn address(frontend: &str) -> Option<IpAddr> {
    let (address, _) = frontend.split_whitespace().next()?.rsplit_once(':')?;
    address.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Routes to containers and to nodes' pods that are not the agent's.
fn routes(pods: &[(&str, IpNet)], network: &Network, said: &Said, report: &mut Report) {
    let endpoints = said.endpoints.iter().flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
        addresses.map(|address| (address, endpoint.name.as_str()))
    });
    let endpoints: BTreeMap<IpAddr, &str> = endpoints.collect();
    let links: Vec<IpNet> = network.uplink().map_or(Vec::new(), |uplink| uplink.addresses.clone());
    // To others' pods somebody else has to give the way.
    let is_on_link = |name: &str| {
        let addresses = said.nodes.iter().filter(|node| node.name == name).flat_map(|node| &node.addresses);
        let mut addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
        addresses.any(|address| links.iter().any(|network| network.contains(&address)))
    };
    for seen in network.routes.iter().filter(|seen| seen.protocol != ROUTE_PROTOCOL) {
        let to = seen.route.destination;
        let whose = match endpoints.get(&to.addr()) {
            Some(name) if to.prefix_len() == to.max_prefix_len() => format!("container {name}"),
            _ => match pods.iter().find(|(_, pods)| pods.trunc() == to.trunc()) {
                Some((node, _)) if is_on_link(node) => format!("the pods of {node}"),
                _ => continue,
            },
        };
        // That of a connected network is told as an overlap.
        if seen.protocol == libc::RTPROT_KERNEL {
            continue;
        }
        let by = network.name(seen.route.ifindex);
        let message =
            format!("a route to {whose} by {by} that is not the agent's (protocol {})", seen.protocol);
        report.warning(
            "foreign-route",
            to,
            message,
            format!("ip route del {to} dev {by} proto {}", seen.protocol),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, sound, with};
    use super::*;
    use crate::doctor::Level::{Fault, Note, Warning};

    fn pods(node: usize, cidr: &str) -> impl FnOnce(&mut Facts) {
        move |facts| with(facts, |said| said.nodes[node].pod_cidrs = vec![cidr.to_owned()])
    }

    #[test]
    fn each_node_has_its_own_network() {
        check(pods(1, "10.244.0.0/24"), &[(Fault, "pod-network-overlap")]);
        check(pods(1, "10.244.0.0/16"), &[(Fault, "pod-network-overlap")]);
        check(pods(1, "10.244.0.128/25"), &[(Fault, "pod-network-overlap")]);
        check(pods(1, "10.244.2.0/24"), &[]);
    }

    #[test]
    fn a_wide_network_meets_all_within() {
        let three = |facts: &mut Facts| {
            with(facts, |said| {
                said.nodes[0].pod_cidrs = vec!["10.244.0.0/16".into()];
                said.nodes[1].pod_cidrs = vec!["10.244.7.0/24".into(), "10.244.9.0/24".into()];
            });
        };
        check(three, &[(Fault, "pod-network-overlap"), (Fault, "pod-network-overlap")]);
    }

    #[test]
    fn the_hosts_networks_are_not_for_pods() {
        let expected = [(Fault, "host-network-overlap")];
        check(pods(1, "192.168.0.0/17"), &expected);
        check(pods(1, "192.168.77.128/25"), &[(Warning, "host-network-overlap")]);
        // Both nodes are there.
        check(pods(1, "192.168.77.0/28"), &expected);
        check(pods(1, "192.168.78.0/24"), &[]);
        let bridge = |facts: &mut Facts| {
            facts.network.links[1].addresses = vec!["10.244.1.1/24".parse().unwrap()];
        };
        check(bridge, &expected);
    }

    #[test]
    fn services_have_a_range_of_their_own() {
        let at = |frontend: &'static str| {
            move |facts: &mut Facts| with(facts, |said| said.services[0].frontends = vec![frontend.into()])
        };
        check(at("10.244.1.7:80/TCP"), &[(Fault, "service-in-pod-network")]);
        check(at("192.168.77.99:80/TCP (from outside)"), &[(Note, "service-in-host-network")]);
        check(at("[fd00:77::99]:10000-20000/UDP"), &[(Note, "service-in-host-network")]);
        // Node ports, and services at a node's own address.
        check(at("0.0.0.0:30080/TCP"), &[]);
        check(at("192.168.77.11:80/TCP"), &[]);
    }

    #[test]
    fn many_addresses_are_one_finding() {
        let mut facts = sound();
        with(&mut facts, |said| {
            said.services[0].frontends = (1..=9).map(|host| format!("10.244.1.{host}:80/TCP")).collect();
        });
        let findings = super::super::judge(&facts).findings;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.starts_with("10.244.1.1, and 8 more, in 10.244.1.0/24"), "{findings:?}");
    }

    #[test]
    fn routes_of_others_are_told_from_ours() {
        let route = |to: &'static str, protocol| {
            move |facts: &mut Facts| {
                let mut seen = facts.network.routes[0].clone();
                (seen.route.destination, seen.protocol) = (to.parse().unwrap(), protocol);
                facts.network.routes.push(seen);
            }
        };
        check(route("10.244.0.10/32", 3), &[(Warning, "foreign-route")]);
        check(route("fd00:10:244::a/128", 186), &[(Warning, "foreign-route")]);
        check(route("10.244.1.0/24", 4), &[(Warning, "foreign-route")]);
        check(route("10.244.0.10/32", 202), &[]);
        check(route("10.244.0.11/32", 3), &[]);
        let far = |facts: &mut Facts| {
            with(facts, |said| said.nodes[1].addresses = vec!["10.9.9.9".into()]);
            route("10.244.1.0/24", 4)(facts);
        };
        check(far, &[]);
    }
}
