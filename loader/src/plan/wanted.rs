//! What does a desired service mean in one address family?

use std::sync::Arc;

use causeway_schema::{Frontend as Row, FrontendKey, Port, PortRange, choice::MAX_WEIGHT};

use super::Family;
use super::claims::Ranges;
use crate::event::{Dsr, Origin, Problem, Protocol, Table};
use crate::model::desired::{Clients, Frontend, Service, ServiceId};

/// Compact, because the planner keeps one of each service.
#[derive(Clone, Debug)]
pub struct Wanted<A> {
    /// Sorted.
    pub frontends: Box<[FrontendKey<A>]>,
    /// Sorted by address and port.
    pub backends: Box<[Share<A>]>,
    /// What few services want.
    pub options: Option<Box<Options<A>>>,
    pub origin: Arc<Origin>,
}

/// See [`ServiceOptions`](crate::event::ServiceOptions).
#[derive(Clone, Debug)]
pub struct Options<A> {
    /// In seconds.
    pub affinity: Option<u32>,
    pub idle_timeout: Option<u32>,
    pub dsr: Option<Dsr>,
    /// Of a service with TCP ports.
    pub proxy: bool,
    pub table: Table,
    /// Frontends' addresses that are not for all.
    pub restricted: Box<[A]>,
    /// Those where clients who come from outside are served by others.
    pub inside: Box<[A]>,
    /// Whoever finds no backend is told nothing.
    pub silent: bool,
    /// Networks of those who may come there, with the length of their prefixes.
    pub clients: Box<[(A, u8)]>,
    /// Without service or flags.
    pub ranges: Ranges<A>,
    /// Backends whose ports end before the ranges do; they are not among the
    /// service's own.
    pub misfits: Box<[(A, Port)]>,
}

impl<A: Family> Options<A> {
    /// Of the rows of a frontend, or a range of ports, at an address.
    pub fn flags(&self, addr: A) -> u32 {
        let restricted = if self.restricted.contains(&addr) { Row::SOURCE_RANGES } else { 0 };
        restricted | if self.inside.contains(&addr) { Row::OUTSIDE } else { 0 }
    }
}

/// A backend and its share of the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share<A> {
    pub addr: A,
    pub port: Port,
    /// 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

impl<A: Family> Wanted<A> {
    /// Frontends and backends of the other family are left out.
    pub fn new(service: &Service) -> Self {
        let mut frontends: Vec<FrontendKey<A>> = service
            .frontends
            .iter()
            .filter(|frontend| !frontend.is_range() || frontend.clients == Clients::Outside)
            .filter_map(|frontend| {
                let addr = A::from_ip(frontend.address)?;
                let key = FrontendKey::new(addr, Port::new(frontend.port), frontend.protocol.number());
                let last = Port::new(frontend.end_port);
                Some(if frontend.clients == Clients::Outside { key.for_outside(last) } else { key })
            })
            .collect();
        frontends.sort_unstable();
        frontends.dedup();
        let ranges = ranges(service);
        let span = service.frontends.iter().map(|frontend| frontend.end_port - frontend.port).max();
        let span = span.unwrap_or(0);
        let mut backends: Vec<Share<A>> = service
            .backends
            .iter()
            .filter_map(|backend| {
                let addr = A::from_ip(backend.address)?;
                Some(Share {
                    addr,
                    port: Port::new(backend.port),
                    weight: backend.weight.clamp(1, MAX_WEIGHT),
                })
            })
            .collect();
        backends.sort_unstable();
        backends.dedup_by_key(|share| (share.addr, share.port));
        let fits = |share: &Share<A>| share.port.get().checked_add(span).is_some();
        let misfits =
            backends.iter().filter(|share| !fits(share)).map(|share| (share.addr, share.port)).collect();
        backends.retain(fits);
        Self {
            frontends: frontends.into_boxed_slice(),
            backends: backends.into_boxed_slice(),
            options: options(service, ranges, misfits),
            origin: service.origin.clone(),
        }
    }

    pub fn ranges(&self) -> &[(A, PortRange)] {
        self.options.as_deref().map_or(&[], |options| &options.ranges)
    }

    /// The port that the backends' own stands for, if there are ranges.
    pub fn first(&self) -> Option<Port> {
        self.ranges().first().map(|(_, range)| range.first)
    }

    /// How far the last port of a range is from its first.
    pub fn span(&self) -> u16 {
        self.ranges().iter().map(|(_, range)| range.offset(range.last)).max().unwrap_or(0)
    }

    /// The port that all backends have in common, or [`Port::NONE`].
    pub fn common_port(&self) -> Port {
        let Some(first) = self.backends.first() else { return Port::NONE };
        if self.backends.iter().all(|share| share.port == first.port) { first.port } else { Port::NONE }
    }

    pub fn has_backend(&self, addr: A, port: Port) -> bool {
        self.backends.binary_search_by_key(&(addr, port), |share| (share.addr, share.port)).is_ok()
    }

    pub fn problem(&self, id: &ServiceId, field: &str, message: String) -> Problem {
        Problem {
            origin: Some((*self.origin).clone()),
            object: format!("Service {}/{}", id.namespace, id.name),
            field: field.to_owned(),
            message,
        }
    }
}

/// A service with ranges of the other family alone has none here: nobody of
/// this family may come.
fn options<A: Family>(
    service: &Service,
    ranges: Ranges<A>,
    misfits: Box<[(A, Port)]>,
) -> Option<Box<Options<A>>> {
    let options = &service.options;
    let inside = service.frontends.iter().filter(|frontend| frontend.clients == Clients::Inside);
    let mut inside: Vec<A> = inside.filter_map(|frontend| A::from_ip(frontend.address)).collect();
    inside.dedup();
    let tcp = service.frontends.iter().any(|frontend| frontend.protocol == Protocol::Tcp);
    let sources = options.source_ranges.as_ref();
    let restricted = sources.into_iter().flat_map(|ranges| &ranges.addresses);
    let clients = sources.into_iter().flat_map(|ranges| &ranges.clients);
    let wanted = Options {
        affinity: options.affinity,
        idle_timeout: options.idle_timeout,
        dsr: options.dsr,
        proxy: options.proxy && tcp,
        table: options.table,
        restricted: restricted.filter_map(|&address| A::from_ip(address)).collect(),
        clients: clients.filter_map(|net| Some((A::from_ip(net.network())?, net.prefix_len()))).collect(),
        inside: inside.into(),
        silent: service.silent,
        ranges,
        misfits,
    };
    let any = wanted.affinity.is_some() || wanted.idle_timeout.is_some() || wanted.dsr.is_some();
    let any = any || wanted.silent || wanted.proxy || !wanted.inside.is_empty() || !wanted.misfits.is_empty();
    let any = any || !wanted.restricted.is_empty() || !wanted.ranges.is_empty();
    let any = any || wanted.table != Table::default();
    any.then(|| Box::new(wanted))
}

fn ranges<A: Family>(service: &Service) -> Ranges<A> {
    let is_own = |frontend: &&Frontend| frontend.is_range() && frontend.clients != Clients::Outside;
    let ranges = service.frontends.iter().filter(is_own);
    let range = |frontend: &Frontend| {
        let (first, last) = (Port::new(frontend.port), Port::new(frontend.end_port));
        let range = PortRange { first, last, protocol: frontend.protocol.number(), ..PortRange::NONE };
        Some((A::from_ip(frontend.address)?, range))
    };
    let mut ranges: Vec<_> = ranges.filter_map(range).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges.into()
}
