//! Which of a service's fields do few services have? Affinity, the ranges of
//! clients of its load-balancer addresses, how long flows may be silent, whether
//! backends answer past the node that chose them, or hear who asks, and traffic
//! policies.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Refusal, port, quoted,
    table::table,
    wire::{ObjectMeta, ServiceSpec},
};
use crate::event::{Distribution, Dsr, ServiceOptions, SourceRanges, Traffic, TrafficPolicy};

/// Seconds after which a client is forgotten, unless given (three hours), and
/// the most there can be (a day), as the API has it.
const TIMEOUT: u32 = 10_800;
const MOST: i32 = 86_400;

/// How long a flow of the service may be silent.
const IDLE_TIMEOUT: &str = "causeway.io/idle-timeout";
/// A week, in seconds.
const LONGEST: u32 = 604_800;

/// How packets from outside come to backends that answer their clients
/// themselves (direct server return).
const DSR: &str = "causeway.io/dsr";

/// How backends are told of their clients.
const PROXY: &str = "causeway.io/proxy-protocol";

/// `balanced`: the addresses that a load balancer has given.
pub fn options(
    metadata: &ObjectMeta,
    spec: &ServiceSpec,
    balanced: Vec<IpAddr>,
    refusals: &mut Vec<Refusal>,
) -> Option<Box<ServiceOptions>> {
    let affinity = affinity(spec, refusals);
    let idle_timeout = idle_timeout(metadata, refusals);
    let source_ranges = source_ranges(spec, balanced, refusals);
    let dsr = dsr(metadata, refusals);
    let proxy = proxy(metadata, dsr, refusals);
    let traffic = traffic(spec, refusals);
    let table = table(metadata, refusals);
    let options = ServiceOptions { affinity, idle_timeout, dsr, proxy, source_ranges, traffic, table };
    (options != ServiceOptions::default()).then(|| Box::new(options))
}

/// A timeout that cannot be leaves the default one.
fn affinity(spec: &ServiceSpec, refusals: &mut Vec<Refusal>) -> Option<u32> {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "ClientIP" => {}
        "" | "None" => return None,
        other => {
            let message = format!("{} is no affinity: use ClientIP or None", quoted(other));
            refusals.push(Refusal::new("spec.sessionAffinity", message));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    match config.and_then(|config| config.timeout_seconds) {
        None => Some(TIMEOUT),
        Some(seconds @ 1..=MOST) => Some(seconds as u32),
        Some(seconds) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let message = format!("{seconds} seconds: use 1 to {MOST}; until then it is {TIMEOUT}");
            refusals.push(Refusal::new(field, message));
            Some(TIMEOUT)
        }
    }
}

/// A time that cannot be leaves the agent's own.
fn idle_timeout(metadata: &ObjectMeta, refusals: &mut Vec<Refusal>) -> Option<u32> {
    let text = metadata.annotations.as_ref()?.get(IDLE_TIMEOUT)?;
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let timeout = seconds.and_then(|seconds| number.parse::<u32>().ok()?.checked_mul(seconds));
    let timeout = timeout.filter(|timeout| (1..=LONGEST).contains(timeout));
    if timeout.is_none() {
        let message = format!("{} is no time: use e.g. 90s, 15m or 2h, at most a week", quoted(text));
        refusals.push(Refusal::new(format!("metadata.annotations[{IDLE_TIMEOUT}]"), message));
    }
    timeout
}

/// What cannot be leaves the usual way, by which everything is served.
fn dsr(metadata: &ObjectMeta, refusals: &mut Vec<Refusal>) -> Option<Dsr> {
    match metadata.annotations.as_ref().and_then(|notes| notes.get(DSR)).map(String::as_str) {
        None => None,
        Some("ipip") => Some(Dsr::Ipip),
        Some("l2") => Some(Dsr::L2),
        Some(other) => {
            let message =
                format!("{} is no way to a backend: use ipip or l2, or leave it out", quoted(other));
            refusals.push(Refusal::new(format!("metadata.annotations[{DSR}]"), message));
            None
        }
    }
}

/// What cannot be leaves backends to what they see of their clients.
fn proxy(metadata: &ObjectMeta, dsr: Option<Dsr>, refusals: &mut Vec<Refusal>) -> bool {
    let Some(text) = metadata.annotations.as_ref().and_then(|notes| notes.get(PROXY)) else { return false };
    let message = match (text.as_str(), dsr) {
        ("v2", None) => return true,
        ("v2", Some(_)) => format!(
            "v2: answers that go past this node ({DSR}) cannot be made to fit: remove one of the two annotations; until then backends hear nothing of their clients but see them"
        ),
        (other, _) => format!("{} is no version that is spoken: use v2, or leave it out", quoted(other)),
    };
    refusals.push(Refusal::new(format!("metadata.annotations[{PROXY}]"), message));
    false
}

