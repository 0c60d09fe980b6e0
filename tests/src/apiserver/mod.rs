//! An API server of Kubernetes, as far as its protocol for those who watch
//! goes: lists in pages, watches with resource versions and bookmarks,
//! discovery, and each of the ways in which these fail. Real HTTP, so that a
//! client of the real one cannot tell.
//!
//! What it holds is put there by the test, as the documents that a manifest
//! directory would have.

mod events;
mod faults;
mod http;
mod leases;
pub mod rbac;
pub mod secure;
mod state;
pub mod stock;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::sync::watch;

pub use faults::Fault;
pub use state::{DISCOVERY, KINDS, Kind, kind};

use crate::{netns::Netns, random::Random};
use secure::{Guarded, Identity};
use state::State;

/// What the server's tasks share with the test.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Raised with every change, so that watches sleep in between.
    changed: watch::Sender<u64>,
    /// Over TLS, if there is one.
    identity: Mutex<Option<Arc<Identity>>>,
    /// Whoever does not say this is a stranger.
    token: Mutex<Option<String>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// A server, up or down; its objects outlive both.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    up: bool,
    done: mpsc::Sender<SocketAddr>,
}

impl ApiServer {
    /// A server in this process's own namespace, at a free port.
    pub fn local() -> Self {
        Self::new(([127, 0, 0, 1], 0).into(), None, std::thread::spawn)
    }

    /// A server in `netns`.
    pub fn start(netns: &Netns, address: impl Into<SocketAddr>) -> Self {
        Self::new(address.into(), None, |work| netns.spawn_thread(work))
    }

    /// As [`ApiServer::start`], over TLS from the beginning.
    pub fn secured(netns: &Netns, address: impl Into<SocketAddr>, identity: Arc<Identity>) -> Self {
        Self::new(address.into(), Some(identity), |work| netns.spawn_thread(work))
    }

