//! Endpoints: maps and programs first, then the interface inside comes up.

use std::collections::BTreeMap;

use super::{agent::Agent, status::ATTACH};
use crate::{
    attach::{self, Stored},
    event::pod_name,
    kernel::bpf::Attachment,
    model::desired::Endpoint,
    netlink::Link,
    snapshot::{AttachRequest, Attached},
};

impl Agent {
    /// Wires an endpoint, or finds it wired.
    ///
    /// # Errors
    /// As text for the one who asked; nothing is left half done.
    pub async fn attach_endpoint(&mut self, request: AttachRequest) -> Result<Attached, String> {
        if self.dataplane.is_none() {
            return Err("the dataplane is being uninstalled".into());
        }
        attach::validate(&request).map_err(|error| error.to_string())?;
        // Policies are about pods: of two endpoints that are one, but one would have them.
        let pod = pod_name(&request.name);
        let twin = self.store.iter().find(|(name, _)| **name != request.name && pod_name(name) == pod);
        if let Some((twin, _)) = twin {
            return Err(format!(
                "endpoint {}: name: {twin} is the same pod: detach that one first",
                request.name
            ));
        }
        for address in &request.addresses {
            let taken = self
                .store
                .iter()
                .find(|(name, stored)| **name != request.name && stored.endpoint.addresses.contains(address));
            if let Some((owner, _)) = taken {
                return Err(format!(
                    "endpoint {}: addresses: {address} belongs to endpoint {owner}: detach that one first",
                    request.name
                ));
            }
        }
        self.check_network(&request)?;
        let before = self.store.get(&request.name).cloned();
        let wired = self.wire(&request).await;
        if wired.is_err() && before.is_none() {
            self.unwire(&request.name).await?;
        }
        wired
    }

    /// An endpoint as the edges see it.
    pub fn attached(&self, stored: &Stored) -> Attached {
        let Stored { request, endpoint } = stored;
        let (namespace, labels) = self.model.endpoint_labels(&request.name, &request.labels);
        let labels = self.admitted(&namespace, labels);
        Attached { endpoint: endpoint.clone(), labels, netns: request.netns.clone() }
    }

    async fn wire(&mut self, request: &AttachRequest) -> Result<Attached, String> {
        let endpoint = attach::prepare(&self.netlink, request, self.uplink.mtu)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(before) = self.store.get(&request.name)
            && before.endpoint.ifindex != endpoint.ifindex
            && let Some(dataplane) = &mut self.dataplane
        {
            dataplane.detach(before.endpoint.ifindex).map_err(|error| error.to_string())?;
        }
        if let Some(dataplane) = &mut self.dataplane {
            let mut attachments = Attachment::of_container(endpoint.ifindex, &endpoint.interface).into_iter();
            attachments.try_for_each(|at| dataplane.attach(at)).map_err(|error| error.to_string())?;
        }
        let same = |before: &Stored| {
            (&before.request.addresses, &before.request.labels) == (&request.addresses, &request.labels)
        };
        let known = self.store.get(&request.name).is_some_and(same);
        let stored = Stored { request: request.clone(), endpoint };
        let attached = self.attached(&stored);
        self.store.insert(stored).map_err(|error| format!("write the state directory: {error}"))?;
        // Its rules stand before its first packet can come or go.
        self.tell_endpoint(&request.name);
        self.commit_policies();
        self.settle_egress().await;
        let leaves = self.check_egress(&request.name, &request.addresses, known);
        self.plan_endpoints();
        let refused = self.plan_problems().find(|problem| problem.object.contains(&request.name));
        if let Some(problem) = refused {
            let message = problem.to_string();
            self.unwire(&request.name).await?;
            return Err(message);
        }
        leaves?;
        self.keep_routes().await;
        attach::activate(request).await.map_err(|error| error.to_string())?;
        self.audit_soon();
        self.publish();
        Ok(attached)
    }

    /// Takes an endpoint away; false when there was none.
    ///
    /// # Errors
    /// As text for the one who asked.
    pub async fn detach_endpoint(&mut self, name: &str) -> Result<bool, String> {
        let known = self.store.get(name).is_some();
        self.unwire(name).await?;
        self.audit_soon();
        self.publish();
        Ok(known)
    }

    async fn unwire(&mut self, name: &str) -> Result<(), String> {
        let Some(stored) =
            self.store.remove(name).map_err(|error| format!("write the state directory: {error}"))?
        else {
            return Ok(());
        };
        // The maps first: nothing must be delivered to an interface that is
        // about to be someone else's.
        self.plan_endpoints();
        self.tell_endpoint(name);
        self.commit_policies();
        self.settle_egress().await;
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.detach(stored.endpoint.ifindex).map_err(|error| error.to_string())?;
        }
        attach::detach(&self.netlink, &stored.endpoint)
            .await
            .map_err(|error| format!("delete interface {}: {error}", stored.endpoint.interface))?;
        self.keep_routes().await;
        Ok(())
    }

    /// Finds the endpoints of an earlier agent, without those that have gone.
    pub async fn adopt_endpoints(&mut self) {
        let links = self.netlink.links().await;
        if let Some(links) = self.note("list interfaces", links) {
            self.forget_dead_endpoints(&links);
        }
        let names: Vec<String> = self.store.iter().map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.tell_endpoint(name));
        self.plan_endpoints();
    }

    /// Forgets endpoints whose interface has gone with its namespace, and
    /// gives the others the uplink's MTU, should that have changed.
    pub async fn audit_endpoints(&mut self) {
        let links = self.netlink.links().await;
        let Some(links) = self.note("list interfaces", links) else { return };
        if self.forget_dead_endpoints(&links) {
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
            if stored.request.mtu.is_some() || there.mtu == uplink.mtu {
                continue;
            }
            let change = (there.mtu, uplink.mtu);
            let set = attach::set_mtu(&self.netlink, &stored.request, &stored.endpoint, change).await;
            outcome = outcome.and(set);
        }
        self.note("give endpoints the uplink's MTU", outcome);
    }

    fn forget_dead_endpoints(&mut self, links: &[Link]) -> bool {
        let alive = |endpoint: &Endpoint| {
            links.iter().any(|link| link.index == endpoint.ifindex && link.name == endpoint.interface)
        };
        let dead: Vec<String> = self
            .store
            .iter()
            .filter(|(_, stored)| !alive(&stored.endpoint))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &dead {
            let removed = self.store.remove(name);
            self.tell_endpoint(name);
            if let Some(Some(stored)) = self.note("write the state directory", removed) {
                tracing::info!(endpoint = %name, "its interface has gone: forgotten");
                if let Some(dataplane) = &mut self.dataplane {
                    let detached = dataplane.detach(stored.endpoint.ifindex);
                    self.note(ATTACH, detached);
                }
            }
        }
        !dead.is_empty()
    }

    pub fn plan_endpoints(&mut self) {
        let endpoint = |(name, stored): (&String, &Stored)| {
            let policy = self.policies.index(name);
            (name.clone(), Endpoint { policy, ..stored.endpoint.clone() })
        };
        let endpoints: BTreeMap<String, Endpoint> = self.store.iter().map(endpoint).collect();
        let written = (self.v4.set_endpoints(&endpoints), self.v6.set_endpoints(&endpoints));
        self.note_written(written);
    }
}
