//! Which addresses can one have of a pool, and which comes next?

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use super::Pool;

/// What one can have of a pool of one family.
#[derive(Debug, Default)]
pub struct Supply {
    /// In order; numbers of addresses.
    ranges: Vec<RangeInclusive<u128>>,
    /// The last that was given: the next one comes after it, so that an address
    /// rests as long as others last.
    last: u128,
}

impl Supply {
    pub fn new(pool: &Pool, v4: bool, seed: u64) -> Self {
        let of_family = |networks: &[IpNet]| -> Vec<IpNet> {
            networks.iter().filter(|network| network.addr().is_ipv4() == v4).copied().collect()
        };
        let mut ranges: Vec<RangeInclusive<u128>> = IpNet::aggregate(&of_family(&pool.networks))
            .into_iter()
            .filter_map(|network| usable(&network))
            .collect();
        for excluded in of_family(&pool.exclude) {
            let (first, last) = (number(excluded.network()), number(excluded.broadcast()));
            ranges = ranges.into_iter().flat_map(|range| without(&range, first, last)).collect();
        }
        let size =
            ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.end() - range.start() + 1));
        let mut skip = u128::from(seed).checked_rem(size).unwrap_or(0);
        let mut last = 0;
        for range in &ranges {
            let length = range.end() - range.start() + 1;
            if skip < length {
                last = range.start() + skip;
                break;
            }
            skip -= length;
        }
        Self { ranges, last }
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn has(&self, address: IpAddr) -> bool {
        let v4 = self.ranges.first().is_some_and(|range| *range.end() <= u128::from(u32::MAX));
        v4 == address.is_ipv4() && self.ranges.iter().any(|range| range.contains(&number(address)))
    }

    /// The next one that is free, if any of them is; at most `held` are not.
    pub fn next(&mut self, v4: bool, held: usize, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut at = self.last;
        for _ in 0..=held {
            at = self.after(at)?;
            let address = address(at, v4);
            if is_free(address) {
                self.last = at;
                return Some(address);
            }
        }
        None
    }

    /// The one that follows, and the first after the last.
    fn after(&self, number: u128) -> Option<u128> {
        let within = self.ranges.iter().find(|range| *range.end() > number);
        match within {
            Some(range) => Some(number.saturating_add(1).max(*range.start())),
            None => self.ranges.first().map(|range| *range.start()),
        }
    }
}

/// But for a network's own address and the one for all of it, where it has such.
fn usable(network: &IpNet) -> Option<RangeInclusive<u128>> {
    let (first, last) = (number(network.network()), number(network.broadcast()));
    let range = match network {
        IpNet::V4(v4) if v4.prefix_len() < 31 => first + 1..=last - 1,
        // RFC 4291, 2.6.1: the first is the routers'.
        IpNet::V6(v6) if v6.prefix_len() < 127 => first + 1..=last,
        _ => first..=last,
    };
    (!range.is_empty()).then_some(range)
}

/// What is left of a range without the numbers from `first` to `last`.
fn without(range: &RangeInclusive<u128>, first: u128, last: u128) -> Vec<RangeInclusive<u128>> {
    let (start, end) = (*range.start(), *range.end());
    let before = (first > start).then(|| start..=end.min(first.saturating_sub(1)));
    let after = (last < end).then(|| start.max(last.saturating_add(1))..=end);
    before.into_iter().chain(after).collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(number as u32).into() } else { Ipv6Addr::from_bits(number).into() }
}
