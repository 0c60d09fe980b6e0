//! Does traffic reach what this node knows of, by real packets? What is to be tried
//! follows from what the agent says ([`plan()`]), is tried from the node and from
//! containers' own network namespaces ([`run()`]), and is printed by the command line.
//! Nothing is changed, and nobody is sent more than a handshake or a ping.

mod run;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use crate::api::view::{NodeView, ServiceBackend, ServiceView};

pub use run::run;

/// Of attempts that the node itself makes.
pub const HOST: &str = "host";

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// [`HOST`], or an endpoint's name.
    pub from: String,
    pub goal: Goal,
    /// What that is, in words.
    pub what: String,
    /// Who may answer is on another node (the backend's, if it is one), whose policies
    /// this one does not know.
    pub elsewhere: Option<String>,
    /// A backend itself is called, not its service.
    pub direct: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A connection is made, and closed.
    Connect(SocketAddr),
    /// An echo comes back of an IP packet of so many bytes that nobody may fragment,
    /// in the node's network namespace.
    Ping(IpAddr, usize),
    /// Nothing to try, and why.
    Skip(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Failed,
    /// Nobody on another node has answered; a policy there may want it so.
    Unclear,
    /// As the policies want it.
    Denied,
    Skipped,
    Ok,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    pub from: String,
    /// `address:port/TCP`, or an address; empty where there is nothing to try.
    pub to: String,
    pub what: String,
    pub outcome: Outcome,
    /// Microseconds until it was there.
    pub micros: Option<u64>,
    /// Why not; empty when it was.
    pub detail: String,
}

/// What `causeway connectivity-test -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing has failed.
    pub good: bool,
    pub ok: usize,
    pub denied: usize,
    pub skipped: usize,
    pub unclear: usize,
    pub failed: usize,
    /// In the order in which they were planned.
    pub tried: Vec<Tried>,
}

impl Report {
    pub fn new(tried: Vec<Tried>) -> Self {
        let count = |outcome| tried.iter().filter(|tried| tried.outcome == outcome).count();
        let [ok, denied, skipped, unclear, failed] =
            [Outcome::Ok, Outcome::Denied, Outcome::Skipped, Outcome::Unclear, Outcome::Failed].map(count);
        Self { good: failed == 0, ok, denied, skipped, unclear, failed, tried }
    }
}

/// What is known of this node.
pub struct Ground<'a> {
    /// Its name.
    pub node: &'a str,
    /// Of its uplink, in bytes; what packets between nodes may have.
    pub mtu: usize,
    pub nodes: &'a [NodeView],
    pub services: &'a [ServiceView],
    /// The node's own processes may call services.
    pub host_services: bool,
}

/// From each of these: every frontend of TCP, and every backend behind them; and
/// from the node to all others, in the largest packets that containers may send.
pub fn plan(ground: &Ground, from: &[String]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for from in from {
        let attempt = |goal, what| Attempt { from: from.clone(), goal, what, elsewhere: None, direct: false };
        if from == HOST {
            for node in ground.nodes.iter().filter(|node| node.name != ground.node) {
                let addresses = node.addresses.iter().filter_map(|address| address.parse().ok());
                let ping = |to| attempt(Goal::Ping(to, ground.mtu), format!("node {}", node.name));
                attempts.extend(addresses.map(ping));
            }
        }
        let mut backends = BTreeMap::new();
        for service in ground.services {
            let frontends: Vec<SocketAddr> =
                service.frontends.iter().filter_map(|text| ground.frontend(text)).collect();
            for &to in &frontends {
                let serving = service.backends.iter().filter(|backend| is_of(&backend.address, to));
                let goal = match ground.obstacle(from, service, serving.clone().count()) {
                    Some(why) => Goal::Skip(why),
                    None => Goal::Connect(to),
                };
                attempts.push(Attempt {
                    elsewhere: serving.clone().find_map(|backend| ground.elsewhere(backend)),
                    ..attempt(goal, format!("service {} at {to}", service.name))
                });
            }
            // One that serves several is tried once.
            for backend in service.backends.iter().filter(|_| !frontends.is_empty()) {
                if let Ok(to) = backend.address.parse::<SocketAddr>() {
                    backends.entry(to).or_insert((service, backend));
                }
            }
        }
        attempts.extend(backends.into_iter().map(|(to, (service, backend))| Attempt {
            elsewhere: ground.elsewhere(backend),
            direct: true,
            ..attempt(Goal::Connect(to), format!("backend of {}", service.name))
        }));
    }
    attempts
}

