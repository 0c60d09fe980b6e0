//! OPS-05, in part: does `causeway doctor` find what is planted on a host where no
//! agent has ever run, and nothing else?

use std::process::Command;

use causeway_testkit::{
    agent::binary,
    doctor::{expect, run},
    link,
    netns::Netns,
    scratch::Dir,
};
use serde_json::Value;

/// A host on which no agent has ever run, with a neighbour.
struct Bare {
    host: Netns,
    other: Netns,
    dir: Dir,
}

impl Bare {
    fn new() -> Self {
        let (host, other) = (Netns::new(), Netns::new());
        for name in ["eth0", "eth1"] {
            link::pair(&host, name, &other, name);
        }
        link::address(&host, "eth0", "192.0.2.1/24");
        link::address(&host, "eth1", "198.51.100.1/24");
        host.ip("route add default via 192.0.2.254 dev eth0");
        for key in ["all", "eth0"] {
            host.set_sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0");
        }
        Self { host, other, dir: Dir::new() }
    }

    fn look(&self, before: &str, more: &str) -> (i32, Value) {
        let (program, socket) = (binary(), self.dir.join("none.sock"));
        let line =
            format!("{before} {} doctor -o json --socket {} {more}", program.display(), socket.display());
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.host.run(|| Command::new(words[0]).args(&words[1..]).output().unwrap());
        let report = serde_json::from_slice(&output.stdout);
        (output.status.code().unwrap(), report.unwrap_or_else(|error| panic!("{error}: {line}: {output:?}")))
    }

    #[track_caller]
    fn commands(&self, finding: (&str, &str), more: &str, cause: &str, remedy: &str) {
        let look = || self.look("", more);
        expect(&[], &[], look);
        run(&self.host, cause);
        expect(&[finding], &[], look);
        run(&self.host, remedy);
        expect(&[], &[], look);
    }
}

#[test]
fn a_node_is_looked_at_before_its_first_agent() {
    let bare = Bare::new();
    expect(&[("note", "agent-absent")], &[], || bare.look("", ""));
    let default = "ip route add default via 192.0.2.254 dev eth0";
    bare.commands(("fault", "uplink-missing"), "", "ip route del default", default);
    let second = "default via 198.51.100.254 dev eth1 metric 9";
    let commands = (format!("ip route add {second}"), format!("ip route del {second}"));
    bare.commands(("warning", "uplink-ambiguous"), "", &commands.0, &commands.1);
    let named = "--uplink eth0";
    bare.commands(("fault", "uplink-down"), named, "ip link set eth0 down", "ip link set eth0 up");
    bare.commands(("warning", "uplink-mtu"), named, "ip link set eth0 mtu 1279", "ip link set eth0 mtu 1500");
    let commands = ("ip address del 192.0.2.1/24 dev eth0", "ip address add 192.0.2.1/24 dev eth0");
    bare.commands(("fault", "uplink-address"), named, commands.0, commands.1);
    bare.other.ip("link set eth0 down");
    expect(&[("fault", "uplink-down")], &[], || bare.look("", named));
    bare.other.ip("link set eth0 up");
    let elsewhere = format!("{named} --bpffs {}", bare.dir.path().display());
    expect(&[("fault", "bpffs")], &[], || bare.look("", &elsewhere));
    let rightless = "setpriv --bounding-set=-all --inh-caps=-all";
    expect(&[("fault", "capabilities")], &["unread"], || bare.look(rightless, named));
    run(&bare.host, "iptables-legacy -t nat -N KUBE-SERVICES");
    expect(&[("note", "iptables-legacy")], &[], || bare.look("", named));
}
