//! Affinity, direct return and source ranges: what stands in the maps, at every step.

use std::collections::BTreeSet;

use causeway_schema::{
    Frontend, FrontendKey, Group, Member, MemberKey, Service as Row, SourceRangeKey, V4, source_range::NODES,
};

use super::world::*;
use crate::event::{Dsr, Protocol, ServiceOptions};
use crate::kernel::memory::Contents;
use crate::model::desired::{self, Clients, Service};
use crate::plan::{Capacity, Digest, Family, Planner};

/// The service at a frontend has just the rows that it wants.
pub fn check(node: &Node, key: &FrontendKey<V4>, wanted: &Service) {
    let rows = node.tables.contents();
    let frontend = lead(rows, key).unwrap();
    let service = rows.services[frontend.service as usize];
    let members: Vec<_> = rows.members.keys().filter(|key| key.service == frontend.service).collect();
    let affinity = if wanted.options.affinity.is_some() { Row::AFFINITY } else { 0 };
    let dsr = match wanted.options.dsr {
        None => 0,
        Some(Dsr::Ipip) => Row::DSR,
        // Two nodes would remember different backends.
        Some(Dsr::L2) if wanted.options.affinity.is_some() => 0,
        Some(Dsr::L2) => Row::DSR_L2,
    };
    let tcp = wanted.frontends.iter().any(|frontend| frontend.protocol == Protocol::Tcp);
    let proxy = if wanted.options.proxy && tcp { Row::PROXY } else { 0 };
    let silent = if wanted.silent { Row::SILENT } else { 0 };
    assert_eq!(service.flags, affinity | dsr | proxy | silent);
    let name = node.planner.service_of(frontend.service).unwrap();
    let settings = |timeout| Member::settings(Group::of(&name.namespace, &name.name), timeout);
    let there = rows.members.get(&MemberKey::settings(frontend.service)).copied();
    assert_eq!(there, wanted.options.affinity.map(settings));
    let addresses: BTreeSet<_> = match service.flags & (Row::AFFINITY | Row::DSR) {
        0 => BTreeSet::new(),
        _ => fitting(wanted).map(|backend| backend.address).collect(),
    };
    let there = members.iter().filter(|key| key.backend != V4([0; 4]));
    assert_eq!(there.map(|key| key.backend.to_ip()).collect::<BTreeSet<_>>(), addresses);
    check_ranges(rows, key, wanted);
}

fn check_ranges(rows: &Contents<V4>, key: &FrontendKey<V4>, wanted: &Service) {
    let row = lead(rows, key).unwrap();
    let ranges = wanted.options.source_ranges.as_ref();
    let restricted = if addressed(ranges, key.addr.to_ip()) { Frontend::SOURCE_RANGES } else { 0 };
    let inside = |frontend: &desired::Frontend| {
        frontend.address == key.addr.to_ip() && frontend.clients == Clients::Inside
    };
    let outside = if wanted.frontends.iter().any(inside) { Frontend::OUTSIDE } else { 0 };
    assert_eq!(row.flags, restricted | outside, "{row:?}");
    let clients = ranges.map_or(&[][..], |ranges| &ranges.clients);
    let expected = if wanted.frontends.iter().any(|frontend| addressed(ranges, frontend.address)) {
        clients.iter().filter(|net| net.addr().is_ipv4()).count()
    } else {
        ranges_of(rows, row.service).len()
    };
    assert_eq!(ranges_of(rows, row.service).len(), expected);
}

fn addressed(ranges: Option<&crate::event::SourceRanges>, address: std::net::IpAddr) -> bool {
    ranges.is_some_and(|ranges| ranges.addresses.contains(&address))
}

fn ranges_of(rows: &Contents<V4>, service: u32) -> BTreeSet<SourceRangeKey<V4>> {
    rows.source_ranges.keys().copied().filter(|key| key.service == service).collect()
}

/// Members name backends that are there, and a frontend that was not for all
/// and will not be stays so.
pub fn check_prefix(before: &Contents<V4>, now: &Contents<V4>, after: &Contents<V4>) {
    for (key, member) in now.members.iter().filter(|(_, member)| member.backend != Member::NONE) {
        assert_eq!(now.backends[member.backend as usize].addr, key.backend);
    }
    let closed =
        |rows: &Contents<V4>, key| lead(rows, key).is_none_or(|row| row.flags & Frontend::SOURCE_RANGES != 0);
    for key in all_answers(now).keys() {
        let row = lead(now, key).unwrap();
        if closed(before, key) && closed(after, key) {
            assert!(row.flags & Frontend::SOURCE_RANGES != 0, "{key:?} is open to all");
            let known = [before, after].map(|rows| ranges_of(rows, row.service));
            assert!(ranges_of(now, row.service).is_subset(&(&known[0] | &known[1])));
        }
    }
}

