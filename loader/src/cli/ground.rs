//! Who is where, and what would a compiler be told? The agent's inputs, with a
//! directory's policies in place of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::flow_lines::Line;
use crate::{
    api::policy_inputs::{PodInput, PolicyInputs, ServiceInput},
    event::{
        Protocol,
        party::{self, pod_name},
        policy::{Transport, with_given},
    },
    model::{
        Model,
        desired::{Clients, Frontend},
    },
    policy::{Backend, Here, Name, Pod, Subject, Talk, Told},
};

impl PodInput {
    fn name(&self) -> Name {
        (self.namespace.clone(), self.name.clone())
    }

    fn pod(&self) -> Pod {
        let Self { labels, addresses, ports, .. } = self;
        Pod { labels: labels.clone(), addresses: addresses.clone(), ports: ports.clone() }
    }
}

/// What the agent's own compiler was told.
pub fn stands(inputs: &PolicyInputs) -> Told {
    let policies = inputs.policies.iter().map(|policy| (policy.id.clone(), policy.object.clone()));
    let told = Told {
        namespaces: inputs.namespaces.clone(),
        pods: inputs.pods.iter().map(|pod| (pod.name(), pod.pod())).collect(),
        services: BTreeMap::new(),
        policies: policies.collect(),
        endpoints: BTreeMap::new(),
    };
    complete(told, inputs)
}

/// The same with a directory's policies; and with its namespaces, and its pods,
/// if it has any.
pub fn candidate(inputs: &PolicyInputs, model: &Model) -> Told {
    let mut namespaces: BTreeMap<_, _> =
        model.namespaces().map(|(name, labels)| (name.clone(), labels.clone())).collect();
    if namespaces.is_empty() {
        namespaces = inputs.namespaces.clone();
    }
    let pods = model.pods().map(|(key, pod)| ((key.namespace.clone(), key.name.clone()), Pod::from(&**pod)));
    let mut pods: BTreeMap<Name, Pod> = pods.collect();
    if pods.is_empty() {
        pods = inputs.pods.iter().map(|pod| (pod.name(), pod.pod())).collect();
    }
    let policies = model.policies().map(|(key, policy)| (key.into(), policy.object));
    let (services, endpoints) = (BTreeMap::new(), BTreeMap::new());
    complete(Told { namespaces, pods, services, policies: policies.collect(), endpoints }, inputs)
}

/// Adds what no directory changes: the endpoints, and who serves what.
fn complete(mut told: Told, inputs: &PolicyInputs) -> Told {
    for endpoint in &inputs.endpoints {
        let name = pod_name(&endpoint.name);
        let object = told.pods.remove(&name);
        let labels = object.as_ref().map(|object| object.labels.clone()).unwrap_or_default();
        let labels = with_given(labels, &endpoint.given);
        told.pods.insert(name, Pod::here(object, labels, &endpoint.addresses));
    }
    let mut pods = std::mem::take(&mut told.pods);
    for ((namespace, _), pod) in &mut pods {
        pod.labels = told.admitted(namespace, std::mem::take(&mut pod.labels));
    }
    told.pods = pods;
    for endpoint in &inputs.endpoints {
        let name = pod_name(&endpoint.name);
        if let Some(Pod { labels, ports, .. }) = told.pods.get(&name).cloned() {
            let subject = Subject { namespace: name.0, labels, ports };
            told.endpoints.insert(endpoint.name.as_str().into(), subject);
        }
    }
    for ServiceInput { namespace, name, backends, .. } in &inputs.services {
        let addresses = told.services.entry((namespace.clone(), name.clone())).or_default();
        addresses.extend(backends.iter().map(SocketAddr::ip));
    }
    told
}

pub fn here(inputs: &PolicyInputs) -> Here {
    let endpoints = inputs.endpoints.iter().flat_map(|endpoint| {
        let name: Arc<str> = endpoint.name.as_str().into();
        endpoint.addresses.iter().map(move |address| (*address, name.clone()))
    });
    Here { endpoints: endpoints.collect(), own: inputs.own.iter().copied().collect() }
}

