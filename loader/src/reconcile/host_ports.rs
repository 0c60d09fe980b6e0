//! At which ports of this node is a container reached? A runtime says so when it
//! attaches it; to the model each is a service of this node alone, of a source of
//! our own.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;

use super::agent::Agent;
use crate::{
    event::{
        Batch, EndpointState, Event, Kind, Object, ObjectKey, Origin, ServiceObject, ServicePort,
        SliceEndpoint, SliceObject, SlicePort, pod_name,
    },
    snapshot::{AttachRequest, HostPort},
};

/// The source's name. It is trusted least: what an operator has said of a port counts.
pub const SOURCE: &str = "attachments";
/// Before the namespace of these services. No namespace of a cluster begins so, and
/// all come before it: of two services that want one port the first has it.
const MARK: &str = "~host-port:";

/// What an endpoint's services are called where something is wrong with them.
pub fn objects(request: &AttachRequest) -> Vec<String> {
    let named = |port| name_of(request, port);
    request.ports.iter().map(named).map(|(namespace, name)| format!("Service {namespace}/{name}")).collect()
}

fn name_of(request: &AttachRequest, port: &HostPort) -> (Arc<str>, Arc<str>) {
    let (namespace, pod) = pod_name(&request.name);
    let at = port.address.map(|address| format!(".{address}")).unwrap_or_default();
    let name = format!("{pod}.{}-{}{at}", port.host, port.protocol).to_lowercase();
    (format!("{MARK}{namespace}").into(), name.into())
}

impl Agent {
    /// Those of the endpoints that there are: all that is known at the start.
    pub async fn tell_all_host_ports(&mut self) {
        let requests = self.store.iter().map(|(_, stored)| &stored.request);
        let events: Vec<Event> = requests.flat_map(|request| self.say(request, true)).collect();
        let any = !events.is_empty();
        let batch = Batch { source: SOURCE.into(), events, synced: true, ..Batch::default() };
        let touched = self.model.apply(batch);
        if any {
            self.enact(touched, false, Instant::now()).await;
        }
    }

    /// An endpoint's ports are served, or are no more.
    pub async fn tell_host_ports(&mut self, request: &AttachRequest, there: bool) {
        if request.ports.is_empty() {
            return;
        }
        let start = Instant::now();
        let events = self.say(request, there);
        let batch = Batch { source: SOURCE.into(), events, synced: true, ..Batch::default() };
        let touched = self.model.apply(batch);
        Box::pin(self.enact(touched, false, start)).await;
    }

    /// Who has a port of this node already that somebody asks for, and which.
    pub fn host_port_holder(&self, ports: &[HostPort]) -> Option<(&str, &HostPort)> {
        let held = self.store.iter().map(|(_, stored)| &stored.request).chain(self.wiring.requests());
        let mut held = held.flat_map(|request| request.ports.iter().map(move |port| (&*request.name, port)));
        held.find(|(_, held)| ports.iter().any(|port| port.clashes(held)))
    }

    /// A service and a slice for each port.
    fn say(&self, request: &AttachRequest, there: bool) -> Vec<Event> {
        let origin = Arc::new(Origin { source: SOURCE.into(), place: request.name.as_str().into() });
        let both = |port: &HostPort| {
            let (namespace, name) = name_of(request, port);
            let service = Object::Service(self.host_port_service(request, port));
            let slice = Object::Slice(self.slice(request, port, name.clone()));
            [(Kind::Service, service), (Kind::EndpointSlice, slice)].map(|(kind, object)| Event {
                key: ObjectKey { kind, namespace: namespace.clone(), name: name.clone() },
                object: there.then(|| (Arc::new(object), origin.clone())),
            })
        };
        request.ports.iter().flat_map(both).collect()
    }

    /// At the address that was named, or at each of the node's, of the endpoint's
    /// families: a port as a node port is, a range at those of the uplink.
    fn host_port_service(&self, request: &AttachRequest, port: &HostPort) -> ServiceObject {
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let uplink = self.uplink.addresses.iter().map(IpNet::addr);
        let has = |v4: bool| request.addresses.iter().any(|address| address.is_ipv4() == v4);
        let addresses: Vec<IpAddr> = match (port.address, port.end) {
            (Some(named), _) => vec![named],
            (None, None) => everywhere.into_iter().filter(|address| has(address.is_ipv4())).collect(),
            (None, Some(_)) => {
                let routable = |address: &IpAddr| match address {
                    IpAddr::V4(_) => true,
                    IpAddr::V6(v6) => !v6.is_unicast_link_local(),
                };
                uplink.filter(|address| has(address.is_ipv4()) && routable(address)).collect()
            }
        };
        let (protocol, end_port, port) = (port.protocol, port.last(), port.host);
        let port = ServicePort { name: "".into(), protocol, port, end_port, node_port: 0, unlisted: false };
        ServiceObject { addresses, cluster: 0, ports: vec![port], options: None }
    }

    fn slice(&self, request: &AttachRequest, port: &HostPort, service: Arc<str>) -> SliceObject {
        let endpoint = |address: &IpAddr| SliceEndpoint {
            address: *address,
            state: EndpointState::Ready,
            node: Some(self.config.node.as_str().into()),
            place: None,
        };
        let port = SlicePort { name: "".into(), protocol: port.protocol, port: port.container };
        let endpoints = request.addresses.iter().map(endpoint).collect();
        SliceObject { service, ports: vec![port], endpoints, weight: 1, changed: None }
    }
}
