//! What do a container's labels say? All of them are its pod's, for policies; some of
//! them name services that it is a backend of.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Objects, containers::Container};
use crate::{
    event::{
        EndpointState, Kind, Object, ObjectKey, Origin, PodObject, Problem, Protocol, ServiceObject,
        ServicePort, SliceEndpoint, SliceObject, SlicePort,
        container::{NAMESPACE, name_of},
        label,
    },
    providers::{
        Names,
        convert::{WEIGHT, unicast, weight_of},
    },
};

/// Where a service is that the container serves: `10.96.0.9:80>8080`, several with
/// commas between them.
pub const VIP: &str = "causeway.io/vip";
/// Put there by us: how people call the container, and its network.
pub const CONTAINER: &str = "causeway.io/container";
pub const DOCKER_NETWORK: &str = "causeway.io/docker-network";

/// A frontend, and the container's port behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Vip {
    at: SocketAddr,
    protocol: Protocol,
    port: u16,
}

impl Vip {
    /// A name that an EndpointSlice of another source may have in its label.
    fn service(self) -> String {
        let name = format!("vip-{}-{}-{}", self.at.ip(), self.at.port(), self.protocol);
        name.to_lowercase().replace(['.', ':'], "-")
    }
}

/// All that is to be said of these, and what of it cannot be.
pub fn objects(containers: &[Container], node: &Arc<str>, source: &Arc<str>) -> (Objects, Vec<Problem>) {
    let (mut objects, mut problems, mut names) = (Objects::new(), Vec::new(), Names::default());
    let key = |kind: Kind, name: &str| ObjectKey { kind, namespace: NAMESPACE.into(), name: name.into() };
    for container in containers {
        let origin = Arc::new(Origin { source: source.clone(), place: container.name.as_str().into() });
        let mut wrong = |field: &str, message: String| {
            problems.push(Problem {
                origin: Some((*origin).clone()),
                object: format!("container {}", container.name),
                field: format!("labels[{field}]"),
                message,
            });
        };
        let name = name_of(&container.endpoint);
        let pod = Object::Pod(Arc::new(pod(container, node, &mut names)));
        objects.insert(key(Kind::Pod, name), (Arc::new(pod), origin.clone()));
        let Some(text) = container.labels.get(VIP) else { continue };
        let weight = weight_of(container.labels.get(WEIGHT).map(String::as_str)).unwrap_or_else(|message| {
            wrong(WEIGHT, message);
            1
        });
        for part in text.split(',') {
            let vip = parse(part.trim()).and_then(|vip| Ok((vip, backend(container, vip)?)));
            let (vip, address) = match vip {
                Ok(found) => found,
                Err(message) => {
                    wrong(VIP, message);
                    continue;
                }
            };
            let service = vip.service();
            objects
                .entry(key(Kind::Service, &service))
                .or_insert_with(|| (Arc::new(Object::Service(object(vip))), origin.clone()));
            let state = if container.ready { EndpointState::Ready } else { EndpointState::NotReady };
            let endpoint = SliceEndpoint { address, state, node: Some(node.clone()), place: None };
            let port = SlicePort { name: "".into(), protocol: vip.protocol, port: vip.port };
            let slice = SliceObject {
                service: service.as_str().into(),
                ports: vec![port],
                endpoints: vec![endpoint],
                weight,
                changed: None,
            };
            let slice_key = key(Kind::EndpointSlice, &format!("{name}.{service}"));
            objects.insert(slice_key, (Arc::new(Object::Slice(slice)), origin.clone()));
        }
    }
    (objects, problems)
}

fn pod(container: &Container, node: &Arc<str>, names: &mut Names) -> PodObject {
    // Docker takes labels that no selector can name; to policies they are not there.
    let can_be = |key: &str, value: &str| label::key(key).is_ok() && label::value(value).is_ok();
    let given = container.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let own = [(CONTAINER, container.name.as_str()), (DOCKER_NETWORK, container.network.as_str())];
    let labels = given.chain(own).filter(|(key, value)| can_be(key, value));
    PodObject {
        node: Some(node.clone()),
        addresses: container.addresses.clone(),
        labels: names.labels(labels.collect::<BTreeMap<_, _>>().into_iter()),
        ports: Arc::default(),
    }
}

