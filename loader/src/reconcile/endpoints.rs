//! Endpoints: maps and programs first, then the interface inside comes up.

use std::collections::BTreeMap;

use super::{
    agent::Agent,
    commands::UNINSTALLED,
    host_ports,
    status::ATTACH,
    wiring::{Waiting, Work, unmake},
};
use crate::{
    attach::{self, Stored},
    event::pod_name,
    kernel::bpf::{Attachment, Fitted, Fitter},
    model::desired::Endpoint,
    netlink::Link,
    plan::policy::SEALED,
    snapshot::{AttachRequest, Attached, JoinRefused, Reply},
};

/// To whoever waits for what somebody else has taken away.
const CANCELLED: &str = "it was detached before it stood";
const STATE: &str = "write the state directory";

fn lasting(message: String) -> JoinRefused {
    JoinRefused { message, passes: false }
}

impl Agent {
    /// Begins to wire an endpoint, or to find it wired; who waits hears of it when it
    /// stands, or that nothing is left of it.
    pub fn attach_endpoint(&mut self, request: AttachRequest, waiting: Waiting) {
        let fitter = match self.check_attach(&request) {
            Ok(fitter) => fitter,
            Err(why) => return waiting.refuse(why),
        };
        let before = self.store.get(&request.name).map(|stored| stored.endpoint.ifindex);
        let work = Work { request, waiting, fresh: before.is_none() };
        self.wiring.make(self.netlink.clone(), fitter, (work, self.uplink.mtu), before);
    }

    /// Whether it can be begun; why not, and whether that passes.
    fn check_attach(&self, request: &AttachRequest) -> Result<Fitter, JoinRefused> {
        let dataplane = self.dataplane.as_ref().ok_or_else(|| lasting(UNINSTALLED.into()))?;
        attach::validate(request).map_err(|error| lasting(error.to_string()))?;
        let name = &request.name;
        if self.wiring.is_under_way(name) {
            let message = format!("endpoint {name} is being attached: try again");
            return Err(JoinRefused { message, passes: true });
        }
        let stored = self.store.iter().map(|(name, stored)| (name, &stored.endpoint.addresses));
        // Policies are about pods: of two endpoints that are one, but one would have them.
        let pod = pod_name(name);
        for (other, addresses) in stored.chain(self.wiring.iter()).filter(|(other, _)| *other != name) {
            if pod_name(other) == pod {
                let message =
                    format!("endpoint {name}: name: {other} is the same pod: detach that one first");
                return Err(lasting(message));
            }
            if let Some(address) = request.addresses.iter().find(|address| addresses.contains(address)) {
                return Err(lasting(format!(
                    "endpoint {name}: addresses: {address} belongs to endpoint {other}: detach that one first"
                )));
            }
        }
        for (index, port) in request.ports.iter().enumerate() {
            let at = format!("endpoint {name}: ports: {port}");
            if request.ports[..index].iter().any(|other| port.clashes(other)) {
                return Err(lasting(format!("{at} is there twice")));
            }
            // Else what goes to somebody else's address would come here.
            let is_own = |address| self.uplink.addresses.iter().any(|own| own.addr() == address);
            if let Some(address) = port.address.filter(|address| !is_own(*address)) {
                return Err(lasting(format!("{at}: {address} is no address of this node's uplink")));
            }
        }
        let held = self.host_port_holder(&request.ports).filter(|(holder, _)| holder != name);
        if let Some((holder, port)) = held {
            return Err(lasting(format!("endpoint {name}: ports: {port} belongs to endpoint {holder}")));
        }
        self.check_network(request).map_err(lasting)?;
        dataplane.fitter().map_err(|error| lasting(error.to_string()))
    }

    /// Its interface is there, and down.
    pub(super) async fn made(&mut self, work: Work, made: Result<(Endpoint, Option<Fitted>), String>) {
        let name = work.request.name.clone();
        let entered = match made {
            Ok((endpoint, fitted)) => self.enter(&work.request, endpoint, fitted).await,
            Err(message) => Err(lasting(message)),
        };
        // A map may have no room for it, or another's row be in its way.
        let objects = host_ports::objects(&work.request);
        let mut problems = self.plan_problems();
        let refused = problems.find(|problem| {
            problem.object == format!("endpoint {name}") || objects.contains(&problem.object)
        });
        let refused = refused.map(ToString::to_string);
        drop(problems);
        let refused = refused.or_else(|| self.wiring.is_cancelled(&name).then(|| CANCELLED.to_owned()));
        let is_refused = refused.is_some();
        match refused.map(lasting).or(entered.err()) {
            Some(why) => self.fail(work, is_refused, why).await,
            None => self.wiring.wake(work),
        }
    }

    /// It has not come to be; who wants it to go has what he wants.
    async fn fail(&mut self, work: Work, is_refused: bool, why: JoinRefused) {
        let cancelled = self.wiring.end(&work.request.name);
        if work.fresh || is_refused {
            self.give_up(&work.request).await;
        }
        work.waiting.refuse(why);
        for reply in cancelled {
            let _ = reply.send(Ok(true));
        }
    }

