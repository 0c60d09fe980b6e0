//! Does the namespace take what comes to its addresses yet?
//!
//! The kernel gives an IPv6 address of an interface that comes up away as a source a
//! moment before it has the address's own route. Who is running already and asks for
//! the gateway in that moment loses the answer, and asks again after a second: so there
//! is no way out before the addresses are settled.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// One line a route: destination, its prefix's length, six fields more of hexadecimal
/// digits, flags, device (`net/ipv6/route.c`, `rt6_info_route`).
const ROUTES: &str = "/proc/thread-self/net/ipv6_route";
const FLAGS: usize = 8;
/// `RTF_LOCAL` of linux/ipv6_route.h.
const LOCAL: u32 = 0x8000_0000;

const PAUSE: Duration = Duration::from_micros(500);
/// It is done within a millisecond; whatever keeps it from that keeps nobody out.
const PATIENCE: Duration = Duration::from_millis(200);

/// To be called in the namespace.
///
/// # Errors
/// When its routes cannot be read.
pub async fn settled(addresses: &[IpAddr]) -> io::Result<()> {
    let wanted: Vec<Ipv6Addr> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
        .collect();
    let begun = Instant::now();
    while !wanted.is_empty() && begun.elapsed() < PATIENCE {
        let routes = fs::read_to_string(ROUTES)?;
        if wanted.iter().all(|address| is_local(&routes, *address)) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn is_local(routes: &str, address: Ipv6Addr) -> bool {
    let start = format!("{:032x} 80 ", u128::from(address));
    let mut own = routes.lines().filter(|line| line.starts_with(&start));
    own.any(|line| {
        let flags = line.split_whitespace().nth(FLAGS);
        flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & LOCAL != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_route_of_its_own_is_settled() {
        let zero = "0".repeat(32);
        let line = |address: &str, flags: &str| {
            format!("{address} 80 {zero} 00 {zero} 00000000 00000002 00000000 {flags}       lo\n")
        };
        let (ours, other) = ("fd00001002440000000000000000000b", "fd00001002440000000000000000000c");
        let routes = line(other, "80200001") + &line(ours, "00000001");
        let asked = |text: &str| is_local(&routes, text.parse().unwrap());
        assert!(asked("fd00:10:244::c"));
        assert!(!asked("fd00:10:244::b"), "a neighbour's");
        assert!(!asked("fd00:10:244::d"));
    }

    #[tokio::test]
    async fn loopback_is_settled_and_what_nobody_has_keeps_nobody() {
        let begun = Instant::now();
        settled(&[Ipv6Addr::LOCALHOST.into()]).await.unwrap();
        assert!(begun.elapsed() < PATIENCE);
        settled(&["2001:db8::77".parse().unwrap()]).await.unwrap();
        assert!(begun.elapsed() >= PATIENCE);
    }
}