fn with(affinity: u32, clients: &[&str], backends: &[(u16, u16, u32)]) -> Service {
    Service { options: options(affinity, clients), ..service(&[(1, 80), (3, 80)], backends) }
}

#[test]
fn of_several_backends_on_an_address_the_lowest_port_is_the_member() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(with(5, &[], &[(1, 8082, 1), (1, 8081, 1), (2, 8081, 1)])))]);
    let rows = node.tables.contents();
    let member = rows.members[&MemberKey::new(0, V4([10, 244, 0, 1]))];
    assert_eq!(rows.backends[member.backend as usize].port.get(), 8081);
}

#[test]
fn ranges_of_the_other_family_alone_let_nobody_in() {
    let mut node = Node::new(small());
    node.change(&[(id("web"), Some(with(0, &["fd00::/8"], &[(1, 80, 1)])))]);
    let rows = node.tables.contents();
    assert_eq!(rows.frontends[&key(1, 80)].flags, Frontend::SOURCE_RANGES);
    assert_eq!(rows.frontends[&key(3, 80)].flags, 0, "a cluster address is for all");
    assert!(rows.source_ranges.is_empty());
}

#[test]
fn every_difference_shows_in_the_digest() {
    let digest = |affinity, clients: &[&str]| {
        let mut node = Node::new(small());
        node.change(&[(id("web"), Some(with(affinity, clients, &[(1, 80, 1)])))]);
        assert_eq!(Digest::of_image(node.planner.image()), Digest::of_rows(&node.tables).unwrap());
        Digest::of_image(node.planner.image()).0
    };
    let mut node = Node::new(small());
    let direct = ServiceOptions { dsr: Some(Dsr::Ipip), ..options(0, &[]) };
    node.change(&[(id("web"), Some(Service { options: direct, ..with(0, &[], &[(1, 80, 1)]) }))]);
    let direct = Digest::of_image(node.planner.image()).0;
    let on_link = ServiceOptions { dsr: Some(Dsr::L2), ..options(0, &[]) };
    node.change(&[(id("web"), Some(Service { options: on_link, ..with(0, &[], &[(1, 80, 1)]) }))]);
    let on_link = Digest::of_image(node.planner.image()).0;
    let told = ServiceOptions { proxy: true, ..options(0, &[]) };
    node.change(&[(id("web"), Some(Service { options: told, ..with(0, &[], &[(1, 80, 1)]) }))]);
    let digests = [
        direct,
        on_link,
        Digest::of_image(node.planner.image()).0,
        digest(0, &[]),
        digest(5, &[]),
        digest(6, &[]),
        digest(0, &["10.0.0.0/8"]),
        digest(0, &["10.0.0.0/9"]),
        digest(0, &["10.0.0.0/8", "11.0.0.0/8"]),
        digest(0, &["fd00::/8"]),
    ];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
}

#[test]
fn clients_are_not_remembered_where_packets_go_on_as_they_are() {
    let mut node = Node::new(small());
    for (affinity, dsr, problems) in
        [(5, Dsr::L2, &["metadata.annotations[causeway.io/dsr]"][..]), (5, Dsr::Ipip, &[]), (0, Dsr::L2, &[])]
    {
        let direct = ServiceOptions { dsr: Some(dsr), ..options(affinity, &[]) };
        node.change(&[(id("web"), Some(Service { options: direct, ..with(0, &[], &[(1, 80, 1)]) }))]);
        let found: Vec<_> = node.planner.problems().map(|problem| problem.field.clone()).collect();
        assert_eq!(found, problems, "{affinity} {dsr:?}");
        check_against_desired(&node);
    }
}

#[test]
fn backends_are_told_of_clients_over_tcp_alone() {
    for (protocol, expected) in [(Protocol::Tcp, Row::PROXY), (Protocol::Udp, 0)] {
        let mut node = Node::new(small());
        let mut web = Service {
            options: ServiceOptions { proxy: true, ..options(0, &[]) },
            ..with(0, &[], &[(1, 80, 1)])
        };
        web.frontends.iter_mut().for_each(|frontend| frontend.protocol = protocol);
        node.change(&[(id("web"), Some(web))]);
        assert_eq!(node.tables.contents().services[0].flags, expected, "{protocol}");
    }
}