    /// It is up.
    pub(super) async fn awake(&mut self, work: Work, awake: Result<(), String>) {
        let name = work.request.name.clone();
        let is_cancelled = self.wiring.is_cancelled(&name);
        let failed = if is_cancelled { Err(CANCELLED.to_owned()) } else { awake };
        if let Err(message) = failed {
            return self.fail(work, is_cancelled, lasting(message)).await;
        }
        self.wiring.end(&name);
        self.audit_soon();
        self.publish();
        let gone = format!("endpoint {name} has gone meanwhile");
        match work.waiting {
            Waiting::Attach(reply) => {
                let attached = self.store.get(&name).map(|stored| self.attached(stored));
                let _ = reply.send(attached.ok_or(gone));
            }
            Waiting::Join(reply) => {
                let refused = JoinRefused { message: gone, passes: true };
                let _ = reply.send(self.join_view(&name).ok_or(refused));
            }
        }
    }

    /// Nothing is left of it, whatever of it there was.
    async fn give_up(&mut self, request: &AttachRequest) {
        self.ipam.free(&request.addresses);
        let gone = self.detach_endpoint(&request.name).await;
        self.note("take away what could not be attached", gone);
    }

    /// An endpoint as the edges see it.
    pub fn attached(&self, stored: &Stored) -> Attached {
        let Stored { request, endpoint } = stored;
        let (namespace, labels) = self.model.endpoint_labels(&request.name, &request.labels);
        let labels = self.admitted(&namespace, labels);
        Attached { endpoint: endpoint.clone(), labels, netns: request.netns.clone() }
    }

    /// Maps, policies and routes of an endpoint whose interface is there.
    async fn enter(
        &mut self,
        request: &AttachRequest,
        endpoint: Endpoint,
        fitted: Option<Fitted>,
    ) -> Result<(), JoinRefused> {
        let Some(dataplane) = &mut self.dataplane else {
            let _ = unmake(self.netlink.clone(), endpoint, fitted).await;
            return Err(lasting(UNINSTALLED.into()));
        };
        // Held before anything can fail: what is held is looked after.
        match fitted {
            Some(fitted) => dataplane.hold(fitted),
            None => {
                let mut wanted = Attachment::of_container(endpoint.ifindex, &endpoint.interface).into_iter();
                wanted.try_for_each(|at| dataplane.attach(at)).map_err(|error| lasting(error.to_string()))?;
            }
        }
        if let Some(before) = self.store.get(&request.name)
            && before.endpoint.ifindex != endpoint.ifindex
        {
            dataplane.detach(before.endpoint.ifindex).map_err(|error| lasting(error.to_string()))?;
        }
        let same = |before: &Stored| {
            (&before.request.addresses, &before.request.labels) == (&request.addresses, &request.labels)
        };
        let known = self.store.get(&request.name).is_some_and(same);
        let before = self.store.get(&request.name).map(|before| before.request.clone());
        if let Some(before) = before.filter(|before| before.ports != request.ports) {
            self.tell_host_ports(&before, false).await;
        }
        let stored = Stored { request: request.clone(), endpoint };
        // There may be room again.
        let full = |error| JoinRefused { message: format!("{STATE}: {error}"), passes: true };
        self.store.insert(stored).map_err(full)?;
        // Its rules stand before its first packet can come or go.
        self.tell_endpoint(&request.name);
        self.tell_host_ports(request, true).await;
        self.commit_policies();
        self.settle_egress().await;
        let leaves = self.check_egress(&request.name, &request.addresses, known);
        self.plan_endpoints();
        leaves.map_err(lasting)?;
        self.keep_routes().await;
        Ok(())
    }

    /// Takes an endpoint away; false when there was none.
    ///
    /// # Errors
    /// As text for the one who asked.
    pub async fn detach_endpoint(&mut self, name: &str) -> Result<bool, String> {
        let Some((endpoint, fitted)) = self.unwire(name).await? else { return Ok(false) };
        unmake(self.netlink.clone(), endpoint, fitted).await?;
        Ok(true)
    }

    /// The same, beside the loop as far as the kernel is waited for.
    pub async fn begin_detach(&mut self, name: &str, reply: Reply<bool>) {
        if self.wiring.is_under_way(name) {
            return self.wiring.cancel(name, reply);
        }
        let (endpoint, fitted) = match self.unwire(name).await {
            Ok(Some(unwired)) => unwired,
            Ok(None) => return drop(reply.send(Ok(false))),
            Err(message) => return drop(reply.send(Err(message))),
        };
        let netlink = self.netlink.clone();
        tokio::spawn(async move {
            let _ = reply.send(unmake(netlink, endpoint, fitted).await.map(|()| true));
        });
    }