/// A policy that cannot be is Cluster, by which everybody is served.
fn traffic(spec: &ServiceSpec, refusals: &mut Vec<Refusal>) -> Traffic {
    let mut policy = |field: &str, text: Option<&String>| match text.map(String::as_str) {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let message = format!("{} is no traffic policy: use Cluster or Local", quoted(other));
            refusals.push(Refusal::new(field, message));
            TrafficPolicy::Cluster
        }
    };
    let internal = policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_ref());
    let external = policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_ref());
    let distribution = match spec.traffic_distribution.as_deref() {
        None | Some("") => None,
        Some("PreferClose" | "PreferSameZone") => Some(Distribution::SameZone),
        Some("PreferSameNode") => Some(Distribution::SameNode),
        Some(other) => {
            let message =
                format!("{} is no distribution: use PreferSameZone or PreferSameNode", quoted(other));
            refusals.push(Refusal::new("spec.trafficDistribution", message));
            None
        }
    };
    let balanced = spec.type_.as_deref() == Some("LoadBalancer") && external == TrafficPolicy::Local;
    let asked = spec.health_check_node_port.filter(|&port| port != 0 && balanced);
    let health_check = asked.map_or(0, |port| {
        port::number(Some(port), "spec.healthCheckNodePort").unwrap_or_else(|refusal| {
            refusals.push(refusal);
            0
        })
    });
    Traffic { internal, external, distribution, health_check }
}

