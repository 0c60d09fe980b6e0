//! Do the loaded programs agree with the maps? A packet to a frontend, judged
//! by the program at the uplink without effect, must come to its service.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use causeway_schema::{FrontendKey, Port, V4, Verdict};

use super::agent::Agent;
use crate::{
    event::Protocol,
    frame,
    plan::{Family, describe},
};

/// Of TEST-NET-1 (RFC 5737): nobody's address.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl Agent {
    /// Asks about one frontend, another one each time.
    pub fn probe(&mut self) -> Result<(), String> {
        let image = self.planner.image();
        let served = |key: &&FrontendKey<V4>| key.port != Port::NONE;
        let count = image.frontends.len().max(1);
        let turn = self.probes % count;
        self.probes = self.probes.wrapping_add(1);
        let Some(key) = image.frontends.keys().filter(served).nth(turn / 2) else { return Ok(()) };
        let (key, service) = (*key, image.frontends.get(key).map(|row| row.service));
        let Some(dataplane) = &mut self.dataplane else { return Ok(()) };
        let Some(protocol) = Protocol::from_number(key.protocol) else { return Ok(()) };
        let IpAddr::V4(address) = key.addr.to_ip() else { return Ok(()) };
        let destination = SocketAddrV4::new(address, key.port.get());
        let port = 1024 + (self.probes % 60_000) as u16;
        let mut packet = frame::between(SocketAddrV4::new(NOBODY, port), destination, protocol, frame::SYN);
        frame::readdress(&mut packet, self.uplink.mac);

        let ifindex = self.uplink.ifindex;
        let program = dataplane.program_at(ifindex).map_err(|error| error.to_string())?;
        let Some(program) = program else { return Err("no program is at the uplink".into()) };
        let traced = dataplane.flows.trace(&program, ifindex, &packet);
        let (_, record, _) = traced.map_err(|error| format!("run the program at the uplink: {error}"))?;
        let inconsistent = record.verdict == Verdict::DropInconsistent as u32;
        if Some(record.service) != service || inconsistent {
            let frontend = describe::frontend(&key);
            return Err(format!("the program at the uplink does not serve {frontend} as the maps say"));
        }
        Ok(())
    }
}