    fn new(
        address: SocketAddr,
        identity: Option<Arc<Identity>>,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> JoinHandle<()>,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::channel(0).0,
            identity: Mutex::new(identity),
            token: Mutex::default(),
        });
        let (orders, ordered) = mpsc::channel();
        let work = {
            let shared = shared.clone();
            move || serve(&shared, address, &ordered)
        };
        let thread = spawn(Box::new(work));
        let mut server = Self { shared, address, orders: Some(orders), thread: Some(thread) };
        server.up();
        server
    }

    /// Where it listens, as `--kubernetes-server` takes it.
    pub fn url(&self) -> String {
        let scheme = if self.shared.identity.lock().unwrap().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Speaks TLS from the next time that it comes up.
    pub fn secure(&self, identity: Arc<Identity>) {
        *self.shared.identity.lock().unwrap() = Some(identity);
    }

    /// Whom it answers from now on.
    pub fn require(&self, token: &str) {
        *self.shared.token.lock().unwrap() = Some(token.to_owned());
    }

    /// Answers again, at the same address.
    pub fn up(&mut self) {
        self.address = self.order(true);
    }

    /// Ends every connection; new ones are refused.
    pub fn down(&mut self) {
        self.order(false);
    }

    fn order(&self, up: bool) -> SocketAddr {
        let (done, answer) = mpsc::channel();
        self.orders.as_ref().unwrap().send(Order { up, done }).unwrap();
        answer.recv().unwrap()
    }

    /// Puts every object of the text there, or in place of the one of its name.
    pub fn apply(&self, yaml: &str) {
        for document in documents(yaml) {
            self.put(document);
        }
    }

    pub fn put(&self, object: Value) {
        self.change(|state| state.put(object));
    }

    /// Takes an object away; one that is not there stays so.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.change(|state| state.delete(kind, namespace, name));
    }

    /// Forgets the past: who asks for what came after a version of it is too late.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Loses all objects of a kind but those of these names, and the past: who
    /// watches is told to list again, and not what went.
    pub fn lose(&self, kind: Kind, keep: impl Fn(&str) -> bool) {
        self.change(|state| {
            state.lose(kind, keep);
            state.compact();
        });
    }

    /// Lets the server have a kind that has to be installed, or no longer.
    pub fn install(&self, kind: Kind, installed: bool) {
        self.change(|state| state.install(kind, installed));
    }

    /// Lets the client read a kind, or no longer; what it reads already goes on.
    pub fn allow(&self, kind: Kind, allowed: bool) {
        self.change(|state| state.allow(kind, allowed));
    }

    /// What goes wrong next with a kind, each once, where it applies.
    pub fn plan(&self, kind: Kind, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state().faults(kind).plan(faults);
        self.shared.changed.send_modify(|version| *version += 1);
    }

    /// The faults planned that have not happened.
    pub fn planned(&self) -> usize {
        let mut state = self.shared.state();
        (0..=DISCOVERY).map(|kind| state.faults(kind).planned()).sum()
    }

    /// From now on, in one of `n` occasions, something goes wrong; `None`: all
    /// goes well.
    pub fn misbehave(&self, chance: Option<(u64, usize)>) {
        let mut state = self.shared.state();
        for kind in 0..=DISCOVERY {
            let each = chance.map(|(seed, one_in)| (Random::new(seed.wrapping_add(kind as u64)), one_in));
            state.faults(kind).misbehave(each);
        }
    }

    /// How often a Lease was written.
    pub fn lease_writes(&self) -> u64 {
        self.shared.state().leases.writes
    }

    /// Takes a Lease away.
    pub fn remove_lease(&self, name: &str) {
        self.shared.state().leases.remove(name);
    }

    /// Lets clients have Leases, or no longer.
    pub fn allow_leases(&self, allowed: bool) {
        self.shared.state().leases.forbidden = !allowed;
    }

    /// The Events that there are, and how often somebody wanted to create one.
    pub fn events(&self) -> (Vec<Value>, u64) {
        let state = self.shared.state();
        (state.events.objects.values().cloned().collect(), state.events.asked)
    }

    /// Forgets the Events, as a server does after an hour.
    pub fn forget_events(&self) {
        self.shared.state().events.objects.clear();
    }

    /// Lets clients create Events, or no longer.
    pub fn allow_events(&self, allowed: bool) {
        self.shared.state().events.forbidden = !allowed;
    }

    /// The objects as they are now, without what the server has added.
    pub fn objects(&self) -> Vec<Value> {
        self.shared.state().documents()
    }

    /// How many requests there were of a kind, lists and watches.
    pub fn requests(&self, kind: Kind) -> (u64, u64) {
        self.shared.state().requests(kind)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.send_modify(|version| *version += 1);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Without orders the thread ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The objects of a text of several documents, and of lists in it.
pub fn documents(yaml: &str) -> Vec<Value> {
    let read = |text: &str| -> Value {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
    };
    let texts = format!("\n{yaml}");
    let texts = texts.split("\n---").filter(|text| !text.trim().is_empty());
    texts
        .map(read)
        .flat_map(|value| match value.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![value],
        })
        .collect()
}

/// The thread: up and down as it is told. Every task of an uptime ends with it.
fn serve(shared: &Arc<Shared>, mut address: SocketAddr, orders: &mpsc::Receiver<Order>) {
    let mut next = orders.recv().ok();
    while let Some(order) = next {
        if !order.up {
            let _ = order.done.send(address);
            next = orders.recv().ok();
            continue;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        // Threads of the runtime are of this one's namespace.
        let listener = runtime.block_on(async { tokio::net::TcpListener::bind(address).await });
        let listener = listener.unwrap_or_else(|error| panic!("listen at {address}: {error}"));
        address = listener.local_addr().unwrap();
        let app = http::app(shared.clone());
        match shared.identity.lock().unwrap().clone() {
            Some(identity) => {
                drop(runtime.spawn(async move { axum::serve(Guarded::new(listener, &identity), app).await }))
            }
            None => drop(runtime.spawn(async { axum::serve(listener, app).await })),
        }
        let _ = order.done.send(address);
        next = orders.recv().ok();
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    }
}
