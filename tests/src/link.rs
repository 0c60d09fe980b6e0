//! Links between namespaces: pairs, a switch, addresses and routes, by `ip`.

use std::net::IpAddr;

use crate::{netns::Netns, offload, xdp::Pass};

/// A veth pair with one end in each namespace, both up.
pub fn pair(left: &Netns, left_name: &str, right: &Netns, right_name: &str) {
    // Both ends are born in their namespaces, so nothing shows up on the host.
    left.ip(&format!(
        "link add {left_name} type veth peer name {right_name} netns {}",
        right.path().display()
    ));
    left.ip(&format!("link set {left_name} up"));
    right.ip(&format!("link set {right_name} up"));
}

pub fn address(netns: &Netns, link: &str, address: &str) {
    // An address that is not yet known to be free cannot be used.
    let nodad = if address.contains(':') { "nodad" } else { "" };
    netns.ip(&format!("address add {address} dev {link} {nodad}"));
}

/// The same for the link-local addresses of links that `netns` will have: a
/// router has no other to ask for its neighbours with.
pub fn no_address_detection(netns: &Netns) {
    netns.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
}

pub fn mtu(netns: &Netns, link: &str, mtu: u32) {
    netns.ip(&format!("link set {link} mtu {mtu}"));
}

/// The hardware address of a link.
pub fn mac(netns: &Netns, link: &str) -> [u8; 6] {
    let shown = netns.ip(&format!("link show {link}"));
    let text = shown.split_whitespace().skip_while(|&word| word != "link/ether").nth(1);
    let bytes = text.into_iter().flat_map(|text| text.split(':'));
    let bytes: Option<Vec<u8>> = bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or_else(|| panic!("no address of {link}: {shown}"))
}

/// What `netns` has learned about the path to `destination`, if anything.
pub fn path_mtu(netns: &Netns, destination: IpAddr) -> Option<u32> {
    let route = netns.ip(&format!("route get {destination}"));
    let mut words = route.split_whitespace().skip_while(|&word| word != "mtu").skip(1);
    words.next()?.parse().ok()
}

pub fn route(netns: &Netns, destination: &str, via: &str) {
    let family = if destination.contains(':') || via.contains(':') { "-6" } else { "-4" };
    netns.ip(&format!("{family} route replace {destination} {via}"));
}

/// A bridge in its own namespace, as the cable between hosts.
pub struct Switch {
    taking_xdp: Vec<Pass>,
    netns: Netns,
    ports: u32,
}

impl Switch {
    pub fn new() -> Self {
        let netns = Netns::new();
        netns.ip("link add sw0 type bridge");
        netns.ip("link set sw0 up");
        Self { taking_xdp: Vec::new(), netns, ports: 0 }
    }

    /// Plugs `netns` in: its end is called `name` and gets `address`.
    pub fn plug(&mut self, netns: &Netns, name: &str, address: impl Into<IpAddr>, length: u8) {
        let port = format!("p{}", self.ports);
        self.ports += 1;
        pair(netns, name, &self.netns, &port);
        self.netns.ip(&format!("link set {port} master sw0"));
        self::address(netns, name, &format!("{}/{length}", address.into()));
    }

    /// From now on the ports that are there take what XDP programs send, and
    /// send frames as a wire would.
    pub fn take_xdp(&mut self) {
        let ports = (0..self.ports).map(|port| format!("p{port}"));
        self.taking_xdp = ports
            .map(|port| {
                offload::off(&self.netns, &port);
                Pass::at(&self.netns, &port)
            })
            .collect();
    }

    /// Of all that is plugged in so far, as the switch sees it.
    pub fn mtu(&self, mtu: u32) {
        (0..self.ports).for_each(|port| self::mtu(&self.netns, &format!("p{port}"), mtu));
        self::mtu(&self.netns, "sw0", mtu);
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}
