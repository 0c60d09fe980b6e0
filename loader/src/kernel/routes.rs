//! Which kernel routes do we keep? To the pods of other nodes, and to our own
//! endpoints; under a protocol number of our own, so that nobody else's route
//! is ever taken for ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    event::Problem,
    model::desired::{Endpoint, Node},
    netlink::{Netlink, Route},
};

/// Route protocol number (rtnetlink(7)); `ip route show proto 202` lists ours.
pub const ROUTE_PROTOCOL: u8 = 202;

/// What a round of keeping routes did.
#[derive(Debug, Default, PartialEq)]
pub struct RouteReport {
    pub added: usize,
    pub removed: usize,
    /// Routes that an earlier round had set and that were gone or altered.
    pub repaired: Vec<String>,
    pub problems: Vec<Problem>,
}

#[derive(Default)]
pub struct RouteTable {
    /// What the last round left.
    kept: BTreeSet<Route>,
}

impl RouteTable {
    /// Makes the kernel's routes of our protocol the wanted ones.
    ///
    /// # Errors
    /// When the routes cannot be read; a route that cannot be set is a problem
    /// in the report.
    pub async fn reconcile(
        &mut self,
        netlink: &Netlink,
        wanted: &BTreeSet<Route>,
    ) -> io::Result<RouteReport> {
        let there: BTreeSet<Route> = netlink.routes(Some(ROUTE_PROTOCOL)).await?.into_iter().collect();
        let mut report = RouteReport::default();
        for route in there.difference(wanted) {
            match netlink.delete_route(route, ROUTE_PROTOCOL).await {
                Ok(()) => report.removed += 1,
                Err(error) => report.problems.push(problem(route, &format!("cannot be removed: {error}"))),
            }
            if !self.kept.contains(route) && !self.kept.is_empty() {
                report.repaired.push(format!("route {}: foreign, removed", route.destination));
            }
        }
        let mut kept: BTreeSet<Route> = wanted.intersection(&there).cloned().collect();
        for route in wanted.difference(&there) {
            match netlink.add_route(route, ROUTE_PROTOCOL).await {
                Ok(()) => {
                    report.added += 1;
                    kept.insert(route.clone());
                    if self.kept.contains(route) {
                        report.repaired.push(format!("route {}: missing, set again", route.destination));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let message = "another route has this destination: remove it, or take it for ours";
                    report.problems.push(problem(route, message));
                }
                Err(error) => report.problems.push(problem(route, &format!("cannot be set: {error}"))),
            }
        }
        self.kept = kept;
        Ok(report)
    }

    /// Removes every route of ours.
    ///
    /// # Errors
    /// When routes cannot be read or removed.
    pub async fn remove_all(&mut self, netlink: &Netlink) -> io::Result<()> {
        for route in netlink.routes(Some(ROUTE_PROTOCOL)).await? {
            netlink.delete_route(&route, ROUTE_PROTOCOL).await?;
        }
        self.kept.clear();
        Ok(())
    }
}

/// The routes of this node: one for each endpoint's address, and for each pod
/// network and stray pod of another node whose address is on the uplink's link.
pub fn wanted<'a>(
    nodes: &BTreeMap<Arc<str>, Node>,
    this_node: &str,
    (uplink, networks): (u32, &[IpNet]),
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> (BTreeSet<Route>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut routes: BTreeMap<IpNet, Route> = BTreeMap::new();
    let mut owners: BTreeMap<IpNet, &str> = BTreeMap::new();
    for endpoint in endpoints {
        for address in &endpoint.addresses {
            let destination = IpNet::from(*address);
            routes.insert(destination, Route { destination, via: None, ifindex: endpoint.ifindex });
        }
    }
    for (name, node) in nodes.iter().filter(|(name, _)| &***name != this_node) {
        let stray = node.stray_pods.iter().map(|&address| IpNet::from(address));
        let networks_behind: Vec<IpNet> = node.pod_cidrs.iter().copied().chain(stray).collect();
        let on_link = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
        for destination in networks_behind {
            let problem = |message: String| Problem {
                origin: None,
                object: format!("Node {name}"),
                field: "spec.podCIDRs".into(),
                message,
            };
            let v4 = matches!(destination, IpNet::V4(_));
            let via =
                node.addresses.iter().find(|address| address.is_ipv4() == v4 && on_link(address)).copied();
            let Some(via) = via else {
                let message = "no address of the node is on the uplink's network: its pods need another way";
                problems.push(problem(format!("{destination}: {message}")));
                continue;
            };
            if let Some(owner) = owners.get(&destination) {
                problems.push(problem(format!("{destination} belongs to node {owner} already")));
                continue;
            }
            owners.insert(destination, name);
            // An endpoint attached here is here, whatever the manifests say.
            routes.entry(destination).or_insert(Route { destination, via: Some(via), ifindex: uplink });
        }
    }
    (routes.into_values().collect(), problems)
}

fn problem(route: &Route, message: &str) -> Problem {
    Problem {
        origin: None,
        object: format!("route {}", route.destination),
        field: String::new(),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: [u8; 4], cidr: &str, stray: &[[u8; 4]]) -> Node {
        Node {
            addresses: vec![address.into()],
            pod_cidrs: vec![cidr.parse().unwrap()],
            stray_pods: stray.iter().map(|&address| address.into()).collect(),
            zone: None,
            leaving: false,
        }
    }

    #[test]
    fn other_nodes_on_the_link_get_routes_and_the_rest_a_problem() {
        let nodes = [
            ("n1", node([192, 168, 77, 1], "10.244.1.0/24", &[])),
            ("n2", node([192, 168, 77, 2], "10.244.2.0/24", &[[10, 9, 9, 9]])),
            ("n3", node([172, 16, 0, 3], "10.244.3.0/24", &[])),
            ("n4", node([192, 168, 77, 4], "10.244.2.0/24", &[])),
        ];
        let nodes = nodes.into_iter().map(|(name, node)| (name.into(), node)).collect();
        let endpoint = Endpoint {
            addresses: vec![[10, 244, 1, 5].into()],
            interface: "cw".into(),
            ifindex: 9,
            mac: [0; 6],
            policy: None,
        };
        let networks = ["192.168.77.1/24".parse().unwrap()];
        let (routes, problems) = wanted(&nodes, "n1", (3, &networks), [&endpoint].into_iter());
        let text: Vec<String> = routes
            .iter()
            .map(|route| {
                format!("{} {:?} {}", route.destination, route.via.map(|via| via.to_string()), route.ifindex)
            })
            .collect();
        assert_eq!(
            text,
            [
                "10.9.9.9/32 Some(\"192.168.77.2\") 3",
                "10.244.1.5/32 None 9",
                "10.244.2.0/24 Some(\"192.168.77.2\") 3",
            ]
        );
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
