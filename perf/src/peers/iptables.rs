//! The rules of kube-proxy's iptables mode: a chain that every new connection walks,
//! a rule for each service, a chain for each service and each endpoint.

use std::fmt::Write;

use super::ServicePort;
use crate::routed::NETWORK;

/// What stands once, however many services there are.
const FRAME: &str = "*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// All of it, from nothing.
pub fn all(services: &[ServicePort]) -> String {
    let mut text = FRAME.to_owned();
    services.iter().for_each(|service| declare(&mut text, service));
    services.iter().for_each(|service| dispatch(&mut text, service));
    services.iter().for_each(|service| chains(&mut text, service));
    text + "COMMIT\n"
}

/// What is written when one service has changed: its own chains, and the chain of
/// all services anew.
pub fn change(services: &[ServicePort], index: usize) -> String {
    let mut text = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
    declare(&mut text, &services[index]);
    services.iter().for_each(|service| dispatch(&mut text, service));
    chains(&mut text, &services[index]);
    text + "COMMIT\n"
}

fn declare(text: &mut String, service: &ServicePort) {
    let name = &service.name;
    let _ = writeln!(text, ":KUBE-SVC-{name} - [0:0]");
    for number in 0..service.endpoints.len() {
        let _ = writeln!(text, ":KUBE-SEP-{name}{number} - [0:0]");
    }
}

fn dispatch(text: &mut String, service: &ServicePort) {
    let ServicePort { name, address, port, .. } = service;
    let _ = writeln!(
        text,
        "-A KUBE-SERVICES -d {address}/32 -p tcp -m comment --comment \"default/{name}:tcp cluster IP\" -m tcp \
         --dport {port} -j KUBE-SVC-{name}"
    );
}

fn chains(text: &mut String, service: &ServicePort) {
    let ServicePort { name, address, port, endpoints } = service;
    let comment = format!("-m comment --comment \"default/{name}:tcp");
    let _ = writeln!(
        text,
        "-A KUBE-SVC-{name} ! -s {NETWORK} -d {address}/32 -p tcp {comment} cluster IP\" -m tcp --dport {port} -j \
         KUBE-MARK-MASQ"
    );
    for (number, endpoint) in endpoints.iter().enumerate() {
        let left = endpoints.len() - number;
        let share = match left {
            1 => String::new(),
            _ => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
        };
        let _ = writeln!(
            text,
            "-A KUBE-SVC-{name} {comment} -> {endpoint}\"{share} -j KUBE-SEP-{name}{number}\n\
             -A KUBE-SEP-{name}{number} -s {}/32 {comment}\" -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{name}{number} -p tcp {comment}\" -m tcp -j DNAT --to-destination {endpoint}",
            endpoint.ip()
        );
    }
}
