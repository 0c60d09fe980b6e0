//! Who is meant by a name? An endpoint, or a pod, whose endpoint is called
//! `namespace/name`, or `name` alone in `default`.

use std::{net::IpAddr, sync::Arc};

/// Namespace and name of the pod that an endpoint is named after, or that
/// somebody writes.
pub fn pod_name(name: &str) -> (Arc<str>, Arc<str>) {
    let (namespace, pod) = name.split_once('/').unwrap_or(("default", name));
    (namespace.into(), pod.into())
}

/// The addresses of a party: an address, an endpoint of this node, or a pod
/// anywhere; the two are asked in this order.
///
/// # Errors
/// In words: nobody is known by that name, or has an address.
pub fn addresses_of(
    party: &str,
    endpoint: impl FnOnce(&str) -> Option<Vec<IpAddr>>,
    pod: impl FnOnce(&(Arc<str>, Arc<str>)) -> Option<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = party.parse() {
        return Ok(vec![address]);
    }
    let addresses = endpoint(party).or_else(|| pod(&pod_name(party)));
    addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(|| {
        format!("{party} is neither an address, nor an endpoint of this node, nor a pod with an address")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_comes_before_a_pod_and_without_an_address_nobody_is_known() {
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let ask = |party: &str| {
            let endpoint = |name: &str| (name == "web").then(|| address("10.0.0.1"));
            addresses_of(party, endpoint, |(namespace, name)| match (&**namespace, &**name) {
                ("default", "web") => Some(address("10.0.0.2")),
                ("shop", "empty") => Some(Vec::new()),
                _ => None,
            })
        };
        assert_eq!(ask("web"), Ok(address("10.0.0.1")));
        assert_eq!(ask("default/web"), Ok(address("10.0.0.2")));
        assert_eq!(ask("fd00::1"), Ok(address("fd00::1")));
        for nobody in ["shop/empty", "shop/web"] {
            assert!(ask(nobody).unwrap_err().starts_with(&format!("{nobody} is neither an address")));
        }
    }
}
