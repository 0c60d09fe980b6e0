//! Manifests as an operator writes them: Kubernetes YAML, one object a file,
//! put in place by a rename.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use crate::{
    scratch::Dir,
    topology::{node_address, node_address6},
};

/// A directory that agents watch.
pub struct Manifests {
    dir: Dir,
}

impl Manifests {
    pub fn new() -> Self {
        Self { dir: Dir::new() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file as a whole: beside it, then renamed.
    pub fn write(&self, name: &str, text: &str) {
        let hidden = self.dir.join(format!(".{name}.new"));
        fs::write(&hidden, text).unwrap();
        fs::rename(&hidden, self.file(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `service`, and a slice with its backends, in two files.
    pub fn service(&self, service: &Service, slice: &Slice) {
        // The backends first: a service that stands has somewhere to send.
        self.slice(slice);
        self.write(&format!("{}.service.yaml", service.name), &service.yaml());
    }

    pub fn slice(&self, slice: &Slice) {
        self.write(&format!("{}.slice.yaml", slice.name), &slice.yaml());
    }
}

impl Default for Manifests {
    fn default() -> Self {
        Self::new()
    }
}

/// A service port: name, protocol, port of the frontend, port of the backends.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: String,
    pub protocol: &'static str,
    pub port: u16,
    pub target: u16,
    /// The last port of a range.
    pub end_port: Option<u16>,
    /// The port at every node's own address.
    pub node_port: Option<u16>,
}

impl Port {
    pub fn tcp(port: u16, target: u16) -> Self {
        Self { name: "tcp".into(), protocol: "TCP", port, target, end_port: None, node_port: None }
    }

    pub fn udp(port: u16, target: u16) -> Self {
        Self { name: "udp".into(), protocol: "UDP", port, target, end_port: None, node_port: None }
    }

    /// A range of ports, up to `end`.
    pub fn through(mut self, end: u16) -> Self {
        self.end_port = Some(end);
        self
    }

    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    pub fn at_node(mut self, node_port: u16) -> Self {
        self.node_port = Some(node_port);
        self
    }
}

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub address: IpAddr,
    /// A second address, of a service of both families.
    pub address6: Option<Ipv6Addr>,
    pub ports: Vec<Port>,
    /// More lines of the spec, indented as it is.
    pub spec: String,
    /// Names and values.
    pub annotations: Vec<(String, String)>,
}

impl Service {
    pub fn new(name: &str, address: impl Into<IpAddr>, ports: &[Port]) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            address6: None,
            ports: ports.to_vec(),
            spec: String::new(),
            annotations: Vec::new(),
        }
    }

    pub fn dual(mut self, address: Ipv6Addr) -> Self {
        self.address6 = Some(address);
        self
    }

    /// With another line of the spec, e.g. `externalIPs: [192.0.2.1]`.
    pub fn with(mut self, line: &str) -> Self {
        self.spec.push_str(&format!("  {line}\n"));
        self
    }

    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// A slice of this service, named like it.
    pub fn slice<A: Into<IpAddr> + Copy>(&self, backends: &[A]) -> Slice {
        Slice {
            name: self.name.clone(),
            service: self.name.clone(),
            ports: self.ports.clone(),
            backends: backends.iter().map(|&address| address.into()).collect(),
            draining: Vec::new(),
            weight: None,
            placed: false,
        }
    }

    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: default\n",
            self.name
        );
        if !self.annotations.is_empty() {
            text.push_str("  annotations:\n");
        }
        for (name, value) in &self.annotations {
            let _ = writeln!(text, "    {name}: \"{value}\"");
        }
        let _ = write!(text, "spec:\n  clusterIP: {}\n", scalar(&self.address.to_string()));
        if let Some(address6) = self.address6 {
            let _ = write!(
                text,
                "  clusterIPs: [\"{}\", \"{address6}\"]\n  ipFamilies: [IPv4, IPv6]\n",
                self.address
            );
        }
        text.push_str(&self.spec);
        text.push_str("  ports:\n");
        for port in &self.ports {
            let _ = write!(
                text,
                "  - name: {}\n    protocol: {}\n    port: {}\n    targetPort: {}\n",
                port.name, port.protocol, port.port, port.target
            );
            if let Some(end_port) = port.end_port {
                let _ = writeln!(text, "    endPort: {end_port}");
            }
            if let Some(node_port) = port.node_port {
                let _ = writeln!(text, "    nodePort: {node_port}");
            }
        }
        text
    }
}

