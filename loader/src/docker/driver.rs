//! What is done when Docker asks? A network is remembered, an endpoint put to the
//! agent. What ends something always succeeds: Docker is to go on, and the agent
//! does it when it is there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    networks::{Network, Networks},
    ports,
    words::{
        CreateEndpoint, CreateNetwork, GATEWAY, Interface, InterfaceName, IpamData, Join, Joined, OfEndpoint,
        OfNetwork, Options, PORTS, PortBinding, ReleaseAddress, RequestAddress, RequestPool, StaticRoute,
    },
};
use crate::{
    attach::{gateway, gateways},
    event::container::{NAMESPACE, name_of},
    ipam::{AddressRequest, Pool},
    runtime::{Agent, Pending, Trouble},
    snapshot::{Attachment, HostPort, JoinRequest, KeepRequest},
};

/// The address space of networks whose addresses are ours.
const SPACE: &str = "causeway";
/// What was somebody's a moment ago may be free within this time: after it no more is
/// asked, so that Docker is answered within a second.
const AGAIN: Duration = Duration::from_millis(500);

pub struct Driver {
    agent: Agent,
    pending: Pending,
    networks: Mutex<Networks>,
    /// Which container an endpoint is in, as far as this process has been told.
    sandboxes: Mutex<BTreeMap<String, String>>,
}

impl Driver {
    /// # Errors
    /// When the file of networks cannot be understood.
    pub fn new(agent: Agent, state_dir: &Path) -> std::io::Result<Self> {
        let networks = Mutex::new(Networks::open(state_dir)?);
        Ok(Self { agent, pending: Pending::new(state_dir), networks, sandboxes: Mutex::default() })
    }

    /// Answers one call.
    ///
    /// # Errors
    /// What Docker's user reads.
    pub fn call(&self, method: &str, body: &[u8]) -> Result<Value, String> {
        match method {
            "Plugin.Activate" => Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
            "NetworkDriver.GetCapabilities" => Ok(json!({"Scope": "local", "ConnectivityScope": "local"})),
            "NetworkDriver.CreateNetwork" => self.create_network(read(body)?),
            "NetworkDriver.DeleteNetwork" => self.delete_network(&read::<OfNetwork>(body)?),
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(read(body)?),
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(&read(body)?),
            "NetworkDriver.Join" => self.join(&read(body)?),
            "NetworkDriver.EndpointOperInfo" => Ok(json!({"Value": {}})),
            // The interface is taken away with the endpoint; ports are published with it.
            "NetworkDriver.Leave" => {
                lock(&self.sandboxes).remove(&read::<OfEndpoint>(body)?.endpoint);
                Ok(json!({}))
            }
            "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity"
            | "IpamDriver.ReleasePool" => Ok(json!({})),
            "IpamDriver.GetCapabilities" => Ok(json!({"RequiresMACAddress": false})),
            "IpamDriver.GetDefaultAddressSpaces" => {
                Ok(json!({"LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": SPACE}))
            }
            "IpamDriver.RequestPool" => self.request_pool(&read(body)?),
            "IpamDriver.RequestAddress" => self.request_address(&read(body)?),
            "IpamDriver.ReleaseAddress" => {
                // What is not said is forgotten within a minute.
                let _ = self.agent.release(read::<ReleaseAddress>(body)?.address);
                Ok(json!({}))
            }
            _ => Err(format!("{method} is not known here")),
        }
    }

    fn create_network(&self, asked: CreateNetwork) -> Result<Value, String> {
        let data = asked.v4.iter().chain(&asked.v6).flatten();
        let strange = |data: &&IpamData| data.address_space != SPACE;
        if let Some(other) = data.clone().find(strange) {
            let space = &other.address_space;
            return Err(format!(
                "addresses of {space:?} are not routed here: docker network create --ipam-driver with this driver's name"
            ));
        }
        let odd = |data: &&IpamData| {
            !data.aux_addresses.as_ref().is_none_or(BTreeMap::is_empty)
                || [true, false].into_iter().all(|v4| host(gateway(v4)) != data.gateway)
        };
        if data.clone().any(|data| odd(&data)) {
            return Err(
                "--gateway and --aux-address are not known here: the gateway is the node itself".into()
            );
        }
        let network = Network::read(&asked.options.unwrap_or_default())?;
        let added = lock(&self.networks).add(asked.network, network);
        added.map_err(|error| format!("remember the network: {error}"))?;
        Ok(json!({}))
    }