/// The flows that a line means: one for each family that both have, and for
/// each backend where a service is called.
///
/// # Errors
/// Who is not known, in words.
pub fn talks(line: &Line, told: &Told, inputs: &PolicyInputs) -> Result<Vec<Talk>, String> {
    let (from, to) = (addresses_of(&line.from, told, inputs)?, addresses_of(&line.to, told, inputs)?);
    let mut talks = Vec::new();
    for v6 in [false, true] {
        let first = |list: &[IpAddr]| list.iter().find(|address| address.is_ipv6() == v6).copied();
        let (Some(from), Some(to)) = (first(&from), first(&to)) else { continue };
        let protocol = line.protocol.number(v6);
        let served = backends(from, SocketAddr::new(to, line.port), line.protocol, inputs);
        let served = served.unwrap_or_else(|| vec![SocketAddr::new(to, line.port)]);
        talks.extend(served.iter().map(|to| Talk { from, to: to.ip(), protocol, port: to.port() }));
        if served.is_empty() {
            return Err(format!("{} serves nobody at port {}: it has no backend", line.to, line.port));
        }
    }
    match talks.is_empty() {
        true => Err(format!("{} and {} have no addresses of one family", line.from, line.to)),
        false => Ok(talks),
    }
}

fn addresses_of(party: &str, told: &Told, inputs: &PolicyInputs) -> Result<Vec<IpAddr>, String> {
    let endpoint = |name: &str| {
        let found = inputs.endpoints.iter().find(|endpoint| endpoint.name == name);
        found.map(|endpoint| endpoint.addresses.clone())
    };
    party::addresses_of(party, endpoint, |pod| told.pods.get(pod).map(|pod| pod.addresses.clone()))
}

/// Who serves a client at a service's address; `None`: it is nobody's.
fn backends(
    from: IpAddr,
    to: SocketAddr,
    protocol: Transport,
    inputs: &PolicyInputs,
) -> Option<Vec<SocketAddr>> {
    let protocol = match protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp | Transport::Icmp => return None,
    };
    let frontends = inputs
        .services
        .iter()
        .flat_map(|service| service.frontends.iter().map(move |frontend| (service, frontend)));
    let endpoints = inputs.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let inside = endpoints.chain(&inputs.own).any(|address| *address == from);
    let others = if inside { Clients::Outside } else { Clients::Inside };
    let holds = |(_, frontend): &(&ServiceInput, &Frontend)| {
        let at_node = frontend.address.is_unspecified()
            && frontend.address.is_ipv4() == to.is_ipv4()
            && inputs.own.contains(&to.ip());
        frontend.protocol == protocol
            && frontend.clients != others
            && (frontend.address == to.ip() || at_node)
            && (frontend.port..=frontend.end_port).contains(&to.port())
    };
    // As the programs ask: a port of its own before some, some before all.
    let (service, frontend) =
        frontends.filter(holds).min_by_key(|(_, frontend)| frontend.end_port - frontend.port)?;
    let family = service.backends.iter().filter(|backend| backend.is_ipv4() == to.is_ipv4());
    let offset = to.port() - frontend.port;
    let at = |backend: &SocketAddr| SocketAddr::new(backend.ip(), backend.port().wrapping_add(offset));
    Some(family.map(at).collect())
}

