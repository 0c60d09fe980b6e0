//! Which source ports does a flow try whose own is taken? The same on every
//! node and in every model.

use crate::Port;

/// Ports that are tried, the flow's own first: with three of four taken, 99 %
/// of flows find one.
pub const TRIES: u32 = 16;
/// Ports below are for servers.
pub const LOWEST: u32 = 1024;
const PORTS: u32 = 65_536 - LOWEST;

/// The port after `attempt` others, by the flow's hash. An odd stride meets
/// every port.
#[inline(always)]
pub fn port(hash: u64, attempt: u32) -> Port {
    let hash = hash as u32;
    let step = hash.wrapping_add(attempt.wrapping_mul(hash >> 16 | 1));
    Port::new((LOWEST + step % PORTS) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_differ_and_leave_servers_their_ports() {
        for hash in [0, 1, 0xdead_beef, u64::MAX] {
            let ports: [Port; TRIES as usize] = core::array::from_fn(|attempt| port(hash, attempt as u32));
            for (index, tried) in ports.iter().enumerate() {
                assert!(u32::from(tried.get()) >= LOWEST);
                assert!(!ports[..index].contains(tried), "{hash:x}: {ports:?}");
            }
        }
    }
}
