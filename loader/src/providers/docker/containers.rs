//! Which containers are in networks of ours? The networks tell who is in them, also of
//! who is about to start; the list of containers, how these are and what their labels
//! are. Neither waits for a container that is being started, as looking at it would.

use std::{collections::HashMap, net::IpAddr};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerSummary, ContainerSummaryStateEnum, NetworkInspect},
    query_parameters::{InspectNetworkOptions, ListContainersOptions, ListNetworksOptions},
};
use ipnet::IpNet;

use crate::event::container::DRIVER;

/// One's place in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    pub network: String,
    pub endpoint: String,
    pub addresses: Vec<IpAddr>,
    pub labels: HashMap<String, String>,
    /// It runs, and is healthy as far as it says.
    pub ready: bool,
}

/// # Errors
/// When the engine does not answer.
pub async fn list(docker: &Docker) -> Result<Vec<Container>, Error> {
    let filters = HashMap::from([("driver".to_owned(), vec![DRIVER.to_owned()])]);
    let ours = ListNetworksOptions { filters: Some(filters) };
    let ids: Vec<String> = docker.list_networks(Some(ours)).await?.into_iter().filter_map(|n| n.id).collect();
    let mut networks = Vec::new();
    for id in &ids {
        match docker.inspect_network(id, None::<InspectNetworkOptions>).await {
            Ok(network) => networks.push(network),
            // Gone meanwhile.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // Not by network: who has never started has none in the list.
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let listed = docker.list_containers(Some(options)).await?;
    Ok(join(&networks, listed))
}

fn join(networks: &[NetworkInspect], listed: Vec<ContainerSummary>) -> Vec<Container> {
    let by_id: HashMap<String, ContainerSummary> =
        listed.into_iter().filter_map(|container| Some((container.id.clone()?, container))).collect();
    let mut containers = Vec::new();
    for network in networks {
        for (id, place) in network.containers.iter().flatten() {
            let Some(endpoint) = place.endpoint_id.clone() else { continue };
            // Whose labels are not seen is not known yet.
            let Some(known) = by_id.get(id) else { continue };
            let given = [&place.ipv4_address, &place.ipv6_address];
            let parse = |text: &String| text.parse().ok().map(|network: IpNet| network.addr());
            containers.push(Container {
                name: place.name.clone().unwrap_or_default(),
                network: network.name.clone().unwrap_or_default(),
                endpoint,
                addresses: given.into_iter().flatten().filter_map(parse).collect(),
                labels: known.labels.clone().unwrap_or_default(),
                ready: is_ready(known),
            });
        }
    }
    containers.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    containers
}

fn is_ready(container: &ContainerSummary) -> bool {
    // The engine tells of health in these words alone.
    let status = container.status.as_deref().unwrap_or_default();
    let ill = status.contains("(unhealthy)") || status.contains("(health: starting)");
    container.state == Some(ContainerSummaryStateEnum::RUNNING) && !ill
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn places() -> Vec<NetworkInspect> {
        let containers = json!({
            "c1": {"Name": "web", "EndpointID": "e1", "IPv4Address": "10.0.0.1/32", "IPv6Address": "fd00::1/128"},
            "c2": {"Name": "not-listed", "EndpointID": "e2", "IPv4Address": "10.0.0.2/32", "IPv6Address": ""},
            "ep-e3": {"Name": "of nobody", "EndpointID": "", "IPv4Address": ""},
        });
        vec![serde_json::from_value(json!({"Name": "blue", "Id": "n", "Containers": containers})).unwrap()]
    }

    #[test]
    fn who_is_in_a_network_is_known_before_it_runs() {
        let list = |state: &str, status: &str| {
            let listed = json!([{"Id": "c1", "State": state, "Status": status, "Labels": {"app": "web"}}]);
            join(&places(), serde_json::from_value(listed).unwrap())
        };
        let running = list("running", "Up 3 seconds");
        let web = running.iter().find(|container| container.endpoint == "e1").unwrap();
        let expected = Container {
            name: "web".into(),
            network: "blue".into(),
            endpoint: "e1".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            labels: [("app".into(), "web".into())].into(),
            ready: true,
        };
        assert_eq!(web, &expected);
        // One whose labels are not seen is not said to be anybody.
        assert!(!running.iter().any(|container| container.endpoint == "e2"));
        let created = list("created", "Created");
        assert!(!created[0].ready && created[0].labels == web.labels);
        for (state, status, ready) in [
            ("running", "Up 3 seconds (healthy)", true),
            ("running", "Up 3 seconds (unhealthy)", false),
            ("running", "Up 3 seconds (health: starting)", false),
            ("paused", "Up 3 seconds (Paused)", false),
            ("exited", "Exited (0) 3 seconds ago", false),
        ] {
            let web = list(state, status).into_iter().find(|container| container.endpoint == "e1");
            assert_eq!(web.unwrap().ready, ready, "{state} {status}");
        }
    }
}
