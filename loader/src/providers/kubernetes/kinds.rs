//! Which kinds are watched? What the model knows, as the API calls it.

use crate::{
    event::Kind,
    providers::object::{ADMIN_POLICIES, CLUSTER_POLICIES, OURS},
};

/// A kind as the API serves it.
#[derive(Debug)]
pub struct Watched {
    pub kind: Kind,
    pub name: &'static str,
    /// `v1`, or `group/version`.
    pub api: &'static str,
    /// What its objects stand under.
    pub plural: &'static str,
    /// Not every server has it: it is of a definition that may be installed.
    pub optional: bool,
}

impl Watched {
    pub fn group(&self) -> &'static str {
        self.api.split_once('/').map_or("", |(group, _)| group)
    }

    pub fn version(&self) -> &'static str {
        self.api.split_once('/').map_or(self.api, |(_, version)| version)
    }

    /// The path of all its objects.
    pub fn path(&self) -> String {
        let root = if self.group().is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}/{}", self.api, self.plural)
    }
}

/// What there is of one kind: its place in [`KINDS`].
pub type Index = usize;

pub const SERVICES: Index = 0;
pub const SLICES: Index = 1;
pub const PODS: Index = 3;

pub static KINDS: [Watched; 12] = [
    built_in(Kind::Service, "Service", "v1", "services"),
    built_in(Kind::EndpointSlice, "EndpointSlice", "discovery.k8s.io/v1", "endpointslices"),
    built_in(Kind::Node, "Node", "v1", "nodes"),
    built_in(Kind::Pod, "Pod", "v1", "pods"),
    built_in(Kind::Namespace, "Namespace", "v1", "namespaces"),
    built_in(Kind::NetworkPolicy, "NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    installed(Kind::AdminNetworkPolicy, "AdminNetworkPolicy", ADMIN_POLICIES, "adminnetworkpolicies"),
    installed(
        Kind::BaselineAdminNetworkPolicy,
        "BaselineAdminNetworkPolicy",
        ADMIN_POLICIES,
        "baselineadminnetworkpolicies",
    ),
    installed(Kind::ClusterNetworkPolicy, "ClusterNetworkPolicy", CLUSTER_POLICIES, "clusternetworkpolicies"),
    installed(Kind::Policy, "Policy", OURS, "policies"),
    installed(Kind::VirtualNetwork, "VirtualNetwork", OURS, "virtualnetworks"),
    installed(Kind::Egress, "Egress", OURS, "egresses"),
];

const fn built_in(kind: Kind, name: &'static str, api: &'static str, plural: &'static str) -> Watched {
    Watched { kind, name, api, plural, optional: false }
}

const fn installed(kind: Kind, name: &'static str, api: &'static str, plural: &'static str) -> Watched {
    Watched { kind, name, api, plural, optional: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_are_those_of_the_api() {
        assert_eq!(KINDS[SERVICES].path(), "/api/v1/services");
        assert_eq!(KINDS[SLICES].path(), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!([SLICES, PODS].map(|kind| KINDS[kind].kind), [Kind::EndpointSlice, Kind::Pod]);
        assert!(KINDS.iter().all(|watched| watched.name == watched.kind.to_string()));
    }

    #[test]
    fn the_role_allows_to_read_these_and_to_tell_and_nothing_else() {
        let text = include_str!("../../../../deploy/rbac.yaml");
        let documents: Vec<serde_json::Value> =
            text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
        let role = documents.iter().find(|document| document["kind"] == "ClusterRole").unwrap();
        let list = |value: &serde_json::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let mut allowed = Vec::new();
        let (paths, rules): (Vec<_>, Vec<_>) =
            role["rules"].as_array().unwrap().iter().partition(|rule| rule["nonResourceURLs"].is_array());
        let [paths] = &paths[..] else { panic!("{paths:?}") };
        assert_eq!(
            (list(&paths["nonResourceURLs"]), list(&paths["verbs"])),
            (vec!["/apis".into(), "/apis/*".into()], vec!["get".to_owned()])
        );
        let (read, told): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| list(&rule["verbs"]) == ["list", "watch"]);
        let events = serde_json::json!({
            "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"],
        });
        assert_eq!(told, [&events]);
        for rule in read {
            let groups = list(&rule["apiGroups"]);
            for group in &groups {
                allowed.extend(list(&rule["resources"]).into_iter().map(|plural| (group.clone(), plural)));
            }
        }
        let mut wanted: Vec<_> =
            KINDS.iter().map(|watched| (watched.group().to_owned(), watched.plural.to_owned())).collect();
        allowed.sort();
        wanted.sort();
        assert_eq!(allowed, wanted);
    }

    #[test]
    fn our_kinds_are_defined_as_they_are_watched() {
        let text = include_str!("../../../../deploy/crds.yaml");
        let mut ours = KINDS.iter().filter(|watched| watched.api == OURS);
        for text in text.split("\n---\n") {
            let crd: serde_json::Value = serde_saphyr::from_str(text).unwrap();
            let watched = ours.next().unwrap();
            let names = &crd["spec"]["names"];
            assert_eq!(crd["metadata"]["name"], format!("{}.{}", watched.plural, watched.group()));
            assert_eq!(
                (&crd["spec"]["group"], &crd["spec"]["scope"]),
                (&watched.group().into(), &"Cluster".into())
            );
            assert_eq!((&names["kind"], &names["plural"]), (&watched.name.into(), &watched.plural.into()));
            assert_eq!(crd["spec"]["versions"][0]["name"], watched.version());
        }
        assert_eq!(ours.count(), 0, "kinds without a definition");
    }
}
