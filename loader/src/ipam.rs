//! Which address does a container get? One of a pool that nobody has, and that
//! nobody had a moment ago. Pure: who has which address is told, so that there
//! is nothing to be leaked.

mod supply;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use supply::Supply;

/// How long an address rests after the kernel's maps were read back without it:
/// what was sent to the one who had it has arrived or is lost by then.
pub const REST: Duration = Duration::from_secs(5);
/// How long who asked for an address may take to come with it.
const RESERVED: Duration = Duration::from_secs(60);
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

/// An address for somebody who is not there yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRequest {
    /// The first that has addresses of the family unless given.
    pub pool: Option<String>,
    /// A certain one; else the next of the family.
    pub address: Option<IpAddr>,
    #[serde(default)]
    pub ipv6: bool,
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
    /// Given to who is about to come with it, until when. Should the agent die in
    /// between, who comes finds it free, or is refused.
    reserved: BTreeMap<IpAddr, Duration>,
}

impl Ipam {
    /// `seed` says where to begin: an agent that has just started does not know who had
    /// what a moment ago.
    pub fn new(seed: u64) -> Self {
        Self { seed, stocks: Vec::new(), resting: BTreeMap::new(), reserved: BTreeMap::new() }
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
        self.choose_of(&[true, false], pool, asked, holders)
    }

    /// One address of one family, for who is to [claim](Self::claim) it soon.
    ///
    /// # Errors
    /// Why not.
    pub fn reserve(
        &mut self,
        request: &AddressRequest,
        holders: &Holders,
        now: Duration,
    ) -> Result<IpAddr, Refusal> {
        self.reserved.retain(|_, until| now < *until);
        let asked: Vec<IpAddr> = request.address.into_iter().collect();
        let v4 = request.address.map_or(!request.ipv6, |address| address.is_ipv4());
        let pool = request.pool.as_deref();
        let chosen = self.choose_of(&[v4], pool, &asked, holders)?;
        self.reserved.extend(chosen.iter().map(|address| (*address, now + RESERVED)));
        let none = || Refusal::Empty(pool.unwrap_or(DEFAULT_POOL).to_owned());
        chosen.into_iter().next().ok_or_else(none)
    }

    /// It is not needed after all.
    pub fn release(&mut self, address: IpAddr) {
        self.reserved.remove(&address);
    }

    /// Takes what was reserved; what nobody has may be taken, too.
    ///
    /// # Errors
    /// Why not.
    pub fn claim(&mut self, addresses: &[IpAddr], holders: &Holders) -> Result<(), Refusal> {
        self.check(addresses, holders)?;
        for address in addresses {
            self.reserved.remove(address);
            self.resting.remove(address);
        }
        Ok(())
    }

    /// Whether nobody has any of them, or had a moment ago.
    fn check(&self, addresses: &[IpAddr], holders: &Holders) -> Result<(), Refusal> {
        for address in addresses {
            if let Some(holder) = holders.get(address) {
                return Err(Refusal::Taken(*address, (*holder).to_owned()));
            }
            // It may come back at once to who asks for it, but not before it has gone.
            if self.resting.get(address) == Some(&None) {
                return Err(Refusal::Resting(*address));
            }
        }
        Ok(())
    }

    fn choose_of(
        &mut self,
        families: &[bool],
        pool: Option<&str>,
        asked: &[IpAddr],
        holders: &Holders,
    ) -> Result<Vec<IpAddr>, Refusal> {
        for (index, address) in asked.iter().enumerate() {
            if asked[..index].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(Refusal::Twice(*address));
            }
            if self.reserved.contains_key(address) {
                return Err(Refusal::Taken(*address, "a container that is about to come".to_owned()));
            }
        }
        self.check(asked, holders)?;
        let stock = self.stock(pool, asked)?;
        let Self { stocks, resting, reserved, .. } = self;
        let stock = &mut stocks[stock];
        let mut chosen = Vec::new();
        for &v4 in families {
            let supply = if v4 { &mut stock.v4 } else { &mut stock.v6 };
            if let Some(address) = asked.iter().find(|address| address.is_ipv4() == v4) {
                chosen.push(*address);
            } else if !supply.is_empty() {
                let is_free = |address| {
                    !holders.contains_key(&address)
                        && !resting.contains_key(&address)
                        && !reserved.contains_key(&address)
                };
                let found = supply.next(v4, holders.len() + resting.len() + reserved.len(), is_free);
                chosen.push(found.ok_or_else(|| Refusal::Exhausted {
                    pool: stock.pool.name.clone(),
                    family: if v4 { "IPv4" } else { "IPv6" },
                    taken:
                        holders.keys().chain(reserved.keys()).filter(|address| supply.has(**address)).count(),
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
        self.reserved.retain(|_, until| now < *until);
        self.resting.retain(|_, since| since.is_none_or(|since| now < since + REST));
        for since in self.resting.values_mut() {
            since.get_or_insert(now);
        }
    }
}

#[cfg(test)]
#[path = "ipam_tests.rs"]
mod tests;