#[derive(Clone, Debug)]
pub struct Slice {
    pub name: String,
    pub service: String,
    pub ports: Vec<Port>,
    /// Of either family, or of both: each gets a document.
    pub backends: Vec<IpAddr>,
    /// Of them, those that terminate and still serve.
    pub draining: Vec<IpAddr>,
    /// The annotation `causeway.io/weight`.
    pub weight: Option<u32>,
    /// Says of each which node of a [`Cluster`](crate::topology::Cluster) it is on.
    pub placed: bool,
}

impl Slice {
    /// With some of the backends on their way out.
    pub fn draining<A: Into<IpAddr> + Copy>(mut self, backends: &[A]) -> Self {
        self.draining = backends.iter().map(|&address| address.into()).collect();
        self
    }

    pub fn placed(mut self) -> Self {
        self.placed = true;
        self
    }

    pub fn weighted(mut self, name: &str, weight: u32) -> Self {
        self.name = name.into();
        self.weight = Some(weight);
        self
    }

    pub fn yaml(&self) -> String {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            self.backends.iter().partition(|address| address.is_ipv4());
        match (v4.is_empty(), v6.is_empty()) {
            (_, true) => self.document("", "IPv4", &v4),
            (true, false) => self.document("-v6", "IPv6", &v6),
            (false, false) => {
                format!("{}---\n{}", self.document("", "IPv4", &v4), self.document("-v6", "IPv6", &v6))
            }
        }
    }

    fn document(&self, suffix: &str, family: &str, backends: &[IpAddr]) -> String {
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {}{suffix}\n  namespace: default\n  labels:\n    kubernetes.io/service-name: {}\n",
            self.name, self.service
        );
        if let Some(weight) = self.weight {
            let _ = write!(text, "  annotations:\n    causeway.io/weight: \"{weight}\"\n");
        }
        let _ = write!(text, "addressType: {family}\nports:\n");
        for port in &self.ports {
            let _ = write!(
                text,
                "- name: {}\n  protocol: {}\n  port: {}\n",
                port.name, port.protocol, port.target
            );
        }
        text.push_str(if backends.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for backend in backends {
            let address = scalar(&backend.to_string());
            let conditions = match self.draining.contains(backend) {
                true => "ready: false, serving: true, terminating: true",
                false => "ready: true",
            };
            let _ = write!(text, "- addresses: [{address}]\n  conditions: {{{conditions}}}\n");
            if self.placed {
                let _ = writeln!(text, "  nodeName: n{}", node_of(*backend));
            }
        }
        text
    }
}

/// The number of the node of a [`Cluster`](crate::topology::Cluster) that has an
/// address, or whose pod network does.
fn node_of(address: IpAddr) -> u16 {
    let own = |node: &u8| [IpAddr::from(node_address(*node)), node_address6(*node).into()].contains(&address);
    match ((0..100).find(own), address) {
        (Some(node), _) => node.into(),
        (None, IpAddr::V4(address)) => address.octets()[2].into(),
        (None, IpAddr::V6(address)) => address.segments()[3],
    }
}

/// A node with its addresses and pod networks, the first of each first.
pub fn node(name: &str, addresses: &[IpAddr], pod_cidrs: &[String]) -> String {
    let cidrs: Vec<String> = pod_cidrs.iter().map(|cidr| scalar(cidr)).collect();
    let addresses: String = addresses
        .iter()
        .map(|address| format!("  - type: InternalIP\n    address: {}\n", scalar(&address.to_string())))
        .collect();
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDR: {}\n  podCIDRs: [{}]\nstatus:\n  addresses:\n{addresses}",
        cidrs[0],
        cidrs.join(", ")
    )
}

/// Text as YAML takes it for text: colons have a meaning of their own.
fn scalar(text: &str) -> String {
    if text.contains(':') { format!("\"{text}\"") } else { text.to_owned() }
}

pub fn pod(name: &str, node: &str, address: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  nodeName: {node}\n  containers:\n  - name: main\n    image: none\nstatus:\n  phase: Running\n  podIP: {address}\n  podIPs:\n  - ip: {address}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_names_its_service_its_port_and_its_backends() {
        let service = Service::new("web", Ipv4Addr::new(10, 96, 0, 1), &[Port::tcp(80, 8080)]);
        let yaml = service.slice(&[Ipv4Addr::new(10, 244, 0, 2)]).weighted("web-2", 3).yaml();
        for part in ["name: web-2", "service-name: web", "weight: \"3\"", "port: 8080", "[10.244.0.2]"] {
            assert!(yaml.contains(part), "{part} in\n{yaml}");
        }
    }

    #[test]
    fn a_written_file_is_there_and_its_draft_is_not() {
        let manifests = Manifests::new();
        manifests.write("a.yaml", "x");
        assert_eq!(fs::read_to_string(manifests.file("a.yaml")).unwrap(), "x");
        assert_eq!(fs::read_dir(manifests.path()).unwrap().count(), 1);
    }
}
