//! IPM-03, IPM-09: what becomes of containers when what the agent writes or keeps
//! is in the way, damaged or gone?

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use causeway_testkit::{
    client::requests,
    cni::Plugin,
    netns::Netns,
    server::Server,
    topology::{Cluster, PATIENCE, node_address, node_address6},
    until::until,
    wire::Protocol,
};
use serde_json::json;

fn endpoints(cluster: &Cluster) -> Vec<String> {
    let shown = cluster.nodes[0].agent().ask(&["show", "endpoints"]);
    shown.as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap().to_owned()).collect()
}

fn path(netns: &Netns) -> &str {
    netns.path().to_str().unwrap()
}

#[test]
fn a_disk_that_cannot_be_written_loses_nobody() {
    let mut cluster = Cluster::dual(1);
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    let config = plugin.config();
    let [stays, goes, late] = [(); 3].map(|()| Netns::new());
    for (id, netns) in [("stays", &stays), ("goes", &goes)] {
        assert_eq!(plugin.ask("ADD", id, path(netns), &config).code, 0);
    }
    let state = plugin.state_dir.clone();
    let aside = state.with_file_name("state-aside");
    // Not a directory any more: nothing can be made in it, by root either.
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "").unwrap();
    let refused = plugin.ask("ADD", "late", path(&late), &config);
    assert!(refused.code == 1 && refused.json["code"] == 11, "it may be tried again: {refused:?}");
    assert_eq!(plugin.ask("DEL", "goes", path(&goes), &config).code, 0);
    let status =
        cluster.nodes[0].agent().wait_status("told of", PATIENCE, |status| !status.alarms.is_empty());
    assert!(status.alarms.iter().any(|alarm| alarm.contains("endpoints.json")), "{:?}", status.alarms);
    assert_eq!(endpoints(&cluster), ["stays"]);
    fs::remove_file(&state).unwrap();
    fs::rename(&aside, &state).unwrap();
    cluster.nodes[0].agent().wait_status("well again", PATIENCE, |status| status.alarms.is_empty());
    assert_eq!(plugin.ask("ADD", "late", path(&late), &config).code, 0);
    cluster.nodes[0].agent_mut().kill9();
    cluster.nodes[0].agent_mut().restart();
    cluster.nodes[0].agent().wait_up(PATIENCE);
    assert_eq!(endpoints(&cluster), ["late", "stays"]);
}

#[test]
fn a_damaged_book_takes_nobody_off() {
    let mut cluster = Cluster::dual(1);
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    let netns = Netns::new();
    let added = plugin.ask("ADD", "there", path(&netns), &plugin.config());
    assert_eq!(added.code, 0, "{added:?}");
    cluster.nodes[0].agent_mut().kill9();
    fs::write(plugin.state_dir.join("endpoints.json"), r#"{"there": {"requ"#).unwrap();
    cluster.nodes[0].agent_mut().restart();
    cluster.nodes[0].agent().wait_up(PATIENCE);
    assert!(plugin.state_dir.join("endpoints.json.corrupt").exists());
    assert!(netns.ip("link show eth0").contains("eth0"), "its interface is not swept");
    // Who asks for it once more has it again.
    let again = plugin.ask("ADD", "there", path(&netns), &plugin.config());
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(endpoints(&cluster), ["there"]);
}

#[test]
fn the_plugin_and_its_configuration_come_back() {
    let mut cluster = Cluster::idle(1);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display();
    let pool = "10.246.0.0/24";
    cluster.nodes[0].start_with(Some(&format!(
        "cni_bin = {:?}\ncni_conf = {:?}\n",
        place.to_string(),
        place.to_string()
    )));
    cluster.nodes[0].agent_mut().stop();
    cluster.nodes[0].agent_mut().restart_with(&["--pool", pool]);
    cluster.wait_converged();
    let files = ["causeway-cni", "05-causeway.conflist"].map(|name| dir.path().join(name));
    for file in &files {
        until("it is there", PATIENCE, || file.exists().then_some(()));
        fs::remove_file(file).unwrap();
        until("it is there again", PATIENCE, || file.exists().then_some(()));
    }
    // By what was put there, from the pool of the flag.
    let plugin = Plugin { program: files[0].clone(), ..Plugin::of(&cluster.nodes[0]) };
    let netns = Netns::new();
    let added = plugin.ask("ADD", "one", path(&netns), &plugin.config());
    let address = added.json["ips"][0]["address"].as_str().unwrap_or_default();
    assert!(address.starts_with("10.246.0.") && address.ends_with("/32"), "{added:?}");
}

#[test]
fn one_port_at_two_addresses_of_the_node() {
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let plugin = Plugin::of(&cluster.nodes[0]);
    let at: [IpAddr; 2] = [node_address(0).into(), node_address6(0).into()];
    let mut config = plugin.config();
    let mapping = |address| json!({"hostPort": 81, "containerPort": 8080, "hostIP": address});
    config["runtimeConfig"] = json!({"portMappings": at.map(mapping)});
    let server = Netns::new();
    let added = plugin.ask("ADD", "server", path(&server), &config);
    assert_eq!(added.code, 0, "{added:?}");
    let _answers = Server::start(&server, "server", 8080);
    for address in at {
        let report = requests(&cluster.outside, SocketAddr::new(address, 81), 10, Protocol::Tcp);
        assert!(report.failed == 0, "{address}: {report}");
    }
}

#[test]
fn a_container_has_the_hardware_address_asked_for() {
    let cluster = Cluster::dual(1);
    let netns = Netns::new();
    let node = &cluster.nodes[0];
    let address = node.pod_address(7).to_string();
    let attach = |mac: &str| {
        let netns = path(&netns);
        let words = ["endpoint", "attach", "one", "--netns", netns, "--address", &address, "--mac", mac];
        node.agent().cli(&words)
    };
    let refused = attach("01:00:5e:00:00:01");
    assert!(refused.code == 1 && refused.stderr.contains("no single interface"), "{refused:?}");
    let attached = attach("02:aa:bb:cc:dd:ee");
    assert_eq!(attached.json["mac"], "02:aa:bb:cc:dd:ee", "{attached:?}");
    assert!(netns.ip("link show eth0").contains("02:aa:bb:cc:dd:ee"));
}
