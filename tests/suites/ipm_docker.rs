//! IPM-02: do containers of a real Docker engine get their network from us?

use causeway_testkit::{
    docker::Docker,
    http::get,
    topology::{Cluster, PATIENCE, node_address},
    until::until,
};

/// A web server that says a word.
pub const SERVE: &str =
    "busybox mkdir -p /www; echo it-is-the-server > /www/name; exec httpd -f -p 8080 -h /www";

fn endpoints(cluster: &Cluster) -> usize {
    cluster.nodes[0].agent().ask(&["show", "endpoints"]).as_array().unwrap().len()
}

#[test]
fn containers_of_docker_talk_and_go() {
    let cluster = Cluster::dual(1);
    cluster.wait_converged();
    let docker = Docker::new(&cluster.nodes[0]);
    docker.done(&["network", "create", "--driver", "causeway", "--ipam-driver", "causeway", "blue"]);
    docker.run(
        &["--detach", "--name", "server", "--network", "blue", "--publish", "82:8080"],
        &["sh", "-c", SERVE],
    );
    let format = "{{.NetworkSettings.Networks.blue.IPAddress}}";
    let address = docker.done(&["inspect", "server", "--format", format]);
    let to = format!("http://{address}:8080/name");
    let said = docker.run(&["--rm", "--network", "blue"], &["wget", "-q", "-O", "-", &to]);
    assert_eq!(said, "it-is-the-server");
    let published = cluster.outside.run(|| get((node_address(0), 82), "/name")).unwrap();
    assert_eq!((published.status, published.body.trim()), (200, "it-is-the-server"));
    until("the server alone", PATIENCE, || (endpoints(&cluster) == 1).then_some(()));
    docker.remove("server");
    assert_eq!(endpoints(&cluster), 0);
    docker.done(&["network", "rm", "blue"]);
}
