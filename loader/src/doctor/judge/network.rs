//! Do the interfaces and the settings of the host's own stack let packets by?

use super::Report;
use crate::{
    doctor::facts::{Facts, Network, Said, Settings, is_link_local},
    kernel::bpf::{NODE_PORTS, widest},
    netlink::Seen,
};

/// Below this a link has no IPv6 (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;
/// So many ports are few, for the flows to one host.
const FEW_PORTS: u16 = 4096;
/// `RTPROT_RA`: learned from a router's advertisement.
const FROM_ROUTER: u8 = 9;
const STRICT: u64 = 1;
/// Of the table of connections.
const NEARLY_FULL: u64 = 90;

pub fn judge(facts: &Facts, report: &mut Report) {
    uplink(&facts.network, report);
    ports(&facts.settings, report);
    conntrack(&facts.settings, report);
    let Some(uplink) = facts.network.uplink() else { return };
    let said = facts.agent.said();
    let name = &uplink.link.name;
    link(uplink, report);
    rp_filter(name, &facts.settings, report);
    if let Some(said) = said {
        forwarding(name, &facts.settings, said, report);
        ipv6(name, &facts.settings, said, report);
        container_mtu(uplink, &facts.network, said, report);
    }
    router(uplink, facts, report);
}

fn uplink(network: &Network, report: &mut Report) {
    if network.links.is_empty() {
        // They could not be read, which is said.
        return;
    }
    let mut interfaces: Vec<u32> = network.defaults().collect();
    interfaces.dedup();
    let mut names: Vec<String> = interfaces.iter().map(|ifindex| network.name(*ifindex)).collect();
    match (network.uplink(), &network.named) {
        (None, Some(name)) => {
            let remedy = "give --uplink the name of one of `ip -br link`";
            report.fault("uplink-missing", name, "there is no such interface".into(), remedy);
        }
        (None, None) => {
            let message = "no default route leads to one, and none is named".to_owned();
            report.fault("uplink-missing", "uplink", message, "give --uplink NAME, here and to the agent");
        }
        (Some(uplink), None) => {
            let first = &uplink.link.name;
            names.retain(|name| name != first);
            names.sort();
            names.dedup();
            if !names.is_empty() {
                let others = names.join(", ");
                let message = format!("default routes also lead to {others}; the agent takes {first}");
                report.warning("uplink-ambiguous", first, message, "give --uplink NAME to the agent");
            }
        }
        (Some(_), Some(_)) => {}
    }
}

fn link(uplink: &Seen, report: &mut Report) {
    let name = &uplink.link.name;
    if !uplink.is_up {
        report.fault("uplink-down", name, "is down".into(), format!("ip link set {name} up"));
    } else if !uplink.has_carrier {
        let message = "is up, and nothing is at its other end".to_owned();
        report.fault("uplink-down", name, message, "look at the cable, or at the other end");
    }
    if uplink.addresses.iter().all(is_link_local) {
        let message = "has no address: nobody can answer this node".to_owned();
        report.fault("uplink-address", name, message, format!("ip address add ADDRESS/LENGTH dev {name}"));
    }
    let mtu = uplink.link.mtu;
    if mtu < LEAST_MTU {
        let message = format!("an MTU of {mtu}: IPv6 needs {LEAST_MTU}");
        report.warning("uplink-mtu", name, message, format!("ip link set {name} mtu 1500"));
    }
}

fn rp_filter(uplink: &str, settings: &Settings, report: &mut Report) {
    // The kernel takes the larger (ip-sysctl).
    let (all, own) = (settings.rp_filter_all.unwrap_or(0), settings.rp_filter.unwrap_or(0));
    if all.max(own) == STRICT {
        let key = |of: &str| format!("net/ipv4/conf/{of}/rp_filter");
        let keys = [(all, key("all")), (own, key(uplink))];
        let strict: Vec<String> =
            keys.into_iter().filter(|(value, _)| *value == STRICT).map(|(_, key)| key).collect();
        let message = "is 1: what comes in by another interface than answers leave by is dropped before \
                       processes of the node see it";
        let remedy = format!("sysctl -w net/ipv4/conf/{uplink}/rp_filter=2");
        report.warning("rp-filter", strict.join(", "), message.into(), remedy);
    }
}

