//! Containers that a runtime attaches: an address from a pool, an endpoint with
//! it, and both gone when the container is.
//!
//! An address is held by the endpoint that is stored with it, and by nothing else:
//! whenever the agent dies, no other book has to agree.

use std::net::IpAddr;

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::{agent::Agent, wiring::Waiting};
use crate::{
    attach::{self, Stored},
    cni,
    ipam::{AddressRequest, Holders, Ipam, Pool, Refusal},
    mac,
    providers::docker,
    runtime::Pending,
    snapshot::{
        AttachRequest, Attachment, JoinRefused, JoinRequest, JoinView, KeepRequest, Reply, RuntimeCommand,
    },
};

const PENDING: &str = "detach what went while no agent was there";
/// Of what is noted about the plugin's place.
pub const PLUGIN: &str = "put the CNI plugin in place";

impl Agent {
    pub async fn serve_runtime(&mut self, command: RuntimeCommand) {
        // A reply that nobody waits for any more is no error.
        match command {
            RuntimeCommand::Join(request, reply) => self.join(request, reply).await,
            RuntimeCommand::Leave(attachment, reply) => self.leave(&attachment, reply).await,
            RuntimeCommand::Look(attachment, reply) => {
                let _ = reply.send(self.look(&attachment).await);
            }
            RuntimeCommand::Ready(reply) => {
                let _ = reply.send(self.can_join().map_err(|refused| refused.message));
            }
            RuntimeCommand::Keep(request, reply) => self.keep(request, reply).await,
            RuntimeCommand::Pools(reply) => {
                let _ = reply.send(Ok(self.pools()));
            }
            RuntimeCommand::Reserve(request, reply) => {
                let _ = reply.send(self.reserve(&request));
            }
            RuntimeCommand::Release(address, reply) => {
                self.ipam.release(address);
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Gives a container an address and attaches it; asked once more for the same,
    /// it says the same.
    async fn join(&mut self, request: JoinRequest, reply: oneshot::Sender<Result<JoinView, JoinRefused>>) {
        match self.ask_for(request).await {
            Ok(request) => self.attach_endpoint(request, Waiting::Join(reply)),
            Err(refused) => drop(reply.send(Err(refused))),
        }
    }

    /// What is to be attached, once what is in its way has gone.
    async fn ask_for(&mut self, request: JoinRequest) -> Result<AttachRequest, JoinRefused> {
        self.can_join()?;
        let withdrawn = Pending::new(&self.config.state_dir).withdraw(&request.attachment);
        self.note(PENDING, withdrawn);
        // Who is on the way, or could not be taken away, may be gone later.
        let later = |message: String| JoinRefused { message, passes: true };
        if let Some(stored) = self.joined(&request.attachment) {
            if stored.request.netns == request.netns {
                return Ok(stored.request.clone());
            }
            // The namespace has been made anew under the same name.
            let name = stored.request.name.clone();
            self.detach_endpoint(&name).await.map_err(later)?;
        }
        let name = request.name.clone().unwrap_or_else(|| request.attachment.container.clone());
        match self.store.get(&name).map(|stored| stored.request.attachment.clone()) {
            None => {}
            // A pod has been given another sandbox; what is left of the earlier one goes.
            Some(Some(earlier)) if earlier.container != request.attachment.container => {
                self.detach_endpoint(&name).await.map_err(later)?;
            }
            Some(_) => {
                let message = format!("endpoint {name} is attached already: causeway endpoint detach {name}");
                return Err(JoinRefused { message, passes: false });
            }
        }
        if self.wiring.is_under_way(&name) {
            return Err(later(format!("endpoint {name} is being attached: try again")));
        }
        let addresses = self.addresses_for(&request)?;
        let JoinRequest { attachment, netns, mac, mtu, labels, ports, handover, .. } = request;
        let interface = Some(attachment.interface.clone());
        let attachment = Some(attachment);
        Ok(AttachRequest { name, netns, addresses, interface, mtu, labels, mac, attachment, ports, handover })
    }

    /// Takes a container away; false when it is not there.
    async fn leave(&mut self, attachment: &Attachment, reply: Reply<bool>) {
        let stored = self.store.iter().map(|(_, stored)| &stored.request);
        let found = stored.chain(self.wiring.requests()).find(|request| is_of(request, attachment));
        match found.map(|request| request.name.clone()) {
            Some(name) => self.begin_detach(&name, reply).await,
            None => drop(reply.send(Ok(false))),
        }
    }

    /// What a container has, if all of it is as it was made.
    ///
    /// # Errors
    /// In words, what is not.
    async fn look(&self, attachment: &Attachment) -> Result<Option<JoinView>, String> {
        let Some(stored) = self.joined(attachment) else { return Ok(None) };
        attach::is_whole(&self.netlink, &stored.request, &stored.endpoint).await?;
        Ok(self.join_view(&stored.request.name))
    }

    /// Takes away what a runtime has forgotten of a network; answers with the endpoints'
    /// names, or with why one of them is still there.
    async fn keep(&mut self, request: KeepRequest, reply: Reply<Vec<String>>) {
        let is_lost = |stored: &&Stored| {
            stored.request.attachment.as_ref().is_some_and(|attachment| {
                let known = (attachment.container.clone(), attachment.interface.clone());
                attachment.network == request.network && !request.attachments.contains(&known)
            })
        };
        let lost = self.store.iter().map(|(_, stored)| stored).filter(is_lost);
        let lost: Vec<String> = lost.map(|stored| stored.request.name.clone()).collect();
        let mut answers = Vec::new();
        for name in &lost {
            let (gone, answer) = oneshot::channel();
            self.begin_detach(name, gone).await;
            answers.push(answer);
        }
        // Many are waited for beside the loop, and together.
        tokio::spawn(async move {
            let mut errors = Vec::new();
            for answer in answers {
                errors.extend(answer.await.ok().and_then(Result::err));
            }
            let _ = reply.send(if errors.is_empty() { Ok(lost) } else { Err(errors.join("; ")) });
        });
    }

    /// What containers that went while no agent was there have left.
    pub async fn finish_pending(&mut self) {
        let pending = Pending::new(&self.config.state_dir).read();
        let mut outcome = pending.as_ref().map(drop).map_err(ToString::to_string);
        for (path, attachment) in pending.unwrap_or_default() {
            let left = match attachment {
                Some(attachment) => {
                    // What is still on its way is met the next time.
                    if self.wiring.requests().any(|request| is_of(request, &attachment)) {
                        continue;
                    }
                    match self.joined(&attachment).map(|stored| stored.request.name.clone()) {
                        // Once it is in no book any more, its interface goes, whoever is the agent then.
                        Some(name) => {
                            let (gone, mut answer) = oneshot::channel();
                            self.begin_detach(&name, gone).await;
                            answer.try_recv().unwrap_or(Ok(false)).map(drop)
                        }
                        None => Ok(()),
                    }
                }
                None => Err(format!("{} cannot be understood: remove it", path.display())),
            };
            let done = left.and_then(|()| {
                std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))
            });
            outcome = outcome.and(done);
        }
        self.note(PENDING, outcome);
    }

    /// Whether a container may be attached now.
    ///
    /// # Errors
    /// Why not yet.
    pub fn can_join(&self) -> Result<(), JoinRefused> {
        let later = |message: &str| Err(JoinRefused { message: message.into(), passes: true });
        // Its policies might be among what is still to be said. An engine that starts asks
        // for its containers before it answers anybody.
        if !self.model.synced_but(docker::SOURCE) {
            return later("the agent has not heard all its sources yet");
        }
        if self.pools().is_empty() {
            return later(&Refusal::NoPool.to_string());
        }
        Ok(())
    }

    /// Whether somebody has taken it away, or it could not be put there.
    pub fn misses_plugin(&self) -> bool {
        cni::is_missing(self.config.cni_bin.as_deref(), self.config.cni_conf.as_deref())
            || self.failures.contains_key(PLUGIN)
    }

    /// Lets runtimes find us, now that containers can be attached.
    pub fn install_plugin(&mut self) {
        let config = &self.config;
        let plugin = config.cni_bin.as_deref().map_or(Ok(()), cni::put_plugin);
        let put = plugin.and_then(|()| match &config.cni_conf {
            Some(directory) => cni::put_configuration(directory, &config.socket, &config.state_dir),
            None => Ok(()),
        });
        self.note(PLUGIN, put);
    }

    fn joined(&self, attachment: &Attachment) -> Option<&Stored> {
        self.store.iter().map(|(_, stored)| stored).find(|stored| is_of(&stored.request, attachment))
    }

    pub(super) fn join_view(&self, name: &str) -> Option<JoinView> {
        let Stored { request, endpoint } = self.store.get(name)?;
        Some(JoinView {
            name: request.name.clone(),
            addresses: request.addresses.clone(),
            gateways: attach::gateways(&request.addresses),
            interface: endpoint.interface.clone(),
            mac: mac::text(endpoint.mac),
            mtu: request.mtu.unwrap_or(self.uplink.mtu),
        })
    }

    fn addresses_for(&mut self, request: &JoinRequest) -> Result<Vec<IpAddr>, JoinRefused> {
        let pools = self.pools();
        self.ipam.set_pools(&pools);
        let chosen = self.with_holders(|ipam, holders| {
            if !request.handover {
                return ipam.choose(request.pool.as_deref(), &request.addresses, holders);
            }
            ipam.claim(&request.addresses, holders)?;
            Ok(request.addresses.clone())
        });
        chosen.map_err(JoinRefused::from)
    }

    fn reserve(&mut self, request: &AddressRequest) -> Result<IpAddr, JoinRefused> {
        self.can_join()?;
        let pools = self.pools();
        self.ipam.set_pools(&pools);
        let now = self.started.elapsed();
        let reserved = self.with_holders(|ipam, holders| ipam.reserve(request, holders, now));
        reserved.map_err(JoinRefused::from)
    }

    /// Asks for addresses, knowing who has which.
    fn with_holders<T>(&mut self, ask: impl FnOnce(&mut Ipam, &Holders) -> T) -> T {
        let own = self.uplink.addresses.iter().map(|network| (network.addr(), "the node"));
        let endpoints = self.store.iter().flat_map(|(name, stored)| {
            stored.request.addresses.iter().map(move |address| (*address, name.as_str()))
        });
        let under_way = self
            .wiring
            .iter()
            .flat_map(|(name, addresses)| addresses.iter().map(move |address| (*address, name.as_str())));
        let holders: Holders = own.chain(under_way).chain(endpoints).collect();
        ask(&mut self.ipam, &holders)
    }

    /// Those that are configured; else the networks that the cluster has given this
    /// node for its pods.
    pub fn pools(&self) -> Vec<Pool> {
        if !self.config.pools.is_empty() {
            return self.config.pools.clone();
        }
        let node = self.model.nodes().get(self.config.node.as_str());
        let networks: Vec<IpNet> = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        if networks.is_empty() {
            return Vec::new();
        }
        vec![Pool::of(networks)]
    }
}

impl From<Refusal> for JoinRefused {
    fn from(refusal: Refusal) -> Self {
        Self { passes: refusal.passes(), message: refusal.to_string() }
    }
}

/// A runtime's ids are unique whatever the network; one that is gone may have no name.
fn is_of(request: &AttachRequest, attachment: &Attachment) -> bool {
    request.attachment.as_ref().is_some_and(|held| {
        (&held.container, &held.interface) == (&attachment.container, &attachment.interface)
    })
}
