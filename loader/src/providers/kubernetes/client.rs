//! How is the API server reached? By kube's client, over connections that
//! notice when nobody is at the other end, and with an eye on every answer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{ConfigExt, retry::RetryPolicy},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

use super::{
    Timing,
    fare::Fares,
    watchful::{Watchful, refused},
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

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Who has not been heard for [`IDLE`] is asked every [`ASK`], so many times.
const IDLE: Duration = Duration::from_secs(15);
const ASK: Duration = Duration::from_secs(5);
const ASKED: u32 = 3;
/// How long an idle connection may be used again: less than it takes to notice that
/// nobody is there, or the next request would wait in vain once more.
const POOLED: Duration = Duration::from_secs(10);
/// How often a request that the server was too busy for is sent again before
/// its watch starts over; as late as the server wants it, see [`Timing::busy`].
const RETRIES: u32 = 3;

/// A client of its own connections; how its requests fare is noted.
///
/// # Errors
/// When the credentials cannot be used.
pub fn connect(config: &Config, timing: Timing, fares: Arc<Fares>) -> anyhow::Result<Client> {
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
        .map_result(refused)
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(retry))
        .layer(Watchful::new(fares, timing))
        .option_layer(config.auth_layer().context("use the credentials")?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Http::builder(TokioExecutor::new()).pool_idle_timeout(POOLED).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Where the server is, and who we are to it.
///
/// # Errors
/// Names the file, the variable or the address that cannot be used.
pub async fn configuration(access: &Access) -> anyhow::Result<Config> {
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
            direct(&read).with_context(|| format!("kubeconfig: {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig: {}", path.display()))?
        }
        // The address of the API is one of the services that are about to be
        // set up: without it the token is still good for the other one.
        None => match (Config::incluster_env(), &server) {
            (Ok(config), _) => config,
            (Err(_), Some(server)) => Config::incluster_dns().unwrap_or_else(|error| {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "no service account can be used: the API server is asked without one");
                Config::new(server.clone())
            }),
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

/// Holds a file against the one way in which the server is asked.
///
/// # Errors
/// When the file has the current context's server asked by way of a proxy.
fn direct(config: &Kubeconfig) -> anyhow::Result<()> {
    let current = config.current_context.as_deref().unwrap_or_default();
    let named = config.contexts.iter().find(|context| context.name == current);
    let context = named.and_then(|named| named.context.as_ref());
    let clusters = config.clusters.iter().filter(|named| context.is_some_and(|of| of.cluster == named.name));
    for cluster in clusters.filter_map(|named| named.cluster.as_ref()) {
        if let Some(proxy) = cluster.proxy_url.as_deref().filter(|proxy| !proxy.is_empty()) {
            anyhow::bail!(
                "cluster {:?}: proxy-url: the API server is not asked by way of a proxy ({proxy}): name an address that is reached without one",
                context.map_or("", |context| &context.cluster)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                        clusters: [{name: k, cluster: {server: 'https://10.96.0.1:443'}}, {name: o, cluster: {proxy-url: 'http://p'}}]\n\
                        contexts: [{name: c, context: {cluster: k, user: u}}]\n\
                        users: [{name: u, user: {token: t}}]\n";

    async fn unusable(access: Access) -> String {
        format!("{:#}", configuration(&access).await.unwrap_err())
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let server = |text: &str| Access { server: Some(text.into()), ..Access::default() };
        for text in ["", "10.0.0.1:6443", "ftp://a", "/x"] {
            let error = unusable(server(text)).await;
            assert!(error.starts_with("kubernetes-server: "), "{text}: {error}");
        }
        let error = unusable(Access { kubeconfig: Some("/nowhere/config".into()), server: None }).await;
        assert!(error.starts_with("kubeconfig: /nowhere/config: "), "{error}");
        assert!(unusable(Access::default()).await.contains("--kubeconfig FILE"));
    }

    #[tokio::test]
    async fn the_server_given_wins_over_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let mut access = Access { kubeconfig: Some(path), server: None };
        let url = |config: Config| config.cluster_url.to_string();
        assert_eq!(url(configuration(&access).await.unwrap()), "https://10.96.0.1:443/");
        access.server = Some("https://192.168.0.10:6443".into());
        assert_eq!(url(configuration(&access).await.unwrap()), "https://192.168.0.10:6443/");
    }

    #[tokio::test]
    async fn a_proxy_is_refused_and_not_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, FILE.replace(":443'}", ":443', proxy-url: 'socks5://10.0.0.9:1080'}")).unwrap();
        let error = unusable(Access { kubeconfig: Some(path.clone()), server: None }).await;
        assert!(error.contains("proxy-url") && error.contains("socks5://10.0.0.9:1080"), "{error}");
        // Of a cluster that is not asked.
        std::fs::write(&path, FILE).unwrap();
        configuration(&Access { kubeconfig: Some(path), server: None }).await.unwrap();
    }

    /// What the log gets to read.
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_account_that_cannot_be_used_is_told() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let server = Some("https://192.168.0.10:6443".to_owned());
        configuration(&Access { kubeconfig: None, server }).await.unwrap();
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(said.contains(" WARN ") && said.contains("failed to read the default namespace"), "{said}");
    }
}