fn forwarding(uplink: &str, settings: &Settings, said: &Said, report: &mut Report) {
    let xdp = said.status.hook.split('+').any(|hook| hook == "xdp");
    let families = [("ipv4", settings.forwarding_v4, '.'), ("ipv6", settings.forwarding_v6, ':')];
    for (family, value, mark) in families {
        let direct = said.services.iter().find(|service| {
            let of_family = service.frontends.iter().any(|frontend| is_of_family(frontend, mark));
            of_family && service.dsr.as_deref() == Some("l2")
        });
        let who = match direct {
            _ if value != Some(0) => continue,
            _ if xdp => "XDP carries nothing".to_owned(),
            Some(service) => format!("answers of {} come back through this node", service.name),
            None => continue,
        };
        let key = format!("net/{family}/conf/{uplink}/forwarding");
        let remedy = format!("sysctl -w {key}=1, and start the agent again");
        report.warning("forwarding", &key, format!("is 0: {who}"), remedy);
    }
}

/// By its text: `10.0.0.1:80/TCP` or `[fd00::1]:80/TCP`.
fn is_of_family(frontend: &str, mark: char) -> bool {
    frontend.starts_with('[') == (mark == ':')
}

fn ipv6(uplink: &str, settings: &Settings, said: &Said, report: &mut Report) {
    let addresses = said.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let count = addresses.filter(|address| address.contains(':')).count();
    if count > 0 && settings.ipv6_disabled == Some(1) {
        let key = format!("net/ipv6/conf/{uplink}/disable_ipv6");
        let message = format!("is 1, or the kernel has no IPv6; containers here have {count} IPv6 addresses");
        report.fault("ipv6-disabled", &key, message, format!("sysctl -w {key}=0"));
    }
}

fn container_mtu(uplink: &Seen, network: &Network, said: &Said, report: &mut Report) {
    let most = uplink.link.mtu;
    for endpoint in &said.endpoints {
        let link = network.links.iter().find(|seen| seen.link.index == endpoint.ifindex);
        if let Some(mtu) = link.map(|seen| seen.link.mtu).filter(|mtu| *mtu > most) {
            let message = format!("an MTU of {mtu}, and {most} at {}", uplink.link.name);
            let remedy = "attach it again without --mtu: `causeway endpoint detach`, then `attach`";
            report.warning("container-mtu", &endpoint.name, message, remedy);
        }
    }
}

/// A host that forwards does not listen to routers unless told to.
fn router(uplink: &Seen, facts: &Facts, report: &mut Report) {
    let (settings, name) = (&facts.settings, &uplink.link.name);
    let learned = facts.network.routes.iter().any(|seen| {
        let route = &seen.route;
        seen.protocol == FROM_ROUTER
            && route.ifindex == uplink.link.index
            && route.destination.prefix_len() == 0
    });
    if learned && settings.forwarding_v6 == Some(1) && settings.accept_ra == Some(1) {
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        let message = "is 1 where IPv6 is forwarded: the default route from a router's advertisement is not \
                       renewed, and ends";
        report.fault("accept-ra", &key, message.into(), format!("sysctl -w {key}=2"));
    }
}

fn ports(settings: &Settings, report: &mut Report) {
    let key = "net.ipv4.ip_local_port_range";
    let Some((first, last)) = settings.local_ports else { return };
    let covered =
        settings.reserved_ports.iter().any(|(from, to)| *from <= NODE_PORTS.0 && *to >= NODE_PORTS.1);
    if first <= NODE_PORTS.1 && last >= NODE_PORTS.0 && !covered {
        let message = format!(
            "is {first} to {last}: a datagram socket of the host that gets a node port's number loses its answers"
        );
        let remedy = "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767";
        report.warning("node-ports", key, message, remedy);
    }
    let room = widest([(first, last), NODE_PORTS]).map_or(0, |ports| ports.last - ports.first + 1);
    if room < FEW_PORTS {
        let message = match room {
            0 => format!("is {first} to {last}: the sources that the node gives are the host's own, too"),
            _ => format!(
                "is {first} to {last}: that leaves {room} ports in a row for the sources that the node gives"
            ),
        };
        let remedy = format!("sysctl -w {key}=\"32768 60999\", and start the agent again");
        report.warning("source-ports", key, message, remedy);
    }
}

