//! Who else has a hand in the packets? Other programs, rules of netfilter, other
//! dataplanes.

use super::Report;
use crate::{
    doctor::facts::{Facts, Strangers},
    kernel::bpf::{Found, Hooks, Owner},
};

/// The interface that kube-proxy binds service addresses to.
const IPVS: &str = "kube-ipvs0";

pub fn judge(facts: &Facts, report: &mut Report) {
    let uplink = facts.network.uplink().map(|seen| seen.link.name.as_str());
    if let (Some(uplink), Some(hooks)) = (uplink, &facts.strangers.hooks) {
        programs(uplink, hooks, report);
    }
    if facts.network.links.iter().any(|seen| seen.link.name == IPVS) {
        let message = "kube-proxy has left service addresses there: the host takes them for its own";
        report.fault("ipvs", IPVS, message.into(), format!("kube-proxy --cleanup, or ip link del {IPVS}"));
    }
    rules(&facts.strangers, report);
    for (pid, name) in &facts.strangers.processes {
        let message = format!("runs as process {pid}: two dataplanes for the same packets");
        report.fault(
            "other-dataplane",
            name,
            message,
            "remove its DaemonSet or service, then this finding goes",
        );
    }
}

fn programs(uplink: &str, hooks: &Hooks, report: &mut Report) {
    let is_ours = |found: &&Found| found.owner == Owner::Ours;
    let installed = hooks.programs.iter().any(|found| is_ours(&found));
    let before = hooks.programs.iter().take_while(|found| !is_ours(found)).count();
    let (before, after) = hooks.programs.split_at(before);
    for found in before {
        let message = match installed {
            true => format!("{} sees packets before our program, and may take them", called(found)),
            false => format!("{} is there already", called(found)),
        };
        let remedy = format!("remove whoever put it there: `bpftool net show dev {uplink}`");
        report.warning("foreign-tc", uplink, message, remedy);
    }
    for found in after.iter().filter(|found| !is_ours(found)) {
        let message = format!("{} sees what our program leaves to the host", called(found));
        report.note(
            "foreign-tc-after",
            uplink,
            message,
            format!("`tc filter show dev {uplink} ingress` has it"),
        );
    }
    if let Some(found) = hooks.xdp.as_ref().filter(|found| !is_ours(found)) {
        let message = format!("{} sees packets in the driver, before our programs", called(found));
        report.warning(
            "foreign-xdp",
            uplink,
            message,
            format!("ip link set dev {uplink} xdp off, or end who holds its link: `bpftool link`"),
        );
    }
}

fn called(found: &Found) -> String {
    match (found.id, found.name.as_str()) {
        (0, _) => "a filter that is no BPF program".into(),
        (id, "") => format!("program {id}"),
        (id, name) => format!("program {id} ({name})"),
    }
}

/// Chains of kube-proxy's that lead to backends; the kubelet has others whose names
/// begin so.
fn is_proxys(chain: &str) -> bool {
    let kinds = ["SVC-", "SVL-", "SEP-", "EXT-", "FW-"];
    chain.strip_prefix("KUBE-").is_some_and(|name| {
        ["SERVICES", "NODEPORTS"].contains(&name) || kinds.iter().any(|kind| name.starts_with(kind))
    })
}

fn rules(strangers: &Strangers, report: &mut Report) {
    let mut places: Vec<String> = Vec::new();
    let mut count = 0;
    for rules in &strangers.rules {
        if rules.table == "kube-proxy" || rules.chain.as_deref().is_some_and(is_proxys) {
            count += usize::from(rules.chain.is_some());
            places.push(format!("{} {}", rules.family, rules.table));
        }
    }
    places.sort_unstable();
    places.dedup();
    if !places.is_empty() {
        let places = places.join(", ");
        let chains = if count == 0 { "a table".to_owned() } else { format!("{count} chains") };
        let message =
            format!("{chains} of kube-proxy: they send what reaches them to backends of their time");
        report.warning("kube-proxy-rules", places, message, "kube-proxy --cleanup");
    }
    for rules in strangers.rules.iter().filter(|rules| rules.drops_forwarded) {
        let chain = rules.chain.as_deref().unwrap_or_default();
        let message = "drops what the host's stack forwards: fragments it makes of long packets, say";
        let (family, table) = (rules.family, &rules.table);
        let remedy = format!(
            "nft 'chain {family} {table} {chain} {{ policy accept; }}', or accept pod networks there"
        );
        report.warning("forward-drop", format!("{family} {table} {chain}"), message.into(), remedy);
    }
    if !strangers.legacy.is_empty() {
        let message = "tables of iptables-legacy, whose rules are not looked at";
        let remedy = "iptables-legacy-save | grep KUBE- has what kube-proxy left there";
        report.note("iptables-legacy", strangers.legacy.join(", "), message.into(), remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::{
        doctor::Level::{Fault, Note, Warning},
        kernel::netfilter::Rules,
    };

    fn program(owner: Owner) -> Found {
        Found { id: 7, name: "x".into(), owner }
    }

    fn hooks(change: impl FnOnce(&mut Hooks)) -> impl FnOnce(&mut Facts) {
        let ours = Hooks { programs: vec![program(Owner::Ours)], xdp: None };
        move |facts| change(facts.strangers.hooks.insert(ours))
    }

    fn chain(table: &str, chain: Option<&str>, drops_forwarded: bool) -> impl FnOnce(&mut Facts) {
        let chain = chain.map(str::to_owned);
        let rules = Rules { family: "ip", table: table.into(), chain, drops_forwarded };
        move |facts| facts.strangers.rules.push(rules)
    }

    #[test]
    fn a_stranger_counts_by_its_place() {
        check(hooks(|_| ()), &[]);
        let before = hooks(|hooks| hooks.programs.insert(0, program(Owner::Stranger)));
        check(before, &[(Warning, "foreign-tc")]);
        check(hooks(|hooks| hooks.programs.push(program(Owner::Stranger))), &[(Note, "foreign-tc-after")]);
        check(hooks(|hooks| hooks.programs = vec![program(Owner::Stranger)]), &[(Warning, "foreign-tc")]);
        check(hooks(|hooks| hooks.xdp = Some(program(Owner::Stranger))), &[(Warning, "foreign-xdp")]);
        check(hooks(|hooks| hooks.xdp = Some(program(Owner::Ours))), &[]);
    }

    #[test]
    fn rules_of_a_proxy_are_known_by_their_names() {
        check(chain("kube-proxy", None, false), &[(Warning, "kube-proxy-rules")]);
        check(chain("nat", Some("KUBE-SERVICES"), false), &[(Warning, "kube-proxy-rules")]);
        check(chain("nat", Some("KUBE-SEP-4B4LKPQXVVCNFMFR"), false), &[(Warning, "kube-proxy-rules")]);
        for name in
            ["DOCKER", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL", "KUBE-ROUTER-INPUT"]
        {
            check(chain("nat", Some(name), false), &[]);
        }
        check(chain("filter", Some("FORWARD"), true), &[(Warning, "forward-drop")]);
    }

    #[test]
    fn others_are_named() {
        let running = |facts: &mut Facts| facts.strangers.processes.push((4711, "cilium-agent".into()));
        check(running, &[(Fault, "other-dataplane")]);
        check(|facts| facts.strangers.legacy.push("ip nat".into()), &[(Note, "iptables-legacy")]);
        check(|facts| facts.network.links[1].link.name = IPVS.into(), &[(Fault, "ipvs")]);
    }
}
