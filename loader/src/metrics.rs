//! What does Prometheus get? The status and the counters, made new at each scrape.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter as Count, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use causeway_schema::Event;

use crate::{
    programming::Latency,
    snapshot::{ALARM_PERCENT, Counter, RULE, Status},
};

/// Of what [`text`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: String,
    drop: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Happening {
    event: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Map {
    map: String,
}

/// The text of a scrape.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn text(status: &Status, counters: &[Counter], latency: &Latency) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("causeway");
    dataplane(&mut registry, counters);
    maps(&mut registry, status);
    sources(&mut registry, status);
    node(&mut registry, status);
    let help = "From a change of endpoints in the cluster to their rows read back, as kube-proxy measures it";
    registry.register_with_unit("network_programming_duration", help, Unit::Seconds, latency.0.clone());
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn dataplane(registry: &mut Registry, counters: &[Counter]) {
    let packets = Family::<Verdict, Count>::default();
    let drops = Family::<Reason, Count>::default();
    let events = Family::<Happening, Count>::default();
    for Counter { name, drop, packets: count } in counters {
        // As many as there are rules: no scrape has room for them.
        if name.starts_with(RULE) {
            continue;
        }
        if Event::ALL.iter().any(|event| event.name() == name) {
            events.get_or_create(&Happening { event: name.clone() }).inc_by(*count);
            continue;
        }
        let label = Verdict { verdict: name.clone(), drop: drop.to_string() };
        packets.get_or_create(&label).inc_by(*count);
        if *drop {
            let reason = name.strip_prefix("drop_").unwrap_or(name).to_owned();
            drops.get_or_create(&Reason { reason }).inc_by(*count);
        }
    }
    registry.register("packets", "Packets by the end of their way through a program", packets);
    registry.register("drops", "Packets dropped, by reason; also counted in packets", drops);
    registry.register("events", "What happened to packets, flows and sockets on the way", events);
}

fn maps(registry: &mut Registry, status: &Status) {
    let used = Family::<Map, Gauge>::default();
    let capacity = Family::<Map, Gauge>::default();
    let alarm = Family::<Map, Gauge>::default();
    for map in &status.maps {
        let label = Map { map: map.map.clone() };
        used.get_or_create(&label).set(map.used as i64);
        capacity.get_or_create(&label).set(map.capacity as i64);
        let full = map.used * 100 >= map.capacity * ALARM_PERCENT;
        alarm.get_or_create(&label).set(i64::from(full));
    }
    registry.register("map_entries", "Rows in use", used);
    registry.register("map_capacity_entries", "Rows there are", capacity);
    registry.register("map_alarm", "1 when the map is full or nearly so", alarm);
}

fn sources(registry: &mut Registry, status: &Status) {
    let synced = Family::<Source, Gauge>::default();
    let objects = Family::<Source, Gauge>::default();
    let held = Family::<Source, Gauge>::default();
    for source in &status.sources {
        let label = Source { source: source.name.clone() };
        synced.get_or_create(&label).set(i64::from(source.synced));
        objects.get_or_create(&label).set(source.objects as i64);
        let held_here: usize = source.held.iter().map(|held| held.objects).sum();
        held.get_or_create(&label).set(held_here as i64);
    }
    registry.register("source_synced", "1 when the source has said all it knows", synced);
    registry.register("source_objects", "Objects the source has, with those that are held", objects);
    registry.register("source_held_objects", "Objects the source has lost at once, served on", held);
}

fn node(registry: &mut Registry, status: &Status) {
    let gauges = [
        ("revision", "Revision of the desired state", status.revision),
        ("applied_revision", "Newest revision read back from the kernel", status.applied_revision),
        ("converged", "1 when the kernel reads back as wanted", u64::from(status.converged)),
        ("problems", "Objects or fields that cannot be served", status.problems.len() as u64),
        ("alarms", "Conditions an operator must look at", status.alarms.len() as u64),
        ("services", "Service ports wanted", status.services as u64),
        ("endpoints", "Endpoints attached", status.endpoints as u64),
        ("nodes", "Nodes known", status.nodes as u64),
        ("policies", "Policies wanted", status.policies as u64),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<i64>::default();
        gauge.set(value as i64);
        registry.register(name, help, gauge);
    }
    let repaired = Count::<u64>::default();
    repaired.inc_by(status.drift.repaired);
    registry.register("drift_repaired", "Rows, links and routes put right", repaired);
    let ended = Count::<u64>::default();
    ended.inc_by(status.sockets_ended);
    registry.register(
        "sockets_ended",
        "Sockets of the node itself that were closed: their backend had gone",
        ended,
    );
    let times = [
        ("last_apply", "From the last events to their rows read back", status.last_apply_micros),
        ("start", "From the agent's start to the first image read back, 0 before", status.start_micros),
    ];
    for (name, help, micros) in times {
        let seconds = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        seconds.set(micros as f64 / 1e6);
        registry.register_with_unit(name, help, Unit::Seconds, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Drift, HeldView, MapUse, SourceStatus};

    #[test]
    fn a_scrape_names_what_an_operator_looks_for() {
        let counters = [
            Counter { name: "delivered".into(), drop: false, packets: 9 },
            Counter { name: "drop_ttl".into(), drop: true, packets: 3 },
            Counter { name: "flow_created".into(), drop: false, packets: 2 },
            Counter { name: "refused".into(), drop: false, packets: 1 },
        ];
        let map = |map: &str, used| MapUse { map: map.into(), used, capacity: 100 };
        let status = Status {
            converged: true,
            revision: 7,
            maps: vec![map("flows", 89), map("arena", 90)],
            sources: vec![SourceStatus {
                name: "manifests".into(),
                synced: true,
                objects: 5,
                held: vec![HeldView { objects: 3, ..Default::default() }; 2],
                problems: 0,
            }],
            drift: Drift { repaired: 4, last: Vec::new() },
            alarms: vec!["map arena is full".into()],
            last_apply_micros: 1500,
            ..Status::default()
        };
        let latency = Latency::default();
        latency.0.observe(0.3);
        let text = text(&status, &counters, &latency).unwrap();
        for line in [
            "causeway_packets_total{verdict=\"delivered\",drop=\"false\"} 9",
            "causeway_packets_total{verdict=\"drop_ttl\",drop=\"true\"} 3",
            "causeway_drops_total{reason=\"ttl\"} 3",
            "causeway_events_total{event=\"flow_created\"} 2",
            "causeway_events_total{event=\"refused\"} 1",
            "causeway_map_entries{map=\"flows\"} 89",
            "causeway_map_capacity_entries{map=\"flows\"} 100",
            "causeway_map_alarm{map=\"flows\"} 0",
            "causeway_map_alarm{map=\"arena\"} 1",
            "causeway_source_synced{source=\"manifests\"} 1",
            "causeway_source_objects{source=\"manifests\"} 5",
            "causeway_source_held_objects{source=\"manifests\"} 6",
            "causeway_revision 7",
            "causeway_converged 1",
            "causeway_alarms 1",
            "causeway_drift_repaired_total 4",
            "causeway_last_apply_seconds 0.0015",
            "causeway_start_seconds 0.0",
            "causeway_network_programming_duration_seconds_sum 0.3",
            "causeway_network_programming_duration_seconds_bucket{le=\"0.25\"} 0",
            "causeway_network_programming_duration_seconds_bucket{le=\"0.5\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
        assert!(!text.contains("drops_total{reason=\"delivered\"}"));
    }
    /// OBS-06: the series are as many whatever the node has to do.
    #[test]
    fn a_scrape_is_as_long_with_many_services_and_rules() {
        let series = |many: usize| {
            let rules = (0..many).map(|number| Counter {
                name: format!("{RULE}NetworkPolicy default/p{number} ingress[0]"),
                drop: false,
                packets: 1,
            });
            let verdicts = [Counter { name: "delivered".into(), drop: false, packets: 9 }];
            let counters: Vec<Counter> = verdicts.into_iter().chain(rules).collect();
            let status = Status {
                services: many,
                endpoints: many,
                nodes: many,
                policies: many,
                problems: vec![Default::default(); many],
                ..Status::default()
            };
            let text = text(&status, &counters, &Latency::default()).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).count()
        };
        assert_eq!(series(10_000), series(1));
        assert!(series(1) < 100, "{}", series(1));
    }
}