#[test]
fn nodes_are_known_by_their_addresses() {
    let mut node = Node::new(Capacity { source_ranges: 2, ..small() });
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let known = |node: &Node| -> Vec<_> {
        let keys = node.tables.contents().source_ranges.keys().copied().collect::<Vec<_>>();
        assert!(keys.iter().all(|key| key.service == NODES && key.prefix == 64));
        // A hash table has no order of its own.
        let names: BTreeSet<String> = keys.iter().map(|key| key.addr.to_ip().to_string()).collect();
        names.into_iter().collect()
    };
    let steps = node.planner.set_nodes(addresses(&["10.0.0.1", "fd00::1"]).into_iter(), true);
    node.apply(&steps);
    assert_eq!(known(&node), ["10.0.0.1"]);
    // A new agent keeps them until it has heard of all.
    node.planner = Planner::adopt(Capacity { source_ranges: 2, ..small() }, &node.tables).unwrap();
    let steps = node.planner.set_nodes(addresses(&["10.0.0.2"]).into_iter(), false);
    node.apply(&steps);
    let steps = node.planner.prune();
    node.apply(&steps);
    assert_eq!(known(&node), ["10.0.0.1", "10.0.0.2"]);
    let steps = node.planner.set_nodes(addresses(&["10.0.0.2", "10.0.0.3", "10.0.0.4"]).into_iter(), true);
    assert_eq!((steps.len(), node.planner.problems().count()), (0, 1));
    let message = node.planner.problems().next().unwrap().to_string();
    assert!(
        message.ends_with("map source_ranges is full (2 rows): raise capacity.source_ranges"),
        "{message}"
    );
    let steps = node.planner.set_nodes(addresses(&["10.0.0.2"]).into_iter(), true);
    node.apply(&steps);
    assert_eq!((known(&node), node.planner.problems().count()), (vec!["10.0.0.2".to_owned()], 0));
}

#[test]
fn what_does_not_fit_closes_and_forgets_but_serves() {
    let mut node = Node::new(Capacity { members: 2, source_ranges: 1, ..small() });
    node.change(&[(id("a"), Some(with(5, &["10.0.0.0/8"], &[(1, 80, 1)])))]);
    let big =
        Service { frontends: service(&[(2, 80)], &[]).frontends, ..with(5, &["10.1.0.0/16"], &[(2, 80, 1)]) };
    node.change(&[(id("b"), Some(big))]);
    let messages: Vec<_> = node.planner.waiting().map(|problem| problem.message.clone()).collect();
    assert_eq!(
        messages,
        [
            "map members is full (2 rows): raise capacity.members",
            "map source_ranges is full (1 rows): raise capacity.source_ranges"
        ]
    );
    let rows = node.tables.contents();
    assert_eq!(rows.services[1].flags, 0);
    assert_eq!((rows.frontends[&key(2, 80)].flags, ranges_of(rows, 1).len()), (Frontend::SOURCE_RANGES, 0));
    assert_eq!(answers(rows, &key(2, 80)).unwrap()[0], Some((V4([10, 244, 0, 2]), 80)));
    node.change(&[(id("a"), None)]);
    node.rest();
    assert_eq!(node.planner.problems().count(), 0);
    assert_eq!(node.tables.contents().services[1].flags, Row::AFFINITY);
    check_against_desired(&node);
}

#[test]
fn foreign_rows_are_told_from_ours_and_removed() {
    let mut node = Node::new(small());
    let web = [(id("web"), Some(with(5, &["10.0.0.0/8"], &[(1, 80, 1)])))];
    node.change(&web);
    let rows = node.tables.edit();
    rows.members.insert(MemberKey::new(0, V4([10, 244, 0, 9])), Member::backend(0));
    rows.members.insert(MemberKey::new(7, V4([10, 244, 0, 1])), Member::backend(0));
    let foreign = SourceRangeKey::new(0, V4([0; 4]), 0);
    rows.source_ranges.insert(foreign, causeway_schema::SourceRange { prefix: 32 });
    let lines: Vec<_> = crate::plan::audit(node.planner.image(), &node.tables)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lines,
        [
            "source_ranges 0.0.0.0/0 of service 0: unknown, deleted",
            "members 10.244.0.9 of service 0: unknown, deleted",
            "members 10.244.0.1 of service 7: unknown, deleted",
        ]
    );
    // A new agent that finds them wants what the old one wanted.
    node.planner = Planner::adopt(small(), &node.tables).unwrap();
    let steps = node.update(&web);
    node.apply(&steps);
    let repairs = crate::plan::audit(node.planner.image(), &node.tables).unwrap();
    let steps: Vec<_> = repairs.into_iter().map(|repair| repair.step).collect();
    node.apply(&steps);
    node.settled();
    check_against_desired(&node);
}
