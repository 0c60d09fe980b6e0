//! From a batch of events to rows that were read back.

use std::{sync::Weak, time::Instant};

use super::{agent::Agent, status::WRITE};
use crate::{
    event::{Batch, Object},
    heap,
    kernel::routes,
    model::Touched,
};

/// Services that are merged once and held for both families; more are merged twice,
/// one at a time.
const FEW: usize = 1000;

/// Events after which memory is given back.
const MANY: usize = 1000;

impl Agent {
    /// Takes what the sources say, as far as it is believed.
    pub async fn take(&mut self, batches: Vec<Batch>) {
        let start = Instant::now();
        let mut touched = Touched::default();
        let (mut asked, mut news, mut events) = (false, false, 0);
        for batch in batches {
            if batch.fence != 0 {
                asked = true;
                self.fences.said(&batch.source, batch.fence, batch.synced);
            }
            events += batch.events.len();
            news |= self.model.is_news(&batch);
            let marks = batch.marks.clone();
            // Into the model before the next one is judged by that.
            // What the guard brings back had happened long ago.
            let (model, source) = (&self.model, &batch.source);
            let changed = self.programming.news(&batch.events, |key| {
                let (object, _) = model.said(source, key)?;
                if let Object::Slice(slice) = &*object { slice.changed } else { None }
            });
            let believed = self.believed(batch);
            let of_batch = self.model.apply(believed);
            self.programming.wait(changed, &of_batch.services);
            touched.extend(of_batch);
            if let Some(marks) = marks {
                self.published.hear(self.model.revision(), marks);
            }
        }
        if !news && !asked {
            // Something was written that nobody here looks at.
            return self.tell_cluster();
        }
        self.enact(touched, asked, start).await;
        if events >= MANY {
            heap::give_back();
        }
    }

    /// Takes what has changed in the model into the maps. `asked`: somebody waits to
    /// hear that it stands.
    pub async fn enact(&mut self, touched: Touched, asked: bool, start: Instant) {
        if !touched.is_empty() {
            self.desired = Weak::new();
        }
        if !touched.services.is_empty() {
            let (model, services) = (&self.model, &touched.services);
            let merged = || services.iter().map(|id| (id, model.service(id)));
            let written = if services.len() <= FEW {
                let merged: Vec<_> = merged().collect();
                let changes = || merged.iter().map(|(id, service)| (*id, service.as_ref()));
                (self.v4.update(changes()), self.v6.update(changes()))
            } else {
                (self.v4.update(merged()), self.v6.update(merged()))
            };
            self.note_written(written);
            self.attach_from_host();
            self.last_apply = start.elapsed();
            self.tell_health_checks(&touched);
        }
        if touched.nodes {
            self.keep_routes().await;
        }
        if touched.nodes || !self.pruned && self.model.synced() {
            let (nodes, all) = (self.model.nodes(), self.model.synced());
            let addresses = || nodes.values().flat_map(|node| node.addresses.iter().copied());
            let written = (self.v4.set_nodes(addresses(), all), self.v6.set_nodes(addresses(), all));
            self.note_written(written);
        }
        self.tell_policies(&touched);
        self.commit_policies();
        self.settle_egress().await;
        if !self.pruned && self.model.synced() {
            let written = (self.v4.prune(), self.v6.prune());
            self.note_written(written);
            self.pruned = true;
        }
        self.audit_soon();
        if asked || self.start_micros == 0 {
            self.audit().await;
        }
        self.fences.answer(self.model.revision());
        self.publish();
    }

    /// Notes how writes to both families' maps went. What failed is found
    /// again by the next audit, and tried again.
    pub fn note_written(&mut self, (v4, v6): (Result<(), String>, Result<(), String>)) {
        self.note(WRITE, v4.and(v6));
    }

    /// Keeps the kernel's routes in step with nodes and endpoints.
    pub async fn keep_routes(&mut self) {
        let endpoints = self.store.iter().map(|(_, stored)| &stored.endpoint);
        let uplink = (self.uplink.ifindex, self.uplink.addresses.as_slice());
        let nodes = self.model.nodes();
        let (mut wanted, mut problems) = routes::wanted(nodes, &self.config.node, uplink, endpoints);
        if !self.model.synced() {
            // Until the sources have spoken, an earlier agent's routes stay.
            let there = self.netlink.routes(Some(routes::ROUTE_PROTOCOL)).await.unwrap_or_default();
            let known: std::collections::BTreeSet<_> = wanted.iter().map(|route| route.destination).collect();
            wanted.extend(there.into_iter().filter(|route| !known.contains(&route.destination)));
        }
        let report = self.routes.reconcile(&self.netlink, &wanted).await;
        if let Some(report) = self.note("keep routes", report) {
            problems.extend(report.problems);
            report.repaired.into_iter().for_each(|repair| self.remember_repair(repair));
        }
        self.route_problems = problems;
    }
}
