//! What do the edges ask for, and what do they get?

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

use causeway_schema::{Event, Flow, FlowKey, FrontendKey, Port, TraceRecord, Verdict, flow::flags};

use ipnet::IpNet;
use tokio::time::Instant;

use super::{agent::Agent, plane::Plane, wiring::Waiting};
use crate::{
    attach::Stored,
    cni,
    event::Protocol,
    frame,
    model::desired::DesiredState,
    plan::Family,
    policy::Talk,
    snapshot::{
        Command, Counter, EndpointGround, FlowView, PolicyGround, RULE, RecordedFlows, TraceReply,
        TraceRequest,
    },
};

impl Agent {
    /// Breaks when the agent should end.
    pub async fn obey(&mut self, command: Command) -> ControlFlow<()> {
        // A reply that nobody waits for any more is no error.
        match command {
            Command::Fence(reply) => {
                let fence = self.fences.ask(reply, self.sources.names());
                self.sources.fence(fence);
            }
            Command::Desired(reply) => {
                let _ = reply.send(Ok(self.whole()));
            }
            Command::Cluster(patience, reply) => self.ask_cluster(Instant::now() + patience, reply),
            Command::Release(source, reply) => {
                let _ = reply.send(self.release_source(&source).await);
            }
            Command::Attach(request, reply) => self.attach_endpoint(request, Waiting::Attach(reply)),
            Command::Detach(name, reply) => self.begin_detach(&name, reply).await,
            Command::Runtime(command) => self.serve_runtime(command).await,
            Command::Trace(request, reply) => {
                let _ = reply.send(self.trace(&request));
            }
            Command::Explain(request, reply) => {
                let _ = reply.send(self.explain(&request));
            }
            Command::Selection(request, reply) => {
                let _ = reply.send(self.selection(&request));
            }
            Command::PolicyGround(reply) => {
                let _ = reply.send(Ok(self.policy_ground()));
            }
            Command::Flows { limit, reply } => {
                let _ = reply.send(self.flows(limit));
            }
            Command::RecordedFlows(reply) => {
                let _ = reply.send(self.recorded_flows());
            }
            Command::Counters(reply) => {
                let _ = reply.send(self.counters());
            }
            Command::Uninstall(reply) => {
                let _ = reply.send(self.uninstall().await);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// The desired state, put together unless a reader still holds it.
    fn whole(&mut self) -> Arc<DesiredState> {
        let desired = self.desired.upgrade().unwrap_or_else(|| self.model.desired().into());
        self.desired = Arc::downgrade(&desired);
        desired
    }

    fn policy_ground(&mut self) -> PolicyGround {
        let endpoint = |(name, stored): (&String, &Stored)| EndpointGround {
            name: name.clone(),
            addresses: stored.endpoint.addresses.clone(),
            given: stored.request.labels.clone(),
        };
        PolicyGround {
            desired: self.whole(),
            endpoints: self.store.iter().map(endpoint).collect(),
            own: self.uplink.addresses.iter().map(IpNet::addr).collect(),
        }
    }

    pub(super) fn trace(&mut self, request: &TraceRequest) -> Result<TraceReply, String> {
        let ifindex = self.interface(&request.interface)?;
        let Some(dataplane) = &mut self.dataplane else { return Err(UNINSTALLED.into()) };
        let program = dataplane.program_at(ifindex).map_err(|error| error.to_string())?;
        let program =
            program.ok_or_else(|| format!("no program of ours is at interface {}", request.interface))?;
        let mut packet = request.packet.clone();
        if ifindex == self.uplink.ifindex {
            frame::readdress(&mut packet, self.uplink.mac);
        }
        let (result, record, packet) =
            dataplane.tracer.trace(&program, ifindex, &packet).map_err(|error| {
                format!("run the program over the packet: {error}; a frame has 14 bytes or more")
            })?;
        let verdict = Verdict::from_number(record.verdict);
        // Ids are of the packet's own family.
        let (service, backend) = if frame::is_ipv6(&request.packet) {
            names(&self.v6, &record, &request.packet)
        } else {
            names(&self.v4, &record, &request.packet)
        };
        let kind = match verdict {
            Some(verdict) if verdict.is_drop() => "drop",
            Some(
                Verdict::Delivered
                | Verdict::Forwarded
                | Verdict::GatewayArp
                | Verdict::GatewayNd
                | Verdict::EchoReply,
            ) => "redirect",
            Some(_) => "pass",
            None => return Err(format!("the program returned {result} and left no record: is it ours?")),
        };
        Ok(TraceReply {
            verdict: kind.into(),
            reason: verdict.map(|verdict| verdict.name().to_owned()).unwrap_or_default(),
            service,
            backend,
            rule: self.policies.rule(record.rule).map(ToString::to_string),
            interface: self.interface_name(record.ifindex),
            packet_out: packet.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Index of an interface by its name or by the endpoint it belongs to.
    fn interface(&self, name: &str) -> Result<u32, String> {
        if name == self.uplink.name {
            return Ok(self.uplink.ifindex);
        }
        let known = self
            .store
            .iter()
            .find(|(endpoint, stored)| *endpoint == name || stored.endpoint.interface == name);
        known.map(|(_, stored)| stored.endpoint.ifindex).ok_or_else(|| {
            format!(
                "{name} is neither the uplink ({}) nor an endpoint: see `causeway show endpoints`",
                self.uplink.name
            )
        })
    }

    fn interface_name(&self, ifindex: u32) -> Option<String> {
        if ifindex == self.uplink.ifindex {
            return Some(self.uplink.name.clone());
        }
        let known = self.store.iter().find(|(_, stored)| stored.endpoint.ifindex == ifindex);
        known.map(|(_, stored)| stored.endpoint.interface.clone())
    }

    fn flows(&mut self, limit: usize) -> Result<Vec<FlowView>, String> {
        if self.dataplane.is_none() {
            return Err(UNINSTALLED.into());
        }
        let mut flows = views(&mut self.v4, limit)?;
        let left = limit.saturating_sub(flows.len());
        flows.extend(views(&mut self.v6, left)?);
        Ok(flows)
    }

    /// Counted as they are read: there may be hundreds of thousands.
    fn recorded_flows(&self) -> Result<Vec<RecordedFlows>, String> {
        if self.dataplane.is_none() {
            return Err(UNINSTALLED.into());
        }
        let endpoints = self.store.iter().flat_map(|(_, stored)| stored.endpoint.addresses.iter().copied());
        let (here, mut counts) = (endpoints.collect(), BTreeMap::new());
        let counted = count(&self.v4, &here, &mut counts).and_then(|()| count(&self.v6, &here, &mut counts));
        counted.map_err(|error| format!("read the flow tables: {error}"))?;
        Ok(counts.into_iter().map(|(talk, flows)| RecordedFlows { talk, flows }).collect())
    }

    fn counters(&mut self) -> Result<Vec<Counter>, String> {
        let Some(dataplane) = &self.dataplane else { return Err(UNINSTALLED.into()) };
        let counts = dataplane.tracer.counters().map_err(|error| format!("read the counters: {error}"))?;
        let names = Verdict::ALL.into_iter().map(|verdict| (verdict.name(), verdict.is_drop()));
        let names = names.chain(Event::ALL.into_iter().map(|event| (event.name(), false)));
        let counter =
            |((name, drop), packets): ((&str, bool), u64)| Counter { name: name.into(), drop, packets };
        let mut counters: Vec<Counter> = names.zip(counts).map(counter).collect();
        let rules = self.policies.counts().map_err(|error| format!("read the rules' counters: {error}"))?;
        counters.extend(rules.into_iter().map(|(rule, flows)| Counter {
            name: format!("{RULE}{rule}"),
            drop: false,
            packets: flows,
        }));
        Ok(counters)
    }

    pub(super) async fn uninstall(&mut self) -> Result<(), String> {
        let mut errors = Vec::new();
        // Before all: nobody new is to come.
        let unlisted = self.config.cni_conf.as_deref().map_or(Ok(()), cni::remove_configuration);
        errors.extend(unlisted.err().map(|error| format!("remove the CNI configuration: {error}")));
        while !self.wiring.is_idle() {
            let done = self.wiring.next().await;
            self.go_on(done).await;
        }
        let names: Vec<String> = self.store.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            errors.extend(self.detach_endpoint(&name).await.err());
        }
        errors.extend(
            self.routes.remove_all(&self.netlink).await.err().map(|error| format!("remove routes: {error}")),
        );
        errors.extend(
            self.release_egress().await.err().map(|error| format!("remove egress addresses: {error}")),
        );
        let forgotten = self.guarded.forget();
        errors.extend(forgotten.err().map(|error| format!("remove what the sources had: {error}")));
        if let Some(dataplane) = self.dataplane.take() {
            errors.extend(dataplane.uninstall().err().map(|error| error.to_string()));
        }
        self.leave_cluster().await;
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

pub(super) const UNINSTALLED: &str = "the dataplane is being uninstalled";

/// The service and the backend that a trace of a packet names.
fn names<A: Family>(
    plane: &Plane<A>,
    record: &TraceRecord,
    packet: &[u8],
) -> (Option<String>, Option<String>) {
    let service = plane.planner.service_of(record.service).map(ToString::to_string);
    let common_port = plane.planner.image().services.get(&record.service).map(|row| row.target.port());
    let backend = plane.planner.backend_of(record.backend).map(|(address, port)| {
        let port = if port == Port::NONE { common_port.unwrap_or(Port::NONE) } else { port };
        let port = port.get().wrapping_add(offset(plane, record.service, packet).unwrap_or(0));
        SocketAddr::new(address.to_ip(), port).to_string()
    });
    (service, backend)
}

/// How far into a range of the service's a packet's port lies.
fn offset<A: Family>(plane: &Plane<A>, service: u32, packet: &[u8]) -> Option<u16> {
    let (address, port, protocol) = frame::destination(packet)?;
    let (addr, port) = (A::from_ip(address)?, Port::new(port));
    let image = plane.planner.image();
    if image.frontends.contains_key(&FrontendKey::new(addr, port, protocol.number())) {
        return None;
    }
    let range = image.port_ranges.get(&addr)?.find(port, protocol.number())?;
    (range.service == service).then(|| range.offset(port))
}

fn count<A: Family>(
    plane: &Plane<A>,
    here: &HashSet<IpAddr>,
    counts: &mut BTreeMap<Talk, usize>,
) -> io::Result<()> {
    plane.flows.requests(|key, flow| {
        let (from, to) = (key.src.to_ip(), flow.dst.to_ip());
        if here.contains(&from) || here.contains(&to) {
            let talk = Talk::new(from, to, key.protocol, flow.dst_port.get());
            *counts.entry(talk).or_default() += 1;
        }
    })
}

fn views<A: Family>(plane: &mut Plane<A>, limit: usize) -> Result<Vec<FlowView>, String> {
    let now = plane.flows.now().map_err(|error| format!("read the clock: {error}"))?;
    let (established, embryonic) =
        plane.flows.entries().map_err(|error| format!("read the flow tables: {error}"))?;
    let named = |(key, flow): &(FlowKey<A>, Flow<A>), state: &str| {
        let idle = plane.flows.idle_seconds(flow, now);
        view(key, flow, state, idle, plane.planner.service_of(flow.service).map(ToString::to_string))
    };
    let established = established.iter().map(|entry| named(entry, "established"));
    let embryonic = embryonic.iter().map(|entry| named(entry, "embryonic"));
    Ok(established.chain(embryonic).take(limit).collect())
}

fn view<A: Family>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    state: &str,
    idle_seconds: u64,
    service: Option<String>,
) -> FlowView {
    let socket = |address: A, port: Port| SocketAddr::new(address.to_ip(), port.get()).to_string();
    let is_reply = flow.flags & flags::REPLY != 0;
    FlowView {
        protocol: Protocol::from_number(key.protocol)
            .map_or_else(|| key.protocol.to_string(), |p| p.to_string()),
        source: socket(key.src, key.src_port),
        destination: socket(key.dst, key.dst_port),
        rewrite: if is_reply { socket(flow.src, flow.src_port) } else { socket(flow.dst, flow.dst_port) },
        direction: if is_reply { "reply" } else { "request" }.into(),
        state: match flow.flags {
            bits if bits & flags::EXPIRED != 0 => "expired",
            bits if bits & flags::PROXY != 0 => "header",
            bits if bits & (flags::TUNNELLED | flags::EGRESS) != 0 => "tunnelled",
            _ => state,
        }
        .into(),
        service,
        idle_seconds,
    }
}