fn conntrack(settings: &Settings, report: &mut Report) {
    let Some((count, most)) = settings.conntrack else { return };
    if most > 0 && count * 100 >= most * NEARLY_FULL {
        let message = format!(
            "netfilter follows {count} connections of at most {most}: then it drops new ones of the host's stack"
        );
        let remedy = format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 2);
        report.warning("conntrack-full", "net.netfilter.nf_conntrack_max", message, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, with};
    use super::*;
    use crate::doctor::Level::{Fault, Warning};

    #[test]
    fn the_larger_filter_counts() {
        let set = |all, own| {
            move |facts: &mut Facts| {
                (facts.settings.rp_filter_all, facts.settings.rp_filter) = (Some(all), Some(own));
            }
        };
        check(set(1, 0), &[(Warning, "rp-filter")]);
        check(set(0, 1), &[(Warning, "rp-filter")]);
        check(set(1, 2), &[]);
        check(set(2, 1), &[]);
        check(set(0, 0), &[]);
    }

    #[test]
    fn an_uplink_is_one_and_up_and_has_an_address() {
        check(|facts| facts.network.named = Some("eth9".into()), &[(Fault, "uplink-missing")]);
        check(|facts| facts.network.routes.clear(), &[(Fault, "uplink-missing")]);
        check(|facts| facts.network.links[0].is_up = false, &[(Fault, "uplink-down")]);
        check(|facts| facts.network.links[0].has_carrier = false, &[(Fault, "uplink-down")]);
        let nameless = [(Fault, "uplink-address"), (Fault, "node-address")];
        check(|facts| facts.network.links[0].addresses.clear(), &nameless);
        let local =
            |facts: &mut Facts| facts.network.links[0].addresses = vec!["fe80::1/64".parse().unwrap()];
        check(local, &nameless);
        let small = |facts: &mut Facts| facts.network.links[0].link.mtu = 1279;
        check(small, &[(Warning, "uplink-mtu"), (Warning, "container-mtu")]);
        let two = |facts: &mut Facts| {
            let mut second = facts.network.routes[0].clone();
            second.route.ifindex = 3;
            facts.network.routes.push(second);
        };
        check(two, &[(Warning, "uplink-ambiguous")]);
        let named = |facts: &mut Facts| {
            two(facts);
            facts.network.named = Some("eth0".into());
        };
        check(named, &[]);
    }

    #[test]
    fn forwarding_is_asked_of_those_who_need_it() {
        let off = |facts: &mut Facts| facts.settings.forwarding_v4 = Some(0);
        check(off, &[]);
        let xdp = |facts: &mut Facts| {
            off(facts);
            with(facts, |said| said.status.hook = "tcx+xdp+sockets".into());
        };
        check(xdp, &[(Warning, "forwarding")]);
        let direct = |facts: &mut Facts| {
            off(facts);
            with(facts, |said| said.services[0].dsr = Some("l2".into()));
        };
        check(direct, &[(Warning, "forwarding")]);
        let other = |facts: &mut Facts| {
            direct(facts);
            with(facts, |said| said.services[0].frontends = vec!["[fd00:10:96::1]:80/TCP".into()]);
        };
        check(other, &[]);
    }

    #[test]
    fn ports_of_the_host_leave_room_for_others() {
        let range = |first, last| move |facts: &mut Facts| facts.settings.local_ports = Some((first, last));
        check(range(32_768, 60_999), &[]);
        check(range(10_000, 65_535), &[(Warning, "node-ports")]);
        check(range(1024, 65_535), &[(Warning, "node-ports"), (Warning, "source-ports")]);
        let reserved = |facts: &mut Facts| {
            range(10_000, 65_535)(facts);
            facts.settings.reserved_ports = vec![(30_000, 32_767)];
        };
        check(reserved, &[]);
    }

    #[test]
    fn ipv6_is_missed_where_it_is_used() {
        let off = |facts: &mut Facts| facts.settings.ipv6_disabled = Some(1);
        check(off, &[(Fault, "ipv6-disabled")]);
        let only_v4 = |facts: &mut Facts| {
            off(facts);
            with(facts, |said| said.endpoints[0].addresses.truncate(1));
        };
        check(only_v4, &[]);
    }

    #[test]
    fn a_router_is_heard_where_the_host_forwards() {
        let learned = |accept_ra| {
            move |facts: &mut Facts| {
                facts.settings.accept_ra = Some(accept_ra);
                facts.network.routes[0].protocol = FROM_ROUTER;
            }
        };
        check(learned(1), &[(Fault, "accept-ra")]);
        check(learned(2), &[]);
        check(|facts| facts.settings.accept_ra = Some(1), &[]);
    }

    #[test]
    fn a_table_fills_before_it_is_full() {
        check(|facts| facts.settings.conntrack = Some((899, 1000)), &[]);
        check(|facts| facts.settings.conntrack = Some((900, 1000)), &[(Warning, "conntrack-full")]);
        check(|facts| facts.settings.conntrack = Some((0, 0)), &[]);
    }
}
