//! What has a container got, in the words of each version? And is that what it
//! had?

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{
    error::{CniError, Code},
    question::Question,
};
use crate::snapshot::JoinView;

/// What the plugins have said that were called before.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    interfaces: Vec<Value>,
    ips: Vec<Value>,
    routes: Vec<Value>,
    /// The rest.
    fields: Map<String, Value>,
}

impl Earlier {
    pub fn read(previous: Option<&Value>) -> Result<Self, CniError> {
        let wrong = || CniError::new(Code::Decode, "prevResult: it is no result of a plugin");
        let mut fields = match previous {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(_) => return Err(wrong()),
        };
        let mut list = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(wrong()),
        };
        let (interfaces, ips, routes) = (list("interfaces")?, list("ips")?, list("routes")?);
        Ok(Self { interfaces, ips, routes, fields })
    }

    /// The result of an ADD, with what the container has got from us behind it.
    pub fn and(mut self, joined: &JoinView, question: &Question, version: &str) -> Value {
        let (inside, sandbox) = (&question.attachment.interface, &question.netns);
        let mut outside = json!({"name": joined.interface, "mac": gateway_mac(), "sandbox": ""});
        let mut container = json!({"name": inside, "mac": joined.mac, "sandbox": sandbox});
        if version == "1.1.0" {
            outside["mtu"] = joined.mtu.into();
            container["mtu"] = joined.mtu.into();
        }
        let index = self.interfaces.len() + 1;
        self.interfaces.extend([outside, container]);
        for address in &joined.addresses {
            let (length, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
            let mut ip = json!({"address": format!("{address}/{length}"), "interface": index});
            let gateway = joined.gateways.iter().find(|gateway| gateway.is_ipv4() == address.is_ipv4());
            if let Some(gateway) = gateway {
                ip["gateway"] = json!(gateway);
            }
            if version.starts_with("0.") {
                ip["version"] = family.into();
            }
            self.ips.push(ip);
        }
        for gateway in &joined.gateways {
            let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            self.routes.push(json!({"dst": everything, "gw": gateway}));
        }
        let mut fields = self.fields;
        fields.insert("cniVersion".into(), version.into());
        fields.insert("interfaces".into(), self.interfaces.into());
        fields.insert("ips".into(), self.ips.into());
        fields.insert("routes".into(), self.routes.into());
        fields.entry("dns").or_insert_with(|| json!({}));
        fields.into()
    }
}

/// Whether a container still has what the runtime was told.
pub fn compare(joined: &JoinView, inside: &str, previous: Option<&Value>) -> Result<(), CniError> {
    let Earlier { interfaces, ips, .. } = Earlier::read(previous)?;
    let is_ours = |interface: &Value| {
        interface["name"] == json!(inside)
            && interface["sandbox"].as_str().is_some_and(|name| !name.is_empty())
    };
    let changed = |message: String| Err(CniError::new(Code::Changed, message));
    let Some(index) = interfaces.iter().position(is_ours) else {
        return changed(format!("prevResult has no interface {inside} of a container"));
    };
    let told: Vec<IpAddr> = ips
        .iter()
        .filter(|ip| ip["interface"] == json!(index))
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    match joined.addresses.iter().find(|address| !told.contains(address)) {
        Some(address) => changed(format!("{inside} has {address}, of which prevResult knows nothing")),
        None => match told.iter().find(|address| !joined.addresses.contains(address)) {
            Some(address) => changed(format!("{inside} has no {address} any more")),
            None => Ok(()),
        },
    }
}

fn gateway_mac() -> String {
    crate::mac::text(causeway_schema::GATEWAY_MAC)
}