    fn delete_network(&self, asked: &OfNetwork) -> Result<Value, String> {
        let removed = lock(&self.networks).remove(&asked.network);
        if let Err(error) = removed {
            tracing::warn!(network = %asked.network, %error, "the network is gone, and not from the file");
        }
        // What Docker has lost of it in some accident goes now.
        let nobody = KeepRequest { network: asked.network.clone(), attachments: Vec::new() };
        let _ = self.agent.is_there().and_then(|()| self.agent.keep(&nobody));
        Ok(json!({}))
    }

    fn create_endpoint(&self, asked: CreateEndpoint) -> Result<Value, String> {
        let CreateEndpoint { network: id, endpoint, interface, options } = asked;
        let unknown = || format!("network {id} was not made with this driver's files: make it anew");
        let network = lock(&self.networks).get(&id).cloned().ok_or_else(unknown)?;
        let options = options.unwrap_or_default();
        let interface = interface.unwrap_or_default();
        let mac = (!interface.mac_address.is_empty()).then_some(interface.mac_address);
        let request = JoinRequest {
            name: Some(format!("{NAMESPACE}/{}", name_of(&endpoint))),
            attachment: attachment(&id, &endpoint),
            addresses: addresses(&interface.address, &interface.address_v6)?,
            mac: mac.clone(),
            mtu: network.mtu,
            labels: network.labels_of(&options)?,
            ports: published(&options)?,
            handover: true,
            ..JoinRequest::default()
        };
        self.agent.is_there().map_err(|trouble| words(&trouble))?;
        let joined = self.agent.join(&request).map_err(|trouble| {
            // It may come to be all the same, and Docker asks no more about it.
            if let Trouble::Away(_) = trouble {
                self.take_away(&request.attachment);
            }
            words(&trouble)
        })?;
        // Docker takes an answer for a second address where it has given one itself.
        let own = if mac.is_some() { None } else { Some(joined.mac) };
        let own = own.map(|mac| Interface { mac_address: mac, ..Interface::default() });
        Ok(json!({"Interface": own.unwrap_or_default()}))
    }

    fn delete_endpoint(&self, asked: &OfEndpoint) -> Result<Value, String> {
        // One that could not be joined is not left.
        lock(&self.sandboxes).remove(&asked.endpoint);
        self.take_away(&attachment(&asked.network, &asked.endpoint));
        Ok(json!({}))
    }

    /// Now, or by whoever is the agent later.
    fn take_away(&self, attachment: &Attachment) {
        let left = self.agent.is_there().and_then(|()| self.agent.leave(attachment));
        match left {
            Ok(()) => {}
            Err(trouble) => {
                let endpoint = &attachment.container;
                tracing::warn!(%endpoint, why = %words(&trouble), "to be taken away later");
                if let Err(error) = self.pending.note(attachment) {
                    tracing::error!(%endpoint, %error, "that it is to go cannot be noted");
                }
            }
        }
    }

    /// Docker moves the interface into the container, and gives it its addresses and
    /// these routes.
    fn join(&self, asked: &Join) -> Result<Value, String> {
        let attachment = attachment(&asked.network, &asked.endpoint);
        let mut sandboxes = lock(&self.sandboxes);
        if sandboxes.iter().any(|(endpoint, key)| *key == asked.sandbox && *endpoint != asked.endpoint) {
            return Err("a container has one network of this driver: all of them are reached by it".into());
        }
        sandboxes.insert(asked.endpoint.clone(), asked.sandbox.clone());
        drop(sandboxes);
        self.agent.is_there().map_err(|trouble| words(&trouble))?;
        let there = self.agent.look(&attachment).map_err(|trouble| words(&trouble))?;
        let gateway = |v4: bool| {
            let gateways = gateways(&there.addresses);
            gateways.into_iter().find(|gateway| gateway.is_ipv4() == v4)
        };
        let both = [true, false].map(gateway);
        let route = |gateway: &IpAddr| StaticRoute { destination: host(*gateway), route_type: 1 };
        let static_routes = both.iter().flatten().map(route).collect();
        let [gateway, gateway_v6] = both.map(|gateway| gateway.map_or_else(String::new, |at| at.to_string()));
        let interface_name = InterfaceName { src_name: attachment.interface, dst_prefix: "eth" };
        let joined =
            Joined { interface_name, gateway, gateway_v6, static_routes, disable_gateway_service: true };
        serde_json::to_value(joined).map_err(|error| error.to_string())
    }

