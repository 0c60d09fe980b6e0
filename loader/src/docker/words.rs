//! What does Docker say to a network driver and to an IPAM driver, and what is it
//! told? JSON over HTTP, field by field as in libnetwork's `drivers/remote/api` and
//! `ipams/remote/api`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Of a network or of an endpoint, by the names of what sets them.
pub type Options = BTreeMap<String, Value>;

/// Of a network: what its user has set.
pub const GENERIC: &str = "com.docker.network.generic";
/// Of an endpoint: its published ports.
pub const PORTS: &str = "com.docker.network.portmap";
/// Before the names of options that are Docker's own.
pub const DOCKERS: &str = "com.docker.network.";
pub const GATEWAY: &str = "com.docker.network.gateway";
pub const INTERNAL: &str = "com.docker.network.internal";
pub const MTU: &str = "com.docker.network.driver.mtu";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(default)]
    pub options: Option<Options>,
    #[serde(rename = "IPv4Data", default)]
    pub v4: Option<Vec<IpamData>>,
    #[serde(rename = "IPv6Data", default)]
    pub v6: Option<Vec<IpamData>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    #[serde(default)]
    pub address_space: String,
    #[serde(default)]
    pub gateway: String,
    #[serde(default)]
    pub aux_addresses: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
pub struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub network: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    #[serde(default)]
    pub interface: Option<Interface>,
    #[serde(default)]
    pub options: Option<Options>,
}

/// Addresses with their prefix lengths; empty where there is none.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    pub address: String,
    #[serde(rename = "AddressIPv6")]
    pub address_v6: String,
    pub mac_address: String,
}

/// A published port.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    /// IANA's number.
    pub proto: u8,
    /// The container's.
    pub port: u16,
    #[serde(rename = "HostIP", default)]
    pub host_ip: String,
    /// 0: any.
    #[serde(default)]
    pub host_port: u16,
    #[serde(default)]
    pub host_port_end: u16,
}

#[derive(Deserialize)]
pub struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
}

#[derive(Deserialize)]
pub struct Join {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    /// The container's namespace, which is not there yet.
    #[serde(rename = "SandboxKey", default)]
    pub sandbox: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    pub gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub gateway_v6: String,
    pub static_routes: Vec<StaticRoute>,
    /// Else Docker puts a bridge of its own beside.
    pub disable_gateway_service: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// As it is in the node's namespace.
    pub src_name: String,
    /// Inside, a number follows.
    pub dst_prefix: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    pub destination: String,
    /// 1: on the interface itself.
    pub route_type: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestPool {
    /// A network; empty: any.
    #[serde(default)]
    pub pool: String,
    #[serde(default)]
    pub sub_pool: String,
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub v6: bool,
}

#[derive(Deserialize)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool: String,
    /// Empty: any.
    #[serde(rename = "Address", default)]
    pub address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReleaseAddress {
    pub address: IpAddr,
}