    /// Takes an endpoint out of everything but its interface, which nothing is
    /// delivered to any more.
    async fn unwire(&mut self, name: &str) -> Result<Option<(Endpoint, Option<Fitted>)>, String> {
        if self.wiring.is_under_way(name) {
            return Err(format!("endpoint {name} is being attached: try again"));
        }
        let (removed, saved) = self.store.remove(name);
        self.note(STATE, saved);
        let Some(stored) = removed else { return Ok(None) };
        self.ipam.free(&stored.endpoint.addresses);
        self.tell_host_ports(&stored.request, false).await;
        self.plan_endpoints();
        self.tell_endpoint(name);
        self.commit_policies();
        self.settle_egress().await;
        let fitted = self.dataplane.as_mut().map(|dataplane| dataplane.let_go(stored.endpoint.ifindex));
        self.keep_routes().await;
        self.audit_soon();
        self.publish();
        Ok(Some((stored.endpoint, fitted)))
    }

    /// Finds the endpoints of an earlier agent, without those that have gone.
    pub async fn adopt_endpoints(&mut self) {
        let links = self.netlink.links().await;
        if let Some(links) = self.note("list interfaces", links) {
            self.forget_dead_endpoints(&links);
            // Of a state that was lost nothing can be said.
            if self.store.is_whole() {
                self.sweep(&links).await;
            }
        }
        let names: Vec<String> = self.store.iter().map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.tell_endpoint(name));
        self.plan_endpoints();
    }

    /// Deletes interfaces that an earlier agent has made, or was about to delete, when
    /// it died.
    async fn sweep(&mut self, links: &[Link]) {
        let known = |link: &Link| self.store.iter().any(|(_, stored)| stored.endpoint.interface == link.name);
        let left: Vec<&Link> = links.iter().filter(|link| attach::is_ours(link) && !known(link)).collect();
        for link in left {
            tracing::info!(interface = %link.name, "nobody's: deleted");
            let deleted = self.netlink.delete_link(&link.name).await;
            self.note("delete an interface that is nobody's", deleted);
        }
    }

    /// Forgets endpoints whose interface has gone with its namespace, and
    /// gives the others the uplink's MTU, should that have changed.
    pub async fn audit_endpoints(&mut self) {
        let links = self.netlink.links().await;
        let Some(links) = self.note("list interfaces", links) else { return };
        if self.failures.contains_key(STATE) {
            let saved = self.store.save();
            self.note(STATE, saved);
        }
        let dead = self.forget_dead_endpoints(&links);
        if !dead.is_empty() {
            for request in &dead {
                self.tell_host_ports(request, false).await;
            }
            self.plan_endpoints();
            self.commit_policies();
        }
        self.follow_mtu(&links).await;
    }

    /// An endpoint that was attached with an MTU of its own keeps that.
    async fn follow_mtu(&mut self, links: &[Link]) {
        let by_index = |index: u32| links.iter().find(|link| link.index == index);
        let Some(uplink) = by_index(self.uplink.ifindex) else { return };
        if uplink.mtu != self.uplink.mtu {
            tracing::info!(uplink = %uplink.name, from = self.uplink.mtu, to = uplink.mtu, "another MTU");
            self.uplink.mtu = uplink.mtu;
        }
        let mut outcome = Ok(());
        for (_, stored) in self.store.iter() {
            let Some(there) = by_index(stored.endpoint.ifindex) else { continue };
            // Of one that was handed over, only the runtime knows where the other side is.
            if stored.request.mtu.is_some() || stored.request.handover || there.mtu == uplink.mtu {
                continue;
            }
            let change = (there.mtu, uplink.mtu);
            let set = attach::set_mtu(&self.netlink, &stored.request, &stored.endpoint, change).await;
            outcome = outcome.and(set);
        }
        self.note("give endpoints the uplink's MTU", outcome);
    }

    /// What they were.
    fn forget_dead_endpoints(&mut self, links: &[Link]) -> Vec<AttachRequest> {
        let alive = |endpoint: &Endpoint| {
            links.iter().any(|link| link.index == endpoint.ifindex && link.name == endpoint.interface)
        };
        let dead: Vec<String> = self
            .store
            .iter()
            .filter(|(_, stored)| !alive(&stored.endpoint))
            .map(|(name, _)| name.clone())
            .collect();
        let mut forgotten = Vec::new();
        for name in &dead {
            let (removed, saved) = self.store.remove(name);
            self.note(STATE, saved);
            self.tell_endpoint(name);
            if let Some(stored) = removed {
                tracing::info!(endpoint = %name, "its interface has gone: forgotten");
                self.ipam.free(&stored.endpoint.addresses);
                if let Some(dataplane) = &mut self.dataplane {
                    let detached = dataplane.detach(stored.endpoint.ifindex);
                    self.note(ATTACH, detached);
                }
                forgotten.push(stored.request);
            }
        }
        forgotten
    }

    pub fn plan_endpoints(&mut self) {
        let endpoint = |(name, stored): (&String, &Stored)| {
            let policy = self.policy_of(name, stored);
            (name.clone(), Endpoint { policy, ..stored.endpoint.clone() })
        };
        let endpoints: BTreeMap<String, Endpoint> = self.store.iter().map(endpoint).collect();
        let sealed = endpoints.iter().filter(|(_, endpoint)| endpoint.policy == Some(SEALED));
        self.policies.sealed = sealed.map(|(name, _)| name.clone()).collect();
        let written = (self.v4.set_endpoints(&endpoints), self.v6.set_endpoints(&endpoints));
        self.note_written(written);
    }
}
