//! How long from a change of endpoints in the cluster to the rows of this node that
//! follow it? SIG Scalability's network programming latency, which kube-proxy
//! publishes in the same buckets.

use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;

use crate::event::{Event, Object};

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

    /// Notes when what is said had happened.
    pub fn hear(&mut self, events: &[Event]) {
        for event in events {
            let Some((object, _)) = &event.object else { continue };
            let Object::Slice(slice) = &**object else { continue };
            let news = slice.changed.filter(|changed| *changed > self.since);
            if let Some(changed) = news.filter(|_| self.waiting.len() < WAITING) {
                self.waiting.push(changed);
            }
        }
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
    use crate::event::{Kind, ObjectKey, Origin, SliceObject};

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

    #[test]
    fn a_change_is_measured_once_it_stands_and_once() {
        let mut programming = Programming::new(at("10"));
        let gone = Event { object: None, ..slice(None) };
        programming.hear(&[slice(Some(at("09"))), slice(None), gone]);
        programming.stands(at("20"));
        assert!(text(&programming.latency).contains("t_count 0"), "nothing of ours");
        programming.hear(&[slice(Some(at("20"))), slice(Some(at("22.6")))]);
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
        programming.hear(&[slice(Some(at("30")))]);
        programming.stands(at("20"));
        assert!(text(&programming.latency).contains("t_sum 0.0"));
    }
}