/// `10.96.0.9:80`, `[fd00::9]:53/udp`, `10.96.0.9:80>8080`.
fn parse(text: &str) -> Result<Vip, String> {
    let wrong = || {
        format!("{text:?} is no frontend: write it like 10.96.0.9:80, [fd00::9]:53/udp or 10.96.0.9:80>8080")
    };
    let (front, port) = match text.split_once('>') {
        Some((front, port)) => (front, Some(port.parse::<u16>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let (at, protocol) = match front.split_once('/') {
        Some((at, protocol)) if protocol.eq_ignore_ascii_case("udp") => (at, Protocol::Udp),
        Some((at, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (at, Protocol::Tcp),
        Some(_) => return Err(wrong()),
        None => (front, Protocol::Tcp),
    };
    let at: SocketAddr = at.parse().map_err(|_| wrong())?;
    let port = port.unwrap_or(at.port());
    unicast(&at.ip().to_string(), "").map_err(|refusal| format!("{text:?}: {}", refusal.message))?;
    if at.port() == 0 || port == 0 {
        return Err(wrong());
    }
    Ok(Vip { at, protocol, port })
}

/// The container's address of the frontend's family.
fn backend(container: &Container, vip: Vip) -> Result<IpAddr, String> {
    let same = |address: &&IpAddr| address.is_ipv4() == vip.at.is_ipv4();
    let found = container.addresses.iter().find(same).copied();
    found.ok_or_else(|| format!("{}: the container has no address of that family", vip.at))
}

fn object(vip: Vip) -> ServiceObject {
    let port = ServicePort {
        name: "".into(),
        protocol: vip.protocol,
        port: vip.at.port(),
        end_port: vip.at.port(),
        node_port: 0,
        unlisted: false,
    };
    ServiceObject { addresses: vec![vip.at.ip()], cluster: 1, ports: vec![port], options: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(endpoint: &str, labels: &[(&str, &str)]) -> Container {
        Container {
            name: format!("web-{endpoint}"),
            network: "blue".into(),
            endpoint: endpoint.into(),
            addresses: vec![IpAddr::from([10, 0, 0, 7])],
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ready: true,
        }
    }

    fn said(containers: &[Container]) -> (Vec<String>, Vec<String>) {
        let (objects, problems) = objects(containers, &"n1".into(), &"docker".into());
        let keys = objects.keys().map(ToString::to_string).collect();
        (keys, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn containers_of_one_frontend_are_one_service() {
        let vip = [(VIP, "10.96.0.9:80>8080, 10.96.0.9:53/udp")];
        let (keys, problems) = said(&[container("a", &vip), container("b", &vip[..1])]);
        let expected = [
            "Service docker/vip-10-96-0-9-53-udp",
            "Service docker/vip-10-96-0-9-80-tcp",
            "EndpointSlice docker/a.vip-10-96-0-9-53-udp",
            "EndpointSlice docker/a.vip-10-96-0-9-80-tcp",
            "EndpointSlice docker/b.vip-10-96-0-9-53-udp",
            "EndpointSlice docker/b.vip-10-96-0-9-80-tcp",
            "Pod docker/a",
            "Pod docker/b",
        ];
        assert_eq!((keys, problems.len()), (expected.map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn labels_that_no_selector_can_name_are_left_out() {
        let labels = [("app", "web"), ("org.image.created", "2026-11-22T08:00:00+01:00"), ("Bad Key", "x")];
        let pod = pod(&container("a", &labels), &"n1".into(), &mut Names::default());
        let labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["app=web", "causeway.io/container=web-a", "causeway.io/docker-network=blue"]);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_rest_stands() {
        let labels = [
            (
                VIP,
                "10.96.0.9:80,here,[fd00::9]:80,0.0.0.0:80,169.254.0.1:80,10.96.0.9:80>0,10.96.0.9:81/sctp",
            ),
            (WEIGHT, "much"),
        ];
        let (keys, problems) = said(&[container("a", &labels)]);
        assert!(
            keys.contains(&"Service docker/vip-10-96-0-9-80-tcp".to_owned()) && keys.len() == 3,
            "{keys:?}"
        );
        let all = problems.join("\n");
        for words in [
            "docker:web-a: container web-a: labels[causeway.io/weight]: \"much\" is no weight",
            "\"here\" is no frontend",
            "[fd00::9]:80: the container has no address of that family",
            "\"0.0.0.0:80\": 0.0.0.0 is a unspecified address",
            "169.254.0.1 is a link-local address",
            "\"10.96.0.9:80>0\" is no frontend",
            "81/sctp\" is no frontend",
        ] {
            assert!(all.contains(words), "{words} in {all}");
        }
    }
}
