//! A node with nothing wrong, for tests to spoil.

use super::*;
use crate::{
    api::view::{EndpointView, NodeView, ServiceView},
    doctor::facts::{Agent, Answer, Kernel, Network, Said, Settings, Strangers},
    kernel::bpf::{Found, Hooks, Owner},
    netlink::{Link, Route, Seen, SeenRoute},
    snapshot::Status,
};

/// Level and check of each finding, in order.
pub fn found(facts: &Facts) -> Vec<(Level, &'static str)> {
    judge(facts).findings.into_iter().map(|finding| (finding.level, finding.check)).collect()
}

/// What is found once a sound node is changed.
#[track_caller]
pub fn check(change: impl FnOnce(&mut Facts), expected: &[(Level, &str)]) {
    let mut facts = sound();
    change(&mut facts);
    assert_eq!(found(&facts), expected);
}

/// Changes what the agent says.
pub fn with(facts: &mut Facts, change: impl FnOnce(&mut Said)) {
    match &mut facts.agent.answer {
        Answer::Said(said) => change(said),
        other => panic!("the agent says nothing: {other:?}"),
    }
}

pub fn sound() -> Facts {
    Facts {
        kernel: Kernel {
            release: "6.18.44".into(),
            capabilities: u64::MAX,
            bpffs: ("/sys/fs/bpf/causeway".into(), true),
            cgroups: true,
            jit: Some(true),
            features: vec![("tcx", true), ("bpf_redirect_peer", true)],
        },
        network: Network {
            links: vec![
                link(2, "eth0", 1500, &["192.168.77.10/24", "fd00:77::10/64"]),
                link(3, "cw1", 1500, &[]),
            ],
            routes: vec![route("0.0.0.0/0", 2, 3), route("10.244.1.0/24", 2, 202)],
            named: None,
            native_xdp: Some(true),
        },
        settings: Settings {
            rp_filter_all: Some(0),
            rp_filter: Some(2),
            forwarding_v4: Some(1),
            forwarding_v6: Some(1),
            accept_ra: Some(0),
            ipv6_disabled: Some(0),
            local_ports: Some((32_768, 60_999)),
            reserved_ports: Vec::new(),
            conntrack: Some((10, 262_144)),
        },
        strangers: Strangers {
            hooks: Some(Hooks {
                programs: vec![Found { id: 1, name: "from_uplink".into(), owner: Owner::Ours }],
                xdp: None,
            }),
            ..Strangers::default()
        },
        agent: Agent {
            socket: "/run/causeway/agent.sock".into(),
            answer: Answer::Said(Box::new(said())),
            pins: vec![("from_uplink".into(), 2)],
        },
        unread: Vec::new(),
    }
}

fn said() -> Said {
    let node = |name: &str, address: &str, cidr: &str| NodeView {
        name: name.into(),
        addresses: vec![address.into()],
        pod_cidrs: vec![cidr.into()],
        stray_pods: Vec::new(),
        zone: None,
    };
    let service = serde_json::json!({
        "name": "default/web", "frontends": ["10.96.0.1:80/TCP"], "algorithm": "none", "backends": [], "origin": ""
    });
    let service: ServiceView = serde_json::from_value(service).unwrap();
    let endpoint = EndpointView {
        name: "default/web-1".into(),
        addresses: vec!["10.244.0.10".into(), "fd00:10:244::a".into()],
        interface: "cw1".into(),
        ifindex: 3,
        mac: String::new(),
        labels: [].into(),
        netns: String::new(),
    };
    Said {
        status: Status {
            node: "n0".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            converged: true,
            hook: "tcx+sockets".into(),
            ..Status::default()
        },
        nodes: vec![
            node("n0", "192.168.77.10", "10.244.0.0/24"),
            node("n1", "192.168.77.11", "10.244.1.0/24"),
        ],
        services: vec![service],
        endpoints: vec![endpoint],
    }
}

fn link(index: u32, name: &str, mtu: u32, addresses: &[&str]) -> Seen {
    Seen {
        link: Link { index, name: name.into(), mtu, mac: vec![2; 6], peer: None },
        is_up: true,
        has_carrier: true,
        is_loopback: false,
        xdp: None,
        addresses: addresses.iter().map(|network| network.parse().unwrap()).collect(),
    }
}

fn route(to: &str, ifindex: u32, protocol: u8) -> SeenRoute {
    SeenRoute { route: Route { destination: to.parse().unwrap(), via: None, ifindex }, protocol }
}

#[test]
fn nothing_is_wrong_with_a_sound_node() {
    let diagnosis = judge(&sound());
    assert_eq!(diagnosis.findings, []);
    assert!(diagnosis.sound);
    assert_eq!(diagnosis.uplink.as_deref(), Some("eth0"));
}

#[test]
fn the_worst_comes_first_and_decides() {
    let mut facts = sound();
    facts.settings.rp_filter = Some(1);
    facts.strangers.legacy.push("ip nat".into());
    assert!(judge(&facts).sound);
    facts.network.links[0].is_up = false;
    let expected =
        [(Level::Fault, "uplink-down"), (Level::Warning, "rp-filter"), (Level::Note, "iptables-legacy")];
    assert_eq!(found(&facts), expected);
    assert!(!judge(&facts).sound);
}

#[test]
fn what_could_not_be_read_is_said() {
    let mut facts = sound();
    facts.unread.push("processes: denied".into());
    assert_eq!(found(&facts), [(Level::Warning, "unread")]);
}

#[test]
fn features_are_shown_whatever_is_found() {
    let mut facts = sound();
    facts.network.native_xdp = None;
    facts.kernel.jit = None;
    let shown: Vec<_> =
        judge(&facts).features.iter().map(|feature| (feature.name, feature.present)).collect();
    let expected = [
        ("tcx", Some(true)),
        ("sockets", Some(true)),
        ("xdp", None),
        ("jit", None),
        ("bpf_redirect_peer", Some(true)),
    ];
    assert_eq!(shown, expected);
}
