//! What does Prometheus get? The status and the counters, made new at each scrape.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter as Count, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::snapshot::{ALARM_PERCENT, Counter, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: String,
    drop: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
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
pub fn text(status: &Status, counters: &[Counter]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("causeway");
    let packets = Family::<Verdict, Count>::default();
    let events = Family::<Event, Count>::default();
    for counter in counters {
        if counter.name.starts_with("flow_") {
            events.get_or_create(&Event { event: counter.name.clone() }).inc_by(counter.packets);
        } else {
            let label = Verdict { verdict: counter.name.clone(), drop: counter.drop.to_string() };
            packets.get_or_create(&label).inc_by(counter.packets);
        }
    }
    registry.register("packets", "Packets by the end of their way through a program", packets);
    registry.register("flow_events", "What happened to flows", events);

    let used = Family::<Map, Gauge>::default();
    let capacity = Family::<Map, Gauge>::default();
    for map in &status.maps {
        let label = Map { map: map.map.clone() };
        used.get_or_create(&label).set(map.used as i64);
        capacity.get_or_create(&label).set(map.capacity as i64);
    }
    let alarm = Family::<Map, Gauge>::default();
    for map in &status.maps {
        let full = map.used * 100 >= map.capacity * ALARM_PERCENT;
        alarm.get_or_create(&Map { map: map.map.clone() }).set(i64::from(full));
    }
    registry.register("map_alarm", "1 when a map is full or nearly so", alarm);
    registry.register("map_entries", "Rows in use", used);
    registry.register("map_capacity_entries", "Rows there are", capacity);

    let gauges = [
        ("revision", "Revision of the desired state", status.revision),
        ("applied_revision", "Newest revision read back from the kernel", status.applied_revision),
        ("converged", "1 when the kernel reads back as wanted", u64::from(status.converged)),
        ("problems", "Objects or fields that cannot be served", status.problems.len() as u64),
        ("alarms", "Conditions an operator must look at", status.alarms.len() as u64),
        ("services", "Service ports wanted", status.services as u64),
        ("endpoints", "Endpoints attached", status.endpoints as u64),
        ("nodes", "Nodes known", status.nodes as u64),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<i64>::default();
        gauge.set(value as i64);
        registry.register(name, help, gauge);
    }
    let repaired = Count::<u64>::default();
    repaired.inc_by(status.drift.repaired);
    registry.register("drift_repaired", "Rows, links and routes put right", repaired);
    let apply = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
    apply.set(status.last_apply_micros as f64 / 1e6);
    registry.register_with_unit(
        "last_apply",
        "From the last events to their rows read back",
        Unit::Seconds,
        apply,
    );

    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_names_what_an_operator_looks_for() {
        let counters = [
            Counter { name: "drop_ttl".into(), drop: true, packets: 3 },
            Counter { name: "flow_created".into(), drop: false, packets: 2 },
        ];
        let text = text(&Status { converged: true, revision: 7, ..Status::default() }, &counters).unwrap();
        for line in [
            "causeway_packets_total{verdict=\"drop_ttl\",drop=\"true\"} 3",
            "causeway_flow_events_total{event=\"flow_created\"} 2",
            "causeway_revision 7",
            "causeway_converged 1",
            "causeway_last_apply_seconds",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