    fn request_pool(&self, asked: &RequestPool) -> Result<Value, String> {
        if !asked.sub_pool.is_empty() {
            return Err("an --ip-range is not known here: the agent's pools may exclude networks".into());
        }
        let none = BTreeMap::new();
        let options = asked.options.as_ref().unwrap_or(&none);
        if let Some(key) = options.keys().find(|key| *key != "pool") {
            return Err(format!("ipam-opt {key} is not known: use pool=NAME"));
        }
        let wanted: Option<IpNet> = match asked.pool.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("--subnet {text:?} is no network"))?),
        };
        let pools = self.agent.pools().map_err(|trouble| words(&trouble))?;
        let (pool, network) = find(&pools, options.get("pool").map(String::as_str), wanted, asked.v6)?;
        // Docker asks for others for ever when a pool that it has not named has routes here.
        let shown = if wanted.is_some() || asked.v6 { network } else { Ipv4Net::default().into() };
        Ok(json!({
            "PoolID": format!("{}/{}", if asked.v6 { 6 } else { 4 }, pool.name),
            "Pool": shown,
            "Data": {GATEWAY: host(gateway(!asked.v6))},
        }))
    }

    fn request_address(&self, asked: &RequestAddress) -> Result<Value, String> {
        let foreign = || format!("pool {:?} is none of this driver's", asked.pool);
        let (family, pool) = asked.pool.split_once('/').ok_or_else(foreign)?;
        let address = match asked.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("{text:?} is no address"))?),
        };
        let request = AddressRequest { pool: Some(pool.to_owned()), address, ipv6: family == "6" };
        let end = Instant::now() + AGAIN;
        let address = loop {
            match self.agent.is_there().and_then(|()| self.agent.reserve(&request)) {
                Ok(address) => break address,
                // A container that is started again asks for the address it has just left;
                // an agent that is, answers soon.
                Err(trouble) if trouble.passes() && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(trouble) => return Err(words(&trouble)),
            }
        };
        Ok(json!({"Address": host(address)}))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is half done when a thread dies here.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attachment(network: &str, endpoint: &str) -> Attachment {
    Attachment {
        container: endpoint.to_owned(),
        // In the node's namespace until Docker moves it.
        interface: format!("ci{}", name_of(endpoint)),
        network: network.to_owned(),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the question cannot be understood: {error}"))
}

fn addresses(v4: &str, v6: &str) -> Result<Vec<IpAddr>, String> {
    let given = [v4, v6].into_iter().filter(|text| !text.is_empty());
    let parse = |text: &str| text.parse().map(|network: IpNet| network.addr());
    given.map(|text| parse(text).map_err(|_| format!("{text:?} is no address"))).collect()
}

fn published(options: &Options) -> Result<Vec<HostPort>, String> {
    let bindings = match options.get(PORTS) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(bindings) => Vec::<PortBinding>::deserialize(bindings),
    };
    ports::published(&bindings.map_err(|error| format!("the published ports: {error}"))?)
}

/// The pool that has a network, or the first of those that may be meant that has one of
/// the family.
fn find<'a>(
    pools: &'a [Pool],
    name: Option<&str>,
    wanted: Option<IpNet>,
    v6: bool,
) -> Result<(&'a Pool, IpNet), String> {
    let meant = pools.iter().filter(|pool| name.is_none_or(|name| pool.name == name));
    let networks = meant.flat_map(|pool| pool.networks.iter().map(move |network| (pool, *network)));
    let fits = |(_, network): &(&Pool, IpNet)| {
        network.addr().is_ipv4() != v6 && wanted.is_none_or(|wanted| wanted.trunc() == network.trunc())
    };
    let found = networks.clone().find(fits);
    if let (Some((pool, network)), Some(_)) = (found, wanted)
        && pool.networks.iter().filter(|other| other.addr().is_ipv4() != v6).count() > 1
    {
        return Err(format!(
            "--subnet {network}: pool {} has other networks beside: --ipam-opt pool={0} takes addresses of all, \
             or give it a pool of its own",
            pool.name
        ));
    }
    found.ok_or_else(|| {
        let all: Vec<String> = pools
            .iter()
            .flat_map(|pool| pool.networks.iter().map(|network| format!("{network} of {}", pool.name)))
            .collect();
        format!(
            "no such pool of {}: the agent has {}",
            if v6 { "IPv6" } else { "IPv4" },
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        )
    })
}

/// With the prefix of one host.
fn host(address: IpAddr) -> String {
    IpNet::from(address).to_string()
}

fn words(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Away(message) => format!("{message}: start the agent, or see its log"),
        Trouble::Said { message, remedy, .. } if remedy.is_empty() => message.clone(),
        Trouble::Said { message, remedy, .. } => format!("{message}: {remedy}"),
    }
}
