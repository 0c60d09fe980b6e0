//! Who may ask? TLS with a certificate of its own, and a token that is asked for.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::serve::Listener;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::CertifiedKey;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
    server::TlsStream,
};

use crate::scratch::Dir;

/// A certificate that is its own authority, and what is served with it.
pub struct Identity {
    /// As a kubeconfig's `certificate-authority-data`.
    pub authority: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Good for 127.0.0.1.
    pub fn new() -> Self {
        Self::of("127.0.0.1")
    }

    /// Good for an address.
    pub fn of(address: &str) -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([address.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![cert.der().clone()], key).unwrap();
        Self { authority: STANDARD.encode(cert.pem()), config: Arc::new(config) }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

/// The authority as a pod finds it in a file (PEM).
pub fn pem(identity: &Identity) -> String {
    String::from_utf8(STANDARD.decode(&identity.authority).unwrap()).unwrap()
}

/// Writes a kubeconfig whose token is in a file beside it; both paths.
pub fn kubeconfig(dir: &Dir, server: &str, authority: &str, token: &str) -> (PathBuf, PathBuf) {
    let (config, file) = (dir.join("config"), dir.join("token"));
    std::fs::write(&file, token).unwrap();
    let path = |path: &Path| path.display().to_string();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{tokenFile: '{}'}}}}]\n",
        path(&file)
    );
    std::fs::write(&config, text).unwrap();
    (config, file)
}

/// Those who speak TLS with us.
pub struct Guarded {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Guarded {
    pub fn new(listener: TcpListener, identity: &Identity) -> Self {
        Self { listener, acceptor: identity.config.clone().into() }
    }
}

impl Listener for Guarded {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else { continue };
            let hello = timeout(Duration::from_secs(1), self.acceptor.accept(stream));
            // Whoever does not trust us goes away.
            if let Ok(Ok(stream)) = hello.await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
