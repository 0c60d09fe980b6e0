//! Which address does a container get? One of a pool that nobody has, and that
//! nobody had a moment ago. Pure: who has which address is told, so that there
//! is nothing to be leaked.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How long an address rests after the kernel's maps were read back without it:
/// what was sent to the one who had it has arrived or is lost by then.
pub const REST: Duration = Duration::from_secs(5);
/// The pool of networks that were given without a name.
pub const DEFAULT_POOL: &str = "default";

/// Networks that containers of this node have addresses of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: String,
    /// Of either family; a container gets an address of each.
    pub networks: Vec<IpNet>,
    /// Parts of them that are somebody else's.
    #[serde(default)]
    pub exclude: Vec<IpNet>,
}

impl Pool {
    /// Of networks alone.
    pub fn of(networks: Vec<IpNet>) -> Self {
        Self { name: DEFAULT_POOL.into(), networks, exclude: Vec::new() }
    }
}

/// Whether each has a name of its own, and no address is in two.
///
/// # Errors
/// Names the pool, and what is wrong with it.
pub fn check(pools: &[Pool]) -> anyhow::Result<()> {
    for (index, pool) in pools.iter().enumerate() {
        anyhow::ensure!(!pool.name.is_empty(), "one has no name");
        anyhow::ensure!(!pool.networks.is_empty(), "{}: networks: it has none", pool.name);
        for other in &pools[..index] {
            anyhow::ensure!(other.name != pool.name, "{} is there twice", pool.name);
            for network in &pool.networks {
                let overlaps = |held: &&IpNet| held.contains(network) || network.contains(*held);
                if let Some(held) = other.networks.iter().find(overlaps) {
                    anyhow::bail!("{}: networks: {network} overlaps {held} of {}", pool.name, other.name);
                }
            }
        }
    }
    Ok(())
}

/// Why somebody gets no address, or not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no pool of addresses: give the agent --pool NETWORK, or the node a pod network (spec.podCIDRs of its Node)"
    )]
    NoPool,
    #[error("pool {0:?} is not known; there are: {1}")]
    UnknownPool(String, String),
    #[error("pool {0} has no address to give: all of its networks are excluded")]
    Empty(String),
    #[error("{0} is not to be given: it is in no pool's networks, or excluded")]
    Outside(IpAddr),
    #[error("{0} is asked for, and an address of the same family")]
    Twice(IpAddr),
    #[error("{0} belongs to {1}")]
    Taken(IpAddr, String),
    #[error("{0} was somebody's a moment ago: try again in {REST:?}")]
    Resting(IpAddr),
    #[error("pool {pool} has no {family} address left: {taken} taken, {resting} free again soon")]
    Exhausted { pool: String, family: &'static str, taken: usize, resting: usize },
}

impl Refusal {
    /// It may be otherwise when the same is asked again later.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Resting(_) | Self::Exhausted { .. } | Self::NoPool)
    }
}

/// Who has which address, and what they are called.
pub type Holders<'a> = BTreeMap<IpAddr, &'a str>;

/// What one can have of a pool of one family.
#[derive(Debug, Default)]
struct Supply {
    /// In order; numbers of addresses.
    ranges: Vec<RangeInclusive<u128>>,
    /// The last that was given: the next one comes after it, so that an address
    /// rests as long as others last.
    last: u128,
}

#[derive(Debug, Default)]
struct Stock {
    pool: Pool,
    v4: Supply,
    v6: Supply,
}

#[derive(Debug)]
pub struct Ipam {
    seed: u64,
    stocks: Vec<Stock>,
    /// Freed; since when the maps are known to be without them.
    resting: BTreeMap<IpAddr, Option<Duration>>,
}

impl Ipam {
    /// `seed` says where to begin: an agent that has just started does not know who had
    /// what a moment ago.
    pub fn new(seed: u64) -> Self {
        Self { seed, stocks: Vec::new(), resting: BTreeMap::new() }
    }

