//! The rules of kube-proxy's nftables mode (KEP-3866): one lookup finds the service,
//! another one the endpoint.

use std::fmt::Write;

use super::ServicePort;
use crate::routed::NETWORK;

const TABLE: &str = "ip kube-proxy";

/// What stands once, however many services there are.
const FRAME: &str = "
  set cluster-ips { type ipv4_addr; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain reject-chain { reject; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
  }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
  }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain filter-forward {
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }
  chain nat-output {
    type nat hook output priority -100; policy accept;
    jump services
  }
  chain nat-postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    jump masquerading
  }
";

/// All of it, from nothing.
pub fn all(services: &[ServicePort]) -> String {
    let mut text = format!("table {TABLE} {{\n");
    for service in services {
        for (number, chain) in endpoints(service).enumerate() {
            let _ = writeln!(text, "  chain endpoint-{}-{number} {{\n{chain}  }}", service.name);
        }
        let _ = writeln!(text, "  chain service-{} {{\n{}  }}", service.name, choice(service));
    }
    text.push_str(
        "  map service-ips {\n    type ipv4_addr . inet_proto . inet_service : verdict\n    elements = {\n",
    );
    for ServicePort { name, address, port, .. } in services {
        let _ = writeln!(text, "      {address} . tcp . {port} : goto service-{name},");
    }
    text + "    }\n  }\n" + FRAME + "}\n"
}

/// What is written when one service has changed: its own chains.
pub fn change(service: &ServicePort) -> String {
    let name = &service.name;
    let mut text = String::new();
    for (number, chain) in endpoints(service).enumerate() {
        let _ = writeln!(
            text,
            "add chain {TABLE} endpoint-{name}-{number}\nflush chain {TABLE} endpoint-{name}-{number}"
        );
        for rule in chain.lines() {
            let _ = writeln!(text, "add rule {TABLE} endpoint-{name}-{number} {}", rule.trim());
        }
    }
    let _ = writeln!(text, "flush chain {TABLE} service-{name}");
    for rule in choice(service).lines() {
        let _ = writeln!(text, "add rule {TABLE} service-{name} {}", rule.trim());
    }
    text
}

/// The rules of each endpoint's chain.
fn endpoints(service: &ServicePort) -> impl Iterator<Item = String> {
    service.endpoints.iter().map(|endpoint| {
        let address = endpoint.ip();
        format!("    ip saddr {address} jump mark-for-masquerade\n    meta l4proto tcp dnat to {endpoint}\n")
    })
}

/// The rules of the service's chain.
fn choice(service: &ServicePort) -> String {
    let ServicePort { name, address, port, endpoints } = service;
    let chains = (0..endpoints.len()).map(|number| format!("{number} : goto endpoint-{name}-{number}"));
    format!(
        "    ip daddr {address} tcp dport {port} ip saddr != {NETWORK} jump mark-for-masquerade\n    \
         numgen random mod {} vmap {{ {} }}\n",
        endpoints.len(),
        chains.collect::<Vec<_>>().join(", ")
    )
}
