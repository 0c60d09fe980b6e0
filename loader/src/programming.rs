//! How long from a change of endpoints in the cluster to the rows of this node that
//! follow it? SIG Scalability's network programming latency, which kube-proxy
//! publishes in the same buckets.

use std::collections::BTreeSet;

use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;

use crate::{
    event::{Event, Object, ObjectKey},
    model::{ServiceName, desired::ServiceId},
};

/// Changes that may wait for their rows; of more, the later ones are not measured.
const WAITING: usize = 10_000;

/// Shared by all its clones.
#[derive(Clone, Debug)]
pub struct Latency(pub Histogram);

impl Default for Latency {
    fn default() -> Self {
        let linear = |from, step, count: u16| (0..count).map(move |n| from + step * f64::from(n));
        let buckets = linear(0.25, 0.25, 2)
            .chain(linear(1.0, 1.0, 59))
            .chain(linear(60.0, 5.0, 12))
            .chain(linear(120.0, 30.0, 7));
        Self(Histogram::new(buckets))
    }
}

/// What has changed and was not yet seen in the kernel.
#[derive(Debug)]
pub struct Programming {
    /// Older changes are those of another agent, or of none.
    since: Timestamp,
    waiting: Vec<Timestamp>,
    pub latency: Latency,
}

impl Programming {
    pub fn new(since: Timestamp) -> Self {
        Self { since, waiting: Vec::new(), latency: Latency::default() }
    }

    /// When what is said had happened, by service. `known`: what was said before.
    pub fn news(
        &self,
        events: &[Event],
        known: impl Fn(&ObjectKey) -> Option<Timestamp>,
    ) -> Vec<(ServiceName, Timestamp)> {
        let news = |event: &Event| {
            let Object::Slice(slice) = &*event.object.as_ref()?.0 else { return None };
            let changed = slice.changed.filter(|changed| *changed > self.since)?;
            // Another word of what had happened then.
            let is_old = known(&event.key) == Some(changed);
            (!is_old).then(|| ((event.key.namespace.clone(), slice.service.clone()), changed))
        };
        events.iter().filter_map(news).collect()
    }

    /// Those that concern services with rows wait for them.
    pub fn wait(&mut self, news: Vec<(ServiceName, Timestamp)>, touched: &BTreeSet<ServiceId>) {
        if news.is_empty() {
            return;
        }
        let services: BTreeSet<_> = touched.iter().map(|id| (&id.namespace, &id.name)).collect();
        let news = news.into_iter().filter(|((namespace, name), _)| services.contains(&(namespace, name)));
        let room = WAITING.saturating_sub(self.waiting.len());
        self.waiting.extend(news.map(|(_, changed)| changed).take(room));
    }

    /// All that was heard is in the kernel, read back.
    pub fn stands(&mut self, now: Timestamp) {
        for changed in self.waiting.drain(..) {
            // A clock that is ahead of ours has no say in how quick we are.
            self.latency.0.observe(now.duration_since(changed).as_secs_f64().max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;
    use crate::{
        event::{Kind, Origin, SliceObject},
        model::desired::Scope,
    };

    fn at(text: &str) -> Timestamp {
        format!("2026-11-22T12:00:{text}Z").parse().unwrap()
    }

    fn slice(changed: Option<Timestamp>) -> Event {
        let key = ObjectKey { kind: Kind::EndpointSlice, namespace: "n".into(), name: "s".into() };
        let (ports, endpoints) = Default::default();
        let slice = SliceObject { service: "s".into(), ports, endpoints, weight: 1, changed };
        let origin = Origin { source: "kubernetes".into(), place: "s".into() };
        Event { key, object: Some((Arc::new(Object::Slice(slice)), Arc::new(origin))) }
    }

    fn text(latency: &Latency) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("t", "t", latency.0.clone());
        encode(&mut text, &registry).unwrap();
        text
    }

    /// The service of the slices has rows.
    fn hear(programming: &mut Programming, events: &[Event], known: Option<Timestamp>) {
        let news = programming.news(events, |_| known);
        let id = ServiceId::new("n".into(), "s".into(), "".into(), Scope::Cluster);
        programming.wait(news, &[id].into());
    }

    #[test]
    fn a_change_is_measured_once_it_stands_and_once() {
        let mut programming = Programming::new(at("10"));
        let gone = Event { object: None, ..slice(None) };
        hear(&mut programming, &[slice(Some(at("09"))), slice(None), gone], None);
        // Said again, and of a service without rows.
        hear(&mut programming, &[slice(Some(at("15")))], Some(at("15")));
        let news = programming.news(&[slice(Some(at("15")))], |_| None);
        programming.wait(news, &BTreeSet::new());
        programming.stands(at("20"));
        assert!(text(&programming.latency).contains("t_count 0"), "nothing of ours");
        hear(&mut programming, &[slice(Some(at("20"))), slice(Some(at("22.6")))], Some(at("15")));
        assert!(text(&programming.latency).contains("t_count 0"), "nothing stands");
        programming.stands(at("23"));
        programming.stands(at("24"));
        let text = text(&programming.latency);
        for line in ["t_sum 3.4", "t_count 2", "t_bucket{le=\"0.5\"} 1", "t_bucket{le=\"3.0\"} 2"] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
    }

    /// By k8s.io/kubernetes/pkg/proxy/metrics.
    #[test]
    fn the_buckets_are_those_of_kube_proxy() {
        let text = text(&Latency::default());
        let bound = |line: &str| line.strip_prefix("t_bucket{le=\"")?.split('"').next().map(str::to_owned);
        let bounds: Vec<String> = text.lines().filter_map(bound).collect();
        assert_eq!(bounds.len(), 2 + 59 + 12 + 7 + 1);
        assert_eq!(bounds[..4], ["0.25", "0.5", "1.0", "2.0"]);
        assert_eq!(bounds[60..63], ["59.0", "60.0", "65.0"].map(str::to_owned));
        assert_eq!(
            bounds[72..],
            ["115.0", "120.0", "150.0", "180.0", "210.0", "240.0", "270.0", "300.0", "+Inf"]
        );
    }

    #[test]
    fn a_clock_that_is_ahead_counts_as_no_time() {
        let mut programming = Programming::new(at("10"));
        hear(&mut programming, &[slice(Some(at("30")))], None);
        programming.stands(at("20"));
        assert!(text(&programming.latency).contains("t_sum 0.0"));
    }
}