/// A backend serves frontends of its family.
fn is_of(backend: &str, frontend: SocketAddr) -> bool {
    backend.parse::<SocketAddr>().is_ok_and(|backend| backend.is_ipv4() == frontend.is_ipv4())
}

impl Ground<'_> {
    /// The other node that a backend is on; "another" where nobody says.
    fn elsewhere(&self, backend: &ServiceBackend) -> Option<String> {
        let node = backend.node.as_deref().unwrap_or("another");
        (node != self.node).then(|| node.to_owned())
    }

    /// Why nobody is to be reached at a service, as it is meant.
    fn obstacle(&self, from: &str, service: &ServiceView, backends: usize) -> Option<&'static str> {
        if backends == 0 {
            return Some("no endpoint serves it here");
        }
        if from != HOST {
            return None;
        }
        if !self.host_services {
            return Some("the node's own processes cannot call services (--host-services)");
        }
        let why =
            "its backends are to hear who the client is, which the node's own processes cannot tell them";
        service.proxy_protocol.as_ref().map(|_| why)
    }

    /// Where somebody of this node connects to for a frontend; `None`: it is not for
    /// them, or not of TCP. Of a range the first port; node ports at the node's own
    /// address.
    fn frontend(&self, text: &str) -> Option<SocketAddr> {
        let (address, rest) = text.split_once("/TCP")?;
        if rest.contains("outside") {
            return None;
        }
        // A range: no name or address has a hyphen.
        let address = address.split('-').next()?;
        let to: SocketAddr = address.parse().ok()?;
        if !to.ip().is_unspecified() {
            return Some(to);
        }
        let node = self.nodes.iter().find(|node| node.name == self.node)?;
        let mut own = node.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
        let own = own.find(|own| own.is_ipv4() == to.is_ipv4())?;
        Some(SocketAddr::new(own, to.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, frontends: &[&str], backends: &[&str]) -> ServiceView {
        let backend =
            |address: &&str| ServiceBackend { address: (*address).into(), ..ServiceBackend::default() };
        ServiceView {
            name: name.into(),
            frontends: frontends.iter().map(ToString::to_string).collect(),
            backends: backends.iter().map(backend).collect(),
            ..ServiceView::default()
        }
    }

    fn node(name: &str, addresses: &[&str]) -> NodeView {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        NodeView { name: name.into(), addresses, pod_cidrs: vec![], stray_pods: vec![], zone: None }
    }

    fn planned(services: &[ServiceView], from: &[&str]) -> Vec<String> {
        let nodes = [node("n0", &["192.168.0.1", "fd00::1"]), node("n1", &["192.168.0.2"])];
        let ground = Ground { node: "n0", mtu: 1500, nodes: &nodes, services, host_services: true };
        let from: Vec<String> = from.iter().map(ToString::to_string).collect();
        let line = |Attempt { from, goal, what, .. }: Attempt| match goal {
            Goal::Connect(to) => format!("{from} > {to}: {what}"),
            Goal::Ping(to, length) => format!("{from} > {to} in {length}: {what}"),
            Goal::Skip(why) => format!("{from}: {what}: {why}"),
        };
        plan(&ground, &from).into_iter().map(line).collect()
    }

    #[test]
    fn every_frontend_that_is_for_us_is_tried_and_every_backend_once() {
        let services = [
            service(
                "default/web:http",
                &["10.96.0.1:80/TCP", "0.0.0.0:30080/TCP", "[::]:30080/TCP", "[fd00:10::1]:80/TCP"],
                &["10.244.0.2:8080", "10.244.1.2:8080"],
            ),
            service("default/alias:http", &["10.96.0.2:80-90/TCP (from inside)"], &["10.244.0.2:8080"]),
            service("default/lb:http", &["192.0.2.1:80/TCP (from outside)"], &["10.244.0.3:8080"]),
            service("default/dns:dns", &["10.96.0.3:53/UDP"], &["10.244.0.4:53"]),
        ];
        let expected = [
            "host > 192.168.0.2 in 1500: node n1",
            "host > 10.96.0.1:80: service default/web:http at 10.96.0.1:80",
            "host > 192.168.0.1:30080: service default/web:http at 192.168.0.1:30080",
            "host: service default/web:http at [fd00::1]:30080: no endpoint serves it here",
            "host: service default/web:http at [fd00:10::1]:80: no endpoint serves it here",
            "host > 10.96.0.2:80: service default/alias:http at 10.96.0.2:80",
            "host > 10.244.0.2:8080: backend of default/web:http",
            "host > 10.244.1.2:8080: backend of default/web:http",
        ];
        assert_eq!(planned(&services, &["host"]), expected);
        let inside = planned(&services, &["default/a"]);
        assert_eq!(inside.len(), expected.len() - 1, "{inside:#?}");
        assert!(inside.iter().all(|line| line.starts_with("default/a")), "{inside:#?}");
    }

    #[test]
    fn what_is_meant_so_is_skipped_and_whom_others_decide_about_is_known() {
        let mut web = service("web", &["10.96.0.1:80/TCP"], &["10.244.0.2:80", "10.244.1.2:80"]);
        web.backends[0].node = Some("n0".into());
        let plan = |web: &ServiceView, from: &str, host_services| {
            let services = std::slice::from_ref(web);
            let ground = Ground { node: "n0", mtu: 1500, nodes: &[], services, host_services };
            plan(&ground, &[from.into()])
        };
        let elsewhere = |web: &ServiceView| -> Vec<Option<String>> {
            plan(web, HOST, true).into_iter().map(|attempt| attempt.elsewhere).collect()
        };
        let other = Some("another".to_owned());
        assert_eq!(elsewhere(&web), [other.clone(), None, other], "the service, and each backend");
        web.backends[1].node = Some("n1".into());
        assert_eq!(elsewhere(&web)[2].as_deref(), Some("n1"));
        web.backends.pop();
        assert_eq!(elsewhere(&web), [None, None]);

        let is_skipped = |web: &ServiceView, from, host_services| {
            matches!(plan(web, from, host_services)[0].goal, Goal::Skip(_))
        };
        assert!(!is_skipped(&web, HOST, true) && is_skipped(&web, HOST, false));
        web.proxy_protocol = Some("v2".into());
        assert!(is_skipped(&web, HOST, true) && !is_skipped(&web, "default/a", true));
    }

    #[test]
    fn a_report_counts_and_is_good_when_nothing_failed() {
        let tried = |outcome| Tried {
            from: HOST.into(),
            to: String::new(),
            what: String::new(),
            outcome,
            micros: None,
            detail: String::new(),
        };
        let report =
            |outcomes: &[Outcome]| Report::new(outcomes.iter().map(|outcome| tried(*outcome)).collect());
        let good = report(&[Outcome::Ok, Outcome::Denied, Outcome::Ok, Outcome::Skipped, Outcome::Unclear]);
        assert_eq!(
            (good.good, good.ok, good.denied, good.skipped + good.unclear, good.failed),
            (true, 2, 1, 2, 0)
        );
        assert!(!report(&[Outcome::Ok, Outcome::Failed]).good);
    }
}