/// A range that cannot be lets nobody in; the others stand.
fn source_ranges(
    spec: &ServiceSpec,
    mut addresses: Vec<IpAddr>,
    refusals: &mut Vec<Refusal>,
) -> Option<SourceRanges> {
    let texts = spec.load_balancer_source_ranges.as_ref().filter(|texts| !texts.is_empty())?;
    let mut clients = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        // The API allows space around a range, and bits beyond its prefix.
        match text.trim().parse::<IpNet>() {
            Ok(net) => clients.push(net.trunc()),
            Err(_) => {
                let message =
                    format!("{} is no CIDR: write it like 203.0.113.0/24 or 2001:db8::/32", quoted(text));
                refusals.push(Refusal::new(format!("spec.loadBalancerSourceRanges[{index}]"), message));
            }
        }
    }
    if addresses.is_empty() {
        return None;
    }
    addresses.sort_unstable();
    clients.sort_unstable();
    clients.dedup();
    Some(SourceRanges { addresses, clients })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Affinity and ranges as text, then the refused fields.
    #[track_caller]
    fn check(spec: &str, expect: &str) {
        let spec: ServiceSpec = serde_saphyr::from_str(spec).unwrap();
        let mut refusals = Vec::new();
        let metadata = ObjectMeta::default();
        let options = options(&metadata, &spec, vec!["203.0.113.7".parse().unwrap()], &mut refusals);
        let mut words = Vec::new();
        if let Some(options) = options {
            words.extend(options.affinity.map(|seconds| format!("{seconds}s")));
            if let Some(ranges) = options.source_ranges {
                words.push("from".into());
                words.extend(ranges.clients.iter().map(ToString::to_string));
            }
        }
        words.extend(refusals.into_iter().map(|refusal| format!("!{}", refusal.field)));
        assert_eq!(words.join(" "), expect, "{spec:?}");
    }

    #[test]
    fn silence_is_allowed_for_a_time() {
        for (text, expected) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("15m", Some(900)),
            ("2h", Some(7200)),
            ("168h", Some(604_800)),
            ("169h", None),
            ("0", None),
            ("-1s", None),
            ("1.5h", None),
            ("2 h", None),
            ("soon", None),
            ("", None),
            ("99999999999h", None),
        ] {
            let annotations = [(IDLE_TIMEOUT.to_owned(), text.to_owned())].into();
            let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
            let mut refusals = Vec::new();
            assert_eq!(idle_timeout(&metadata, &mut refusals), expected, "{text}");
            let fields: Vec<_> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
            let refused = ["metadata.annotations[causeway.io/idle-timeout]"];
            assert_eq!(fields, &refused[..usize::from(expected.is_none())], "{text}");
        }
    }

    #[test]
    fn two_ways_past_the_node_are_known() {
        for (text, expected, refused) in
            [("ipip", Some(Dsr::Ipip), 0), ("l2", Some(Dsr::L2), 0), ("true", None, 1), ("", None, 1)]
        {
            let annotations = [(DSR.to_owned(), text.to_owned())].into();
            let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
            let mut refusals = Vec::new();
            let found = options(&metadata, &ServiceSpec::default(), Vec::new(), &mut refusals);
            assert_eq!(found.and_then(|options| options.dsr), expected, "{text}");
            let fields: Vec<_> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
            assert_eq!(fields, &["metadata.annotations[causeway.io/dsr]"][..refused], "{text}");
        }
    }

    #[test]
    fn backends_are_told_of_clients_in_one_way() {
        for (text, dsr, expected, refused) in [
            ("v2", None, true, 0),
            ("v2", Some("ipip"), false, 1),
            ("v2", Some("none"), true, 0),
            ("v1", None, false, 1),
            ("true", None, false, 1),
            ("", None, false, 1),
        ] {
            let mut annotations = BTreeMap::from([(PROXY.to_owned(), text.to_owned())]);
            annotations.extend(dsr.map(|dsr| (DSR.to_owned(), dsr.to_owned())));
            let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
            let mut refusals = Vec::new();
            let found = options(&metadata, &ServiceSpec::default(), Vec::new(), &mut refusals);
            assert_eq!(found.is_some_and(|options| options.proxy), expected, "{text}");
            refusals.retain(|refusal| refusal.field == "metadata.annotations[causeway.io/proxy-protocol]");
            assert_eq!(refusals.len(), refused, "{text}");
        }
    }

    #[test]
    fn traffic_policies_are_read_and_what_they_cannot_be_is_refused() {
        let local = Traffic { external: TrafficPolicy::Local, ..Traffic::default() };
        for (spec, expected, refused) in [
            ("{}", Traffic::default(), ""),
            ("{externalTrafficPolicy: Local}", local, ""),
            ("{externalTrafficPolicy: Local, healthCheckNodePort: 30100}", local, ""),
            (
                "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30100}",
                Traffic { health_check: 30_100, ..local },
                "",
            ),
            (
                "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000}",
                local,
                "spec.healthCheckNodePort",
            ),
            ("{type: LoadBalancer, healthCheckNodePort: 30100}", Traffic::default(), ""),
            (
                "{internalTrafficPolicy: Local, externalTrafficPolicy: Cluster}",
                Traffic { internal: TrafficPolicy::Local, ..Traffic::default() },
                "",
            ),
            ("{internalTrafficPolicy: Node}", Traffic::default(), "spec.internalTrafficPolicy"),
            ("{externalTrafficPolicy: local}", Traffic::default(), "spec.externalTrafficPolicy"),
            (
                "{trafficDistribution: PreferClose}",
                Traffic { distribution: Some(Distribution::SameZone), ..Traffic::default() },
                "",
            ),
            (
                "{trafficDistribution: PreferSameNode}",
                Traffic { distribution: Some(Distribution::SameNode), ..Traffic::default() },
                "",
            ),
            ("{trafficDistribution: Near}", Traffic::default(), "spec.trafficDistribution"),
        ] {
            let mut refusals = Vec::new();
            let spec: ServiceSpec = serde_saphyr::from_str(spec).unwrap();
            assert_eq!(traffic(&spec, &mut refusals), expected, "{spec:?}");
            let fields: Vec<_> = refusals.into_iter().map(|refusal| refusal.field).collect();
            assert_eq!(fields.join(" "), refused, "{spec:?}");
        }
    }

    #[test]
    fn affinity_and_its_timeout() {
        let timeout = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        for (affinity, expect) in [
            ("{}", ""),
            ("{sessionAffinity: None}", ""),
            ("{sessionAffinity: ''}", ""),
            ("{sessionAffinity: ClientIP}", "10800s"),
            ("{sessionAffinity: ClientIP, sessionAffinityConfig: {}}", "10800s"),
            ("{sessionAffinity: clientip}", "!spec.sessionAffinity"),
        ] {
            check(affinity, expect);
        }
        for (seconds, expect) in
            [("1", "1s"), ("86400", "86400s"), ("0", "10800s !"), ("-1", "10800s !"), ("86401", "10800s !")]
        {
            let config = format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}");
            check(
                &format!("{{sessionAffinity: ClientIP, {config}}}"),
                &expect.replace('!', &format!("!{timeout}")),
            );
            check(&format!("{{sessionAffinity: None, {config}}}"), "");
        }
    }

    #[test]
    fn ranges() {
        for (ranges, expect) in [
            ("[]", ""),
            ("[10.0.0.0/8, 'fd00::/8']", "from 10.0.0.0/8 fd00::/8"),
            ("[0.0.0.0/0]", "from 0.0.0.0/0"),
            ("[' 10.1.2.3/8 ', 10.0.0.0/8]", "from 10.0.0.0/8"),
            ("[10.0.0.0/33, 10.0.0.1, 192.0.2.0/24]", "from 192.0.2.0/24 ![0] ![1]"),
            ("[everybody]", "from ![0]"),
        ] {
            let expect = expect.replace("![", "!spec.loadBalancerSourceRanges[");
            check(&format!("{{loadBalancerSourceRanges: {ranges}}}"), &expect);
        }
    }
}
