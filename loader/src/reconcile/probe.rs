//! Do the loaded programs agree with the maps? A packet to a frontend, judged
//! by the program at the uplink without effect, must come to its service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_schema::{FrontendKey, Port, Verdict};

use super::{agent::Agent, plane::Plane};
use crate::{
    attach::Uplink,
    event::Protocol,
    frame,
    kernel::bpf::Dataplane,
    plan::{Family, describe},
};

/// Of TEST-NET-1 (RFC 5737) and of the documentation prefix (RFC 3849):
/// nobody's addresses.
const NOBODY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

impl Agent {
    /// Asks about one frontend of each family, another one each time.
    pub fn probe(&mut self) -> Result<(), String> {
        let Some(dataplane) = &mut self.dataplane else { return Ok(()) };
        probe(&mut self.v4, dataplane, &self.uplink)?;
        probe(&mut self.v6, dataplane, &self.uplink)
    }
}

fn probe<A: Family>(plane: &mut Plane<A>, dataplane: &mut Dataplane, uplink: &Uplink) -> Result<(), String> {
    let image = plane.planner.image();
    let served = |key: &&FrontendKey<A>| key.port != Port::NONE;
    let count = image.frontends.len().max(1);
    let turn = plane.probes % count;
    plane.probes = plane.probes.wrapping_add(1);
    let Some(key) = image.frontends.keys().filter(served).nth(turn / 2) else { return Ok(()) };
    let (key, service) = (*key, image.frontends.get(key).map(|row| row.service));
    let Some(protocol) = Protocol::from_number(key.protocol) else { return Ok(()) };
    let destination = SocketAddr::new(key.addr.to_ip(), key.port.get());
    let nobody = if destination.is_ipv4() { IpAddr::V4(NOBODY.0) } else { IpAddr::V6(NOBODY.1) };
    let port = 1024 + (plane.probes % 60_000) as u16;
    let Some(mut packet) = frame::between(SocketAddr::new(nobody, port), destination, protocol, frame::SYN)
    else {
        return Ok(());
    };
    frame::readdress(&mut packet, uplink.mac);

    let program = dataplane.program_at(uplink.ifindex).map_err(|error| error.to_string())?;
    let Some(program) = program else { return Err("no program is at the uplink".into()) };
    let traced = dataplane.tracer.trace(&program, uplink.ifindex, &packet);
    let (_, record, _) = traced.map_err(|error| format!("run the program at the uplink: {error}"))?;
    let inconsistent = record.verdict == Verdict::DropInconsistent as u32;
    if Some(record.service) != service || inconsistent {
        let frontend = describe::frontend(&key);
        return Err(format!("the program at the uplink does not serve {frontend} as the maps say"));
    }
    Ok(())
}
