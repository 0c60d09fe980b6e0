//! How many endpoints has this node for a service? Load balancers ask at the
//! `healthCheckNodePort` of services whose external traffic policy is Local, and
//! send to the nodes that have some.
//!
//! The answer is kube-proxy's, as load balancers of clouds know it: one family's
//! number, that of the service's first address.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;

use super::agent::Agent;
use crate::{
    event::Problem,
    model::{HealthCheck, ServiceName, Touched},
};

/// How many endpoints there are, for who knows of no status codes.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

#[derive(Default)]
pub(super) struct HealthChecks {
    wanted: BTreeMap<ServiceName, HealthCheck>,
    /// By port.
    serving: BTreeMap<u16, Check>,
    problems: BTreeMap<ServiceName, Problem>,
}

/// One port that is served.
struct Check {
    told: Arc<ArcSwap<Told>>,
    /// Nothing is sent: the port is served until this is dropped.
    _serving: oneshot::Sender<()>,
}

/// What whoever asks is told.
struct Told {
    service: ServiceName,
    endpoints: usize,
}

impl Drop for Check {
    fn drop(&mut self) {
        // An answer may be on its way.
        let service = self.told.load().service.clone();
        self.told.store(Arc::new(Told { service, endpoints: 0 }));
    }
}

impl Agent {
    /// Tells load balancers what has changed.
    pub(super) fn tell_health_checks(&mut self, touched: &Touched) {
        let names = touched.services.iter().map(|id| (id.namespace.clone(), id.name.clone()));
        for name in names.collect::<BTreeSet<ServiceName>>() {
            match self.model.health_check(&name) {
                Some(check) => drop(self.health_checks.wanted.insert(name, check)),
                None => drop(self.health_checks.wanted.remove(&name)),
            }
        }
        self.health_checks.settle();
    }
}

impl HealthChecks {
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    /// Serves what is wanted; what cannot be is tried again the next time.
    pub fn settle(&mut self) {
        let owners = self.owners();
        let Self { wanted, serving, problems } = self;
        serving.retain(|port, _| owners.contains_key(port));
        problems.clear();
        for (service, HealthCheck { port, endpoints, origin }) in wanted {
            let told = Told { service: service.clone(), endpoints: *endpoints };
            let lack = match owners.get(port).filter(|owner| *owner != service) {
                Some((namespace, name)) => {
                    format!("{port} is that of service {namespace}/{name}: give one of them another")
                }
                None => match serve(serving, *port, told) {
                    Ok(()) => continue,
                    Err(error) => {
                        format!(
                            "{port} cannot be listened on: {error}; load balancers take this node for dead"
                        )
                    }
                },
            };
            let problem = Problem {
                origin: Some((**origin).clone()),
                object: format!("Service {}/{}", service.0, service.1),
                field: "spec.healthCheckNodePort".into(),
                message: lack,
            };
            problems.insert(service.clone(), problem);
        }
    }

    /// Who has each port: whoever had it and still wants it, or the first.
    fn owners(&self) -> BTreeMap<u16, ServiceName> {
        let had = self.serving.iter().map(|(port, check)| (*port, check.told.load().service.clone()));
        let wants = |(port, name): &(u16, ServiceName)| {
            self.wanted.get(name).is_some_and(|wanted| wanted.port == *port)
        };
        let mut owners: BTreeMap<u16, ServiceName> = had.filter(wants).collect();
        for (service, check) in &self.wanted {
            owners.entry(check.port).or_insert_with(|| service.clone());
        }
        owners
    }
}

/// A port that is served already goes on, whoever it was for.
fn serve(serving: &mut BTreeMap<u16, Check>, port: u16, told: Told) -> io::Result<()> {
    match serving.get(&port) {
        Some(check) => check.told.store(Arc::new(told)),
        None => drop(serving.insert(port, Check::start(port, told)?)),
    }
    Ok(())
}

impl Check {
    fn start(port: u16, told: Told) -> io::Result<Self> {
        // Of both families, unless the host has but one.
        let listener = listen((Ipv6Addr::UNSPECIFIED, port).into())
            .or_else(|_| listen((Ipv4Addr::UNSPECIFIED, port).into()))?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let told = Arc::new(ArcSwap::from_pointee(told));
        let router = Router::new().fallback(answer).with_state(told.clone());
        let (serving, ended) = oneshot::channel();
        // Connections that are kept end with it, too.
        let server = axum::serve(listener, router).with_graceful_shutdown(async { drop(ended.await) });
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, port, "a health check has ended");
            }
        });
        Ok(Self { told, _serving: serving })
    }
}

/// Whatever `net.ipv6.bindv6only` says, a socket of IPv6 serves IPv4 as well.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    service: Named,
    local_endpoints: usize,
    /// Who answers serves.
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named {
    namespace: Arc<str>,
    name: Arc<str>,
}

async fn answer(State(told): State<Arc<ArcSwap<Told>>>) -> impl IntoResponse {
    let told = told.load_full();
    let (namespace, name) = told.service.clone();
    let local_endpoints = told.endpoints;
    let status = if local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = Answer { service: Named { namespace, name }, local_endpoints, service_proxy_healthy: true };
    let headers = [
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        (WEIGHT, local_endpoints.to_string()),
    ];
    (status, headers, Json(answer))
}
