//! Why may these two talk, or why not? What the rules say, and what the loaded
//! program does with the packet that would begin it.

use std::net::{IpAddr, SocketAddr};

use causeway_schema::Verdict;

use super::agent::Agent;
use crate::{
    event::{Protocol, party},
    frame,
    policy::{Direction, Explanation, Flow},
    snapshot::{ExplainReply, ExplainRequest, ExplanationView, TraceRequest},
};

/// Of the packet that is tried: none that a client is likely to have open.
const SOURCE_PORT: u16 = 65_521;

impl Agent {
    /// # Errors
    /// As text for the one who asked: who is not known, or is not of this node.
    pub(super) fn explain(&mut self, request: &ExplainRequest) -> Result<ExplainReply, String> {
        let (from, to) = self.pair(request)?;
        let protocol: Protocol = request.protocol;
        let called = SocketAddr::new(to, request.port);
        let flags = if protocol == Protocol::Tcp { frame::SYN } else { 0 };
        let packet = frame::between(SocketAddr::new(from, SOURCE_PORT), called, protocol, flags);
        if self.uplink.addresses.iter().any(|own| own.addr() == from) {
            let program = None;
            return Ok(ExplainReply {
                from,
                to: called,
                allowed: true,
                egress: None,
                ingress: None,
                program,
                agrees: true,
            });
        }
        let here = self.endpoint_at(from).map(str::to_owned);
        let interface = here.clone().unwrap_or_else(|| self.uplink.name.clone());
        let program = self.trace(&TraceRequest { interface, packet: packet.unwrap_or_default() })?;
        // Rules are about the one who serves, not about the service's address.
        let backend: Option<SocketAddr> = program.backend.as_deref().and_then(|text| text.parse().ok());
        let served = backend.unwrap_or(called);
        let there = self.endpoint_at(served.ip()).map(str::to_owned);
        if here.is_none() && there.is_none() {
            return Err(format!(
                "neither {from} nor {} is an endpoint of this node: ask an agent of theirs",
                served.ip()
            ));
        }
        let asks = |endpoint: Option<&str>, direction, peer| {
            let flow = Flow { direction, peer, protocol: protocol.number(), port: served.port() };
            self.policies.compiler.explain(endpoint?, flow).map(view)
        };
        // A container may always talk to itself, and to its node, whose stack takes
        // what has no route as well.
        let free = here == there || program.reason == Verdict::StackHost.name();
        let egress = if free { None } else { asks(here.as_deref(), Direction::Egress, served.ip()) };
        let ingress = if free { None } else { asks(there.as_deref(), Direction::Ingress, from) };
        let denies = |said: &Option<ExplanationView>| {
            said.as_ref().is_some_and(|said| matches!(said.outcome.as_str(), "deny" | "reject"))
        };
        let ruled = !denies(&egress) && !denies(&ingress);
        let dropped = program.verdict == "drop";
        // What is dropped before policies are asked may be denied as well.
        let agrees = if ruled { !program.reason.starts_with("drop_policy") } else { dropped };
        let allowed = ruled && !dropped;
        Ok(ExplainReply { from, to: served, allowed, egress, ingress, program: Some(program), agrees })
    }

    /// Their addresses, of one family.
    fn pair(&self, request: &ExplainRequest) -> Result<(IpAddr, IpAddr), String> {
        let (from, to) = (self.addresses_of(&request.from)?, self.addresses_of(&request.to)?);
        let alike = |from: &IpAddr| to.iter().find(|to| to.is_ipv4() == from.is_ipv4()).copied();
        from.iter()
            .find_map(|from| Some((*from, alike(from)?)))
            .ok_or_else(|| format!("{} and {} have no addresses of one family", request.from, request.to))
    }

    /// Of an address, an endpoint of this node, or a pod anywhere.
    fn addresses_of(&self, party: &str) -> Result<Vec<IpAddr>, String> {
        let endpoint = |name: &str| self.store.get(name).map(|stored| stored.endpoint.addresses.clone());
        party::addresses_of(party, endpoint, |pod| self.model.pod(pod).map(|pod| pod.addresses.clone()))
    }

    fn endpoint_at(&self, address: IpAddr) -> Option<&str> {
        let mut here = self.store.iter().filter(|(_, stored)| stored.endpoint.addresses.contains(&address));
        here.next().map(|(name, _)| name.as_str())
    }
}

fn view(said: Explanation) -> ExplanationView {
    ExplanationView {
        outcome: said.outcome.to_owned(),
        rule: said.rule.map(|rule| rule.to_string()),
        nearest: said.nearest.map(|nearest| nearest.rule.to_string()),
        text: said.text,
    }
}
