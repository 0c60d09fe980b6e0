//! Can an interface's driver run XDP programs itself? The kernel says since
//! Linux 6.3, without one being put there.

use super::message::{Message, attribute_of, half};

const NETLINK_GENERIC: libc::c_int = 16;
/// The family that knows the others (`linux/genetlink.h`).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `linux/netdev.h`.
const NETDEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const XDP_BASIC: u64 = 1;
/// Length of `genlmsghdr`.
const GENERIC: usize = 4;

/// `None` where the kernel does not say.
pub fn runs_xdp(ifindex: u32) -> Option<bool> {
    let family = ask(CONTROLLER, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let id = half(attribute_of(&family, FAMILY_ID)?, 0);
    let device = ask(id, NETDEV_GET, IFINDEX, &ifindex.to_ne_bytes())?;
    let features = attribute_of(&device, XDP_FEATURES)?.try_into().ok().map(u64::from_ne_bytes)?;
    Some(features & XDP_BASIC != 0)
}

/// The attributes of the one answer.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> Option<Vec<u8>> {
    let mut request = Message::new(family, 0, &[command, 1, 0, 0]);
    request.attribute(kind, value);
    let answer = request.send(NETLINK_GENERIC).ok()?.into_iter().next()?;
    answer.get(GENERIC..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_runs_none() {
        assert_eq!(runs_xdp(1), Some(false));
        assert_eq!(runs_xdp(u32::MAX), None);
    }
}