/// Who serves a service, at which ports.
pub fn backend_ports(name: &Name, inputs: &PolicyInputs) -> BTreeSet<Backend> {
    let is_meant = |service: &&ServiceInput| (&service.namespace, &service.name) == (&name.0, &name.1);
    let protocol = |service: &ServiceInput| Some(service.frontends.first()?.protocol);
    let meant = inputs.services.iter().filter(is_meant);
    let served = meant.filter_map(|service| Some((protocol(service)?, &service.backends)));
    served.flat_map(|(protocol, backends)| backends.iter().map(move |backend| (protocol, *backend))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::policy_inputs::PolicyInput, policy::PolicyId, snapshot::EndpointGround};

    fn inputs() -> PolicyInputs {
        let frontend = |address: &str, port, end_port| Frontend {
            end_port,
            ..Frontend::at(address.parse().unwrap(), port, Protocol::Tcp)
        };
        let frontends = vec![
            frontend("10.96.0.1", 80, 80),
            frontend("10.96.0.1", 1000, 1999),
            frontend("0.0.0.0", 30080, 30080),
            frontend("::", 30080, 30080),
        ];
        let backends = ["10.0.0.2:8000", "10.0.0.3:8000", "[fd00::2]:8000"];
        let service = ServiceInput {
            namespace: "a".into(),
            name: "web".into(),
            frontends,
            backends: backends.map(|backend| backend.parse().unwrap()).into(),
        };
        let pod = PodInput {
            namespace: "a".into(),
            name: "db".into(),
            labels: Arc::new([("app".into(), "db".into()), ("tier".into(), "back".into())].into()),
            addresses: vec!["10.0.0.9".parse().unwrap()],
            ports: [].into(),
        };
        let endpoint = EndpointGround {
            name: "a/db".into(),
            addresses: ["10.0.0.9", "fd00::9"].map(|address| address.parse().unwrap()).into(),
            given: [("app".into(), "other".into())].into(),
        };
        PolicyInputs {
            own: ["192.168.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into(),
            endpoints: vec![endpoint],
            pods: vec![pod],
            services: vec![service],
            ..PolicyInputs::default()
        }
    }

    #[test]
    fn labels_given_at_an_attach_win() {
        let told = stands(&inputs());
        let subject = &told.endpoints["a/db"];
        let labels: Vec<_> = subject.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!((&*subject.namespace, labels.join(",").as_str()), ("a", "app=other,tier=back"));
        let pod = &told.pods[&pod_name("a/db")];
        assert_eq!((&pod.labels, pod.addresses.len()), (&subject.labels, 2));
        assert_eq!(told.services[&pod_name("a/web")].len(), 3);
    }

    #[test]
    fn the_label_of_a_network_means_nothing_for_strangers() {
        use crate::event::policy::{NETWORK, Namespaces, PodSelector, PolicyObject, Selector, Tier};
        let network = |namespace: &str| {
            let namespaces = Namespaces::Named(namespace.into());
            let subject = PodSelector { namespaces, pods: Selector::default() };
            let (ingress, egress) = (None, None);
            PolicyObject {
                tier: Tier::Network,
                subject,
                ingress,
                egress,
                audit: false,
                reject: false,
                faulty: false,
            }
        };
        for (namespace, member) in [("a", true), ("b", false)] {
            let mut inputs = inputs();
            inputs.endpoints[0].given.insert(NETWORK.into(), "red".into());
            let id = PolicyId { kind: "VirtualNetwork".into(), namespace: "".into(), name: "red".into() };
            inputs.policies.push(PolicyInput { id, object: network(namespace).into() });
            let told = stands(&inputs);
            let labels = &told.endpoints["a/db"].labels;
            assert_eq!(labels.contains_key(NETWORK), member, "members in {namespace}");
            assert_eq!(labels, &told.pods[&pod_name("a/db")].labels);
        }
    }

    #[test]
    fn a_service_is_whoever_serves_it() {
        let (inputs, told) = (inputs(), stands(&inputs()));
        let to = |to: &str, protocol, port| {
            let from = if to.contains(':') { "fd00::9" } else { "10.0.0.9" }.into();
            let line = Line { number: 1, from, to: to.into(), protocol, port };
            let talks = talks(&line, &told, &inputs).unwrap();
            let ends: Vec<_> =
                talks.iter().map(|talk| SocketAddr::new(talk.to, talk.port).to_string()).collect();
            ends.join(" ")
        };
        let tcp = Transport::Tcp;
        assert_eq!(to("10.96.0.1", tcp, 80), "10.0.0.2:8000 10.0.0.3:8000");
        assert_eq!(to("10.96.0.1", tcp, 1002), "10.0.0.2:8002 10.0.0.3:8002");
        assert_eq!(to("10.96.0.1", tcp, 2000), "10.96.0.1:2000");
        assert_eq!(to("10.96.0.1", Transport::Udp, 80), "10.96.0.1:80");
        assert_eq!(to("192.168.0.1", tcp, 30080), "10.0.0.2:8000 10.0.0.3:8000");
        assert_eq!(to("fd00::1", tcp, 30080), "[fd00::2]:8000");
        assert_eq!(to("192.168.0.2", tcp, 30080), "192.168.0.2:30080");
    }

    #[test]
    fn of_several_that_have_a_port_the_narrowest_serves() {
        let mut inputs = inputs();
        let frontend = |port, end_port| Frontend { port, end_port, ..inputs.services[0].frontends[0] };
        let [all, some, one] = [(1, u16::MAX), (1000, 1099), (1050, 1050)].map(|(a, b)| frontend(a, b));
        for (name, frontend, backend) in
            [("all", all, "10.0.0.11:1"), ("some", some, "10.0.0.12:1000"), ("one", one, "10.0.0.13:80")]
        {
            let backends = vec![backend.parse().unwrap()];
            let service = ServiceInput {
                name: name.into(),
                frontends: vec![frontend],
                backends,
                ..inputs.services[0].clone()
            };
            inputs.services.insert(0, service);
        }
        // In either order.
        for _ in 0..2 {
            inputs.services.reverse();
            for (port, expected) in [(2, "10.0.0.11:2"), (1001, "10.0.0.12:1001"), (1050, "10.0.0.13:80")] {
                let to = SocketAddr::new("10.96.0.1".parse().unwrap(), port);
                let served = backends("10.0.0.9".parse().unwrap(), to, Transport::Tcp, &inputs).unwrap();
                assert_eq!(served, [expected.parse().unwrap()], "port {port}");
            }
        }
    }

    #[test]
    fn who_comes_from_outside_may_be_served_by_others() {
        let mut inputs = inputs();
        let all = inputs.services.remove(0);
        for (clients, backend) in [(Clients::Inside, "10.0.0.2:80"), (Clients::Outside, "10.0.0.3:80")] {
            let frontend = Frontend { clients, ..all.frontends[2] };
            let backends = vec![backend.parse().unwrap()];
            inputs.services.push(ServiceInput { frontends: vec![frontend], backends, ..all.clone() });
        }
        let to = "192.168.0.1:30080".parse().unwrap();
        // In either order.
        for _ in 0..2 {
            inputs.services.reverse();
            for (from, expected) in
                [("10.0.0.9", "10.0.0.2:80"), ("192.168.0.1", "10.0.0.2:80"), ("203.0.113.7", "10.0.0.3:80")]
            {
                let served = backends(from.parse().unwrap(), to, Transport::Tcp, &inputs).unwrap();
                assert_eq!(served, [expected.parse().unwrap()], "from {from}");
            }
        }
    }

    #[test]
    fn both_families_of_a_pair_are_asked() {
        let (inputs, told) = (inputs(), stands(&inputs()));
        let line = |from: &str, to: &str| Line {
            number: 1,
            from: from.into(),
            to: to.into(),
            protocol: Transport::Icmp,
            port: 0,
        };
        let talks = |from, to| talks(&line(from, to), &told, &inputs);
        let numbers: Vec<u8> = talks("a/db", "a/db").unwrap().iter().map(|talk| talk.protocol).collect();
        assert_eq!(numbers, [1, 58]);
        assert!(talks("10.0.0.1", "fd00::1").unwrap_err().contains("no addresses of one family"));
        assert!(talks("a/db", "nobody").unwrap_err().starts_with("nobody is neither"));
    }
}