    /// Takes other pools; what was given stays with who has it.
    pub fn set_pools(&mut self, pools: &[Pool]) {
        if self.stocks.iter().map(|stock| &stock.pool).eq(pools) {
            return;
        }
        let stock = |pool: &Pool| Stock {
            pool: pool.clone(),
            v4: Supply::new(pool, true, self.seed),
            v6: Supply::new(pool, false, self.seed),
        };
        self.stocks = pools.iter().map(stock).collect();
    }

    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.stocks.iter().map(|stock| &stock.pool)
    }

    /// One address of each family that the pool has, IPv4 first; those `asked` for
    /// among them.
    ///
    /// # Errors
    /// Why not.
    pub fn choose(
        &mut self,
        pool: Option<&str>,
        asked: &[IpAddr],
        holders: &Holders,
    ) -> Result<Vec<IpAddr>, Refusal> {
        for (index, address) in asked.iter().enumerate() {
            if asked[..index].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(Refusal::Twice(*address));
            }
            if let Some(holder) = holders.get(address) {
                return Err(Refusal::Taken(*address, (*holder).to_owned()));
            }
            // It may come back at once to who asks for it, but not before it has gone.
            if self.resting.get(address) == Some(&None) {
                return Err(Refusal::Resting(*address));
            }
        }
        let stock = self.stock(pool, asked)?;
        let Self { stocks, resting, .. } = self;
        let stock = &mut stocks[stock];
        let mut chosen = Vec::new();
        for (supply, v4) in [(&mut stock.v4, true), (&mut stock.v6, false)] {
            if let Some(address) = asked.iter().find(|address| address.is_ipv4() == v4) {
                chosen.push(*address);
            } else if !supply.ranges.is_empty() {
                let is_free = |address| !holders.contains_key(&address) && !resting.contains_key(&address);
                let found = supply.next(v4, holders.len() + resting.len(), is_free);
                chosen.push(found.ok_or_else(|| Refusal::Exhausted {
                    pool: stock.pool.name.clone(),
                    family: if v4 { "IPv4" } else { "IPv6" },
                    taken: holders.keys().filter(|address| supply.has(**address)).count(),
                    resting: resting.keys().filter(|address| supply.has(**address)).count(),
                })?);
            }
        }
        if chosen.is_empty() {
            return Err(Refusal::Empty(stock.pool.name.clone()));
        }
        resting.retain(|address, _| !chosen.contains(address));
        Ok(chosen)
    }

    /// Which pool is meant: the one named, the one with the addresses asked for, or
    /// the first.
    fn stock(&self, pool: Option<&str>, asked: &[IpAddr]) -> Result<usize, Refusal> {
        if self.stocks.is_empty() {
            return Err(Refusal::NoPool);
        }
        let named = |stock: &&Stock| pool.is_none_or(|name| stock.pool.name == name);
        if let Some(name) = pool
            && !self.stocks.iter().any(|stock| named(&stock))
        {
            let names: Vec<&str> = self.pools().map(|pool| pool.name.as_str()).collect();
            return Err(Refusal::UnknownPool(name.to_owned(), names.join(", ")));
        }
        let has = |stock: &Stock, address: &IpAddr| stock.v4.has(*address) || stock.v6.has(*address);
        let fits = |stock: &Stock| asked.iter().all(|address| has(stock, address));
        let found = self.stocks.iter().position(|stock| named(&stock) && fits(stock));
        let odd = |address: &&IpAddr| !self.stocks.iter().any(|stock| named(&stock) && has(stock, address));
        let odd = asked.iter().find(odd).or(asked.first());
        found.ok_or_else(|| odd.map_or(Refusal::NoPool, |address| Refusal::Outside(*address)))
    }

    /// Nobody has these any more.
    pub fn free(&mut self, addresses: &[IpAddr]) {
        self.resting.extend(addresses.iter().map(|address| (*address, None)));
    }

    /// The maps were read back as wanted. `now` counts from any fixed point.
    pub fn read_back(&mut self, now: Duration) {
        self.resting.retain(|_, since| since.is_none_or(|since| now < since + REST));
        for since in self.resting.values_mut() {
            since.get_or_insert(now);
        }
    }
}

impl Supply {
    fn new(pool: &Pool, v4: bool, seed: u64) -> Self {
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

    fn has(&self, address: IpAddr) -> bool {
        let v4 = self.ranges.first().is_some_and(|range| *range.end() <= u128::from(u32::MAX));
        v4 == address.is_ipv4() && self.ranges.iter().any(|range| range.contains(&number(address)))
    }

    /// The next one that is free, if any of them is; at most `held` are not.
    fn next(&mut self, v4: bool, held: usize, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
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

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
