//! How many endpoints has this node for a service? Load balancers ask at the
//! `healthCheckNodePort` of services whose external traffic policy is Local, and
//! send to the nodes that have some.
//!
//! The answer is kube-proxy's, as load balancers of clouds know it.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use tokio::task::JoinHandle;

use super::agent::Agent;
use crate::{
    event::Problem,
    model::{HealthCheck, ServiceName, Touched},
};

/// How many endpoints there are, for who knows of no status codes.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

#[derive(Default)]
pub(super) struct HealthChecks {
    wanted: BTreeMap<ServiceName, HealthCheck>,
    /// By port.
    serving: BTreeMap<u16, Check>,
    problems: BTreeMap<ServiceName, Problem>,
}

/// One port that is served.
struct Check {
    service: ServiceName,
    endpoints: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// Tells load balancers what has changed.
    pub(super) fn tell_health_checks(&mut self, touched: &Touched) {
        for id in &touched.services {
            let name = (id.namespace.clone(), id.name.clone());
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
        let Self { wanted, serving, problems } = self;
        serving.retain(|port, check| wanted.get(&check.service).is_some_and(|wanted| wanted.port == *port));
        problems.clear();
        for (service, HealthCheck { port, endpoints, origin }) in wanted {
            let lack = match serving.get(port) {
                Some(check) if check.service == *service => {
                    check.endpoints.store(*endpoints, Ordering::Relaxed);
                    continue;
                }
                Some(Check { service: (namespace, name), .. }) => {
                    format!("{port} is that of service {namespace}/{name}: give one of them another")
                }
                None => match Check::start(service.clone(), *port, *endpoints) {
                    Ok(check) => {
                        serving.insert(*port, check);
                        continue;
                    }
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
}

impl Check {
    fn start(service: ServiceName, port: u16, endpoints: usize) -> io::Result<Self> {
        // Of both families, unless the host has but one.
        let any: [SocketAddr; 2] =
            [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
        let listener = TcpListener::bind(&any[..])?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let router = Router::new().fallback(answer).with_state((service.clone(), endpoints.clone()));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, port, "a health check has ended");
            }
        });
        Ok(Self { service, endpoints, task })
    }
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

async fn answer(
    State(((namespace, name), endpoints)): State<(ServiceName, Arc<AtomicUsize>)>,
) -> impl IntoResponse {
    let local_endpoints = endpoints.load(Ordering::Relaxed);
    let status = if local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let service = Named { namespace, name };
    let answer = Answer { service, local_endpoints, service_proxy_healthy: true };
    let headers = [
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        (WEIGHT, local_endpoints.to_string()),
    ];
    (status, headers, Json(answer))
}
