//! Whom may a rule name?

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    Reader, Refusal, quoted,
    wire::{AdminPeer, IpBlock, NetworkPolicyPeer, ServiceReference},
};
use crate::{
    event::policy::{Namespaces, Peer, PodSelector, Selector},
    providers::convert::label,
};

/// Whom admin policies of a kind may name, beside pods and namespaces.
#[derive(Clone, Copy)]
pub(super) struct Peers {
    pub networks: bool,
    pub services: bool,
    /// A namespaceSelector that is not there means all.
    pub anywhere: bool,
}

impl Reader<'_> {
    pub(super) fn network_peer(
        &mut self,
        wire: NetworkPolicyPeer,
        namespace: &Arc<str>,
        path: &str,
    ) -> Result<Peer, Refusal> {
        match wire {
            NetworkPolicyPeer { pod_selector: None, namespace_selector: None, ip_block: Some(block) } => {
                ip_block(&block, &format!("{path}.ipBlock"))
            }
            NetworkPolicyPeer { ip_block: Some(_), .. } => {
                let message = "stands alone: write selectors as a peer of their own";
                Err(Refusal::new(format!("{path}.ipBlock"), message))
            }
            NetworkPolicyPeer { pod_selector: None, namespace_selector: None, .. } => {
                let message = "names nobody: write podSelector, namespaceSelector or ipBlock";
                Err(Refusal::new(path, message))
            }
            NetworkPolicyPeer { pod_selector, namespace_selector, .. } => {
                let namespaces = match namespace_selector {
                    None => Namespaces::Named(namespace.clone()),
                    Some(wire) => {
                        Namespaces::Matching(self.selector(wire, &format!("{path}.namespaceSelector"))?)
                    }
                };
                let pods = match pod_selector {
                    None => Selector::default(),
                    Some(wire) => self.selector(wire, &format!("{path}.podSelector"))?,
                };
                Ok(Peer::Pods(PodSelector { namespaces, pods }))
            }
        }
    }

    pub(super) fn admin_peer(
        &mut self,
        wire: AdminPeer,
        may: Peers,
        path: &str,
    ) -> Result<Vec<Peer>, Refusal> {
        let field = |name: &str| format!("{path}.{name}");
        let refused = |name, message: &str| Err(Refusal::new(field(name), message));
        let named = [
            wire.namespaces.is_some(),
            wire.pods.is_some(),
            wire.networks.is_some(),
            wire.nodes.is_some(),
            wire.domain_names.is_some(),
            wire.service.is_some(),
        ];
        if named.into_iter().filter(|named| *named).count() != 1 {
            let networks = if may.networks { ", networks" } else { "" };
            let services = if may.services { ", service" } else { "" };
            return Err(Refusal::new(path, format!("write one of namespaces, pods{networks}{services}")));
        }
        match wire {
            AdminPeer { namespaces: Some(wire), .. } => {
                Ok(vec![Peer::Pods(self.namespaces(wire, &field("namespaces"))?)])
            }
            AdminPeer { pods: Some(wire), .. } => {
                Ok(vec![Peer::Pods(self.namespaced_pod(wire, may.anywhere, &field("pods"))?)])
            }
            AdminPeer { networks: Some(texts), .. } if may.networks => {
                if texts.is_empty() {
                    return refused("networks", "missing: name at least one network");
                }
                let networks = texts.iter().enumerate();
                let block = |(index, text): (usize, &String)| {
                    let network = network(text, &field(&format!("networks[{index}]")))?;
                    Ok(Peer::Block { network, except: Vec::new() })
                };
                networks.map(block).collect()
            }
            AdminPeer { networks: Some(_), .. } => {
                refused("networks", "is only for egress: name pods or namespaces")
            }
            AdminPeer { service: Some(wire), .. } if may.services => {
                Ok(vec![self.service(&wire, &field("service"))?])
            }
            AdminPeer { service: Some(_), .. } => {
                refused("service", "is only for the egress of a causeway.io Policy: name pods or networks")
            }
            AdminPeer { nodes: Some(_), .. } => {
                refused("nodes", "not supported yet: name the nodes' addresses as networks")
            }
            _ => refused("domainNames", "not supported yet: name the addresses as networks"),
        }
    }

    fn service(&mut self, wire: &ServiceReference, path: &str) -> Result<Peer, Refusal> {
        let namespace = wire.namespace.as_deref().unwrap_or("default");
        label(namespace, &format!("{path}.namespace"))?;
        label(&wire.name, &format!("{path}.name"))?;
        Ok(Peer::Service { namespace: self.names.get(namespace), name: self.names.get(&wire.name) })
    }
}

fn ip_block(wire: &IpBlock, path: &str) -> Result<Peer, Refusal> {
    let whole = network(&wire.cidr, &format!("{path}.cidr"))?;
    let mut except = Vec::new();
    for (index, text) in wire.except.iter().flatten().enumerate() {
        let field = format!("{path}.except[{index}]");
        let part = network(text, &field)?;
        if part == whole || !whole.contains(&part) {
            let message = format!("{part} is no part of {whole}: name networks that lie within it");
            return Err(Refusal::new(field, message));
        }
        except.push(part);
    }
    except.sort_unstable();
    except.dedup();
    Ok(Peer::Block { network: whole, except })
}

/// The API allows bits beyond the prefix; they mean nothing.
fn network(text: &str, field: &str) -> Result<IpNet, Refusal> {
    let mapped = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    match text.parse::<IpNet>() {
        Ok(net) if mapped(&net) => {
            Err(Refusal::new(field, format!("{} holds IPv4 addresses: write them as IPv4", quoted(text))))
        }
        Ok(net) => Ok(net.trunc()),
        Err(_) => {
            let message = format!("{} is no CIDR: write it like 10.0.0.0/8 or 2001:db8::/32", quoted(text));
            Err(Refusal::new(field, message))
        }
    }
}
