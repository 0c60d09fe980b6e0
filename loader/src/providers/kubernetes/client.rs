//! How is the API server reached? By kube's client, over connections that
//! notice when nobody is at the other end, and with an eye on every answer.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hyper::{Request, Response};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, Layer, Service, ServiceBuilder, retry::RetryLayer};

use super::{
    Timing,
    fare::{Cause, Fares},
    kinds::{Index, KINDS},
};

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: the service account of the pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Its address, in place of what the configuration says: one that leads
    /// there without the services that are about to be set up.
    pub server: Option<String>,
}

/// How long a connection may take, and the head of an answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// Who has not been heard for [`IDLE`] is asked every [`ASK`], so many times.
const IDLE: Duration = Duration::from_secs(15);
const ASK: Duration = Duration::from_secs(5);
const ASKED: u32 = 3;
/// How often a request that the server was too busy for is sent again before
/// its watch starts over; as late as the server wants it.
const RETRIES: u32 = 3;

/// A client, and the address that it asks.
///
/// # Errors
/// Names the file, the variable or the address that cannot be used.
pub async fn connect(access: &Access, timing: Timing, fares: Arc<Fares>) -> anyhow::Result<(Client, String)> {
    let config = configuration(access).await?;
    let server = config.cluster_url.to_string();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(IDLE));
    connector.set_keepalive_interval(Some(ASK));
    connector.set_keepalive_retries(Some(ASKED));
    let connector = config.rustls_https_connector_with_connector(connector).context("set up TLS")?;
    let retry = RetryPolicy::new(timing.pause, timing.longest, RETRIES, true)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(retry))
        .layer(Watchful(Arc::new(Eye { fares, timing, watches: Mutex::new([None; KINDS.len()]) })))
        .option_layer(config.auth_layer().context("use the credentials")?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Http::builder(TokioExecutor::new()).build(connector));
    Ok((Client::new(service, config.default_namespace), server))
}

async fn configuration(access: &Access) -> anyhow::Result<Config> {
    let server = match &access.server {
        Some(text) => {
            let url: hyper::Uri =
                text.parse().with_context(|| format!("kubernetes-server: {text:?} is no URL"))?;
            anyhow::ensure!(
                matches!(url.scheme_str(), Some("https" | "http")) && url.host().is_some(),
                "kubernetes-server: {text:?} is no URL: write it like https://192.168.0.10:6443"
            );
            Some(url)
        }
        None => None,
    };
    let mut config = match &access.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path);
            let read = read.with_context(|| format!("kubeconfig: {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig: {}", path.display()))?
        }
        // The address of the API is one of the services that are about to be
        // set up: without it the token is still good for the other one.
        None => match (Config::incluster_env(), &server) {
            (Ok(config), _) => config,
            (Err(_), Some(server)) => Config::incluster_dns().unwrap_or_else(|_| Config::new(server.clone())),
            (Err(error), None) => {
                return Err(error).context(
                    "kubernetes: no --kubeconfig FILE is given, and this is no pod with a service account",
                );
            }
        },
    };
    if let Some(server) = server {
        config.cluster_url = server;
    }
    Ok(config)
}

/// Notes how each kind's requests fare, and keeps its watches apart: a server
/// or proxy that ends them at once must not be asked as fast as it can answer.
#[derive(Debug)]
struct Eye {
    fares: Arc<Fares>,
    timing: Timing,
    /// When each kind's next watch may begin.
    watches: Mutex<[Option<Instant>; KINDS.len()]>,
}

impl Eye {
    /// Which kind a request is about; requests for discovery are about none.
    fn kind(path: &str) -> Option<Index> {
        // The server's own address may have a path.
        KINDS.iter().position(|watched| path.ends_with(&watched.path()))
    }

    /// How long a watch has to wait for its turn.
    fn pace(&self, kind: Index) -> Duration {
        let now = Instant::now();
        let next = &mut self.watches.lock().unwrap_or_else(PoisonError::into_inner)[kind];
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.timing.pace);
        turn - now
    }

    fn note<B>(&self, kind: Index, answer: &Result<Response<B>, BoxError>) {
        match answer {
            Ok(answer) if answer.status().is_success() => self.fares.answered(kind),
            Ok(answer) => self.fares.failed(kind, Cause::of_status(answer.status().as_u16())),
            Err(error) => self.fares.failed(kind, Cause::Silent(innermost(&**error))),
        }
    }
}

/// The cause of an error that its wrappers only repeat.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[derive(Clone)]
struct Watchful(Arc<Eye>);

impl<S> Layer<S> for Watchful {
    type Service = Watching<S>;

    fn layer(&self, inner: S) -> Watching<S> {
        Watching { inner, eye: self.0.clone() }
    }
}

#[derive(Clone)]
struct Watching<S> {
    inner: S,
    eye: Arc<Eye>,
}

impl<S, B> Service<Request<Body>> for Watching<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready serves; its clone waits for its turn.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let eye = self.eye.clone();
        let kind = Eye::kind(request.uri().path());
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        Box::pin(async move {
            if let Some(kind) = kind.filter(|_| watch) {
                tokio::time::sleep(eye.pace(kind)).await;
            }
            let answer = match tokio::time::timeout(ANSWER, ready.call(request)).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(BoxError::from(format!("no answer within {} s", ANSWER.as_secs()))),
            };
            if let Some(kind) = kind {
                eye.note(kind, &answer);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(access: Access) -> String {
        format!("{:#}", configuration(&access).await.unwrap_err())
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let server = |text: &str| Access { server: Some(text.into()), ..Access::default() };
        for text in ["", "10.0.0.1:6443", "ftp://a", "/x"] {
            let error = refused(server(text)).await;
            assert!(error.starts_with("kubernetes-server: "), "{text}: {error}");
        }
        let error = refused(Access { kubeconfig: Some("/nowhere/config".into()), server: None }).await;
        assert!(error.starts_with("kubeconfig: /nowhere/config: "), "{error}");
        assert!(refused(Access::default()).await.contains("--kubeconfig FILE"));
    }

    #[tokio::test]
    async fn the_server_given_wins_over_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                    clusters: [{name: k, cluster: {server: 'https://10.96.0.1:443'}}]\n\
                    contexts: [{name: c, context: {cluster: k, user: u}}]\n\
                    users: [{name: u, user: {token: t}}]\n";
        std::fs::write(&path, text).unwrap();
        let mut access = Access { kubeconfig: Some(path), server: None };
        let url = |config: Config| config.cluster_url.to_string();
        assert_eq!(url(configuration(&access).await.unwrap()), "https://10.96.0.1:443/");
        access.server = Some("https://192.168.0.10:6443".into());
        assert_eq!(url(configuration(&access).await.unwrap()), "https://192.168.0.10:6443/");
    }

    #[test]
    fn requests_are_known_by_their_path() {
        assert_eq!(Eye::kind("/api/v1/services"), Some(0));
        assert_eq!(Eye::kind("/k8s/clusters/c-1/apis/discovery.k8s.io/v1/endpointslices"), Some(1));
        assert_eq!(Eye::kind("/apis/causeway.io/v1alpha1"), None);
    }
}
