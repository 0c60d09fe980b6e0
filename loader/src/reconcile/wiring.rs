//! Who is being attached, or taken away? What waits for the kernel is done beside
//! the loop, for many at a time; in between the loop has its turns, so that maps
//! and policies stand before an interface comes up.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::sync::{mpsc, oneshot};

use super::agent::Agent;
use crate::{
    attach,
    kernel::bpf::{Fitted, Fitter},
    model::desired::Endpoint,
    netlink::Netlink,
    snapshot::{AttachRequest, Attached, JoinRefused, JoinView, Reply},
};

/// Who waits for an endpoint.
pub enum Waiting {
    Attach(Reply<Attached>),
    Join(oneshot::Sender<Result<JoinView, JoinRefused>>),
}

impl Waiting {
    /// A reply that nobody waits for any more is no error.
    pub fn refuse(self, why: JoinRefused) {
        match self {
            Waiting::Attach(reply) => drop(reply.send(Err(why.message))),
            Waiting::Join(reply) => drop(reply.send(Err(why))),
        }
    }
}

/// An endpoint on its way.
pub struct Work {
    pub request: AttachRequest,
    pub waiting: Waiting,
    /// It was not there before: if it fails, nothing is to be left.
    pub fresh: bool,
}

/// A part of the work that is done.
pub enum Done {
    /// Its interface, with programs unless it had them already.
    Made(Result<(Endpoint, Option<Fitted>), String>),
    /// It is up.
    Awake(Result<(), String>),
}

pub struct Wiring {
    /// By name, what is about to be, and who wants it to go as soon as it is.
    under_way: BTreeMap<String, (AttachRequest, Vec<Reply<bool>>)>,
    told: mpsc::UnboundedSender<(Work, Done)>,
    heard: mpsc::UnboundedReceiver<(Work, Done)>,
}

impl Default for Wiring {
    fn default() -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self { under_way: BTreeMap::new(), told, heard }
    }
}

impl Wiring {
    pub fn is_under_way(&self, name: &str) -> bool {
        self.under_way.contains_key(name)
    }

    pub fn requests(&self) -> impl Iterator<Item = &AttachRequest> {
        self.under_way.values().map(|(request, _)| request)
    }

    /// Names and addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<IpAddr>)> {
        self.under_way.iter().map(|(name, (request, _))| (name, &request.addresses))
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// It is to go once it is there: its runtime has not waited.
    pub fn cancel(&mut self, name: &str, reply: Reply<bool>) {
        match self.under_way.get_mut(name) {
            Some((_, cancelled)) => cancelled.push(reply),
            None => drop(reply.send(Ok(false))),
        }
    }

    pub fn is_cancelled(&self, name: &str) -> bool {
        self.under_way.get(name).is_some_and(|(_, cancelled)| !cancelled.is_empty())
    }

    /// It is on its way no more; who wants it to go.
    pub fn end(&mut self, name: &str) -> Vec<Reply<bool>> {
        self.under_way.remove(name).map(|(_, cancelled)| cancelled).unwrap_or_default()
    }

    /// The next part that is done, whenever that is.
    pub async fn next(&mut self) -> (Work, Done) {
        match self.heard.recv().await {
            Some(done) => done,
            // The sender is here as well.
            None => std::future::pending().await,
        }
    }

    /// Has an interface made, with its programs; `known` is the one that has them.
    pub fn make(&mut self, netlink: Netlink, fitter: Fitter, (work, mtu): (Work, u32), known: Option<u32>) {
        self.under_way.insert(work.request.name.clone(), (work.request.clone(), Vec::new()));
        let told = self.told.clone();
        tokio::spawn(async move {
            let made = make(&netlink, fitter, &work.request, mtu, known).await;
            // The loop has ended otherwise; the next agent clears up.
            let _ = told.send((work, Done::Made(made)));
        });
    }

    /// Has it brought up.
    pub fn wake(&self, work: Work) {
        let told = self.told.clone();
        tokio::spawn(async move {
            let awake = attach::activate(&work.request).await.map_err(|error| error.to_string());
            let _ = told.send((work, Done::Awake(awake)));
        });
    }
}

async fn make(
    netlink: &Netlink,
    fitter: Fitter,
    request: &AttachRequest,
    mtu: u32,
    known: Option<u32>,
) -> Result<(Endpoint, Option<Fitted>), String> {
    let endpoint = attach::prepare(netlink, request, mtu).await.map_err(|error| error.to_string())?;
    if known == Some(endpoint.ifindex) {
        return Ok((endpoint, None));
    }
    let (ifindex, interface) = (endpoint.ifindex, endpoint.interface.clone());
    let fitted = tokio::task::spawn_blocking(move || fitter.fit(ifindex, &interface)).await;
    let fitted = match fitted {
        Ok(fitted) => fitted.map_err(|error| error.to_string()),
        Err(error) => Err(format!("attach to {}: {error}", endpoint.interface)),
    };
    match fitted {
        Ok(fitted) => Ok((endpoint, Some(fitted))),
        Err(error) => {
            // The cause of the failure matters more than that of the clean-up.
            let _ = attach::detach(netlink, &endpoint).await;
            Err(error)
        }
    }
}

/// Takes an interface away of which no map tells any more, then what its programs
/// are remembered by.
///
/// # Errors
/// As text for the one who asked.
pub async fn unmake(netlink: Netlink, endpoint: Endpoint, fitted: Option<Fitted>) -> Result<(), String> {
    let deleted = attach::detach(&netlink, &endpoint).await;
    deleted.map_err(|error| format!("delete interface {}: {error}", endpoint.interface))?;
    let forgotten = fitted.map_or(Ok(()), Fitted::forget);
    forgotten.map_err(|error| format!("forget the programs of {}: {error}", endpoint.interface))
}

impl Agent {
    /// The loop's turn, once a part of an endpoint's wiring is done.
    pub async fn go_on(&mut self, (work, done): (Work, Done)) {
        match done {
            Done::Made(made) => self.made(work, made).await,
            Done::Awake(awake) => self.awake(work, awake).await,
        }
    }
}
