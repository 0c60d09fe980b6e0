//! Which networks of rules does a prefix lie in?

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use super::terms::{TermId, Terms};

/// The networks of all terms, and their exceptions.
#[derive(Debug, Default)]
pub struct Networks {
    terms: HashMap<IpNet, Vec<TermId>>,
    /// How many of them have that length, in bits; IPv4 and IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
    /// How often each is a network or an exception.
    prefixes: BTreeMap<IpNet, usize>,
}

impl Networks {
    pub fn add(&mut self, id: TermId, network: &IpNet, except: &[IpNet]) {
        self.terms.entry(*network).or_default().push(id);
        for prefix in except.iter().chain([network]) {
            *self.lengths[family(prefix)].entry(prefix.prefix_len()).or_default() += 1;
            *self.prefixes.entry(*prefix).or_default() += 1;
        }
    }

    pub fn remove(&mut self, id: TermId, network: &IpNet, except: &[IpNet]) {
        if let Some(ids) = self.terms.get_mut(network) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.terms.remove(network);
            }
        }
        for prefix in except.iter().chain([network]) {
            less(&mut self.lengths[family(prefix)], &prefix.prefix_len());
            less(&mut self.prefixes, prefix);
        }
    }

    /// Has it a row of its own, whoever has its addresses?
    pub fn is_prefix(&self, prefix: &IpNet) -> bool {
        self.prefixes.contains_key(prefix)
    }

    /// The prefixes that an address may lie in, the longest first: itself, and
    /// one of each length that there is.
    pub fn around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> {
        let itself = host(address);
        let lengths = self.lengths[family(&itself)].keys().rev();
        [itself]
            .into_iter()
            .chain(lengths.filter_map(move |length| Some(IpNet::new(address, *length).ok()?.trunc())))
    }

    /// The terms that hold for a prefix, apart from longer prefixes that are
    /// networks or exceptions themselves.
    pub fn holding<'a>(&'a self, prefix: &'a IpNet, terms: &'a Terms) -> impl Iterator<Item = TermId> + 'a {
        let lengths = self.lengths[family(prefix)].range(..=prefix.prefix_len());
        let wider = lengths.filter_map(|(length, _)| Some(IpNet::new(prefix.addr(), *length).ok()?.trunc()));
        let ids = wider.filter_map(|network| self.terms.get(&network)).flatten().copied();
        ids.filter(move |id| {
            let except = terms.get(*id).and_then(|term| term.network()).map_or(&[][..], |(_, except)| except);
            !except.iter().any(|part| part.contains(prefix))
        })
    }
}

/// All keys that lie within a network, in the order of keys.
pub fn span(network: IpNet) -> std::ops::RangeInclusive<IpNet> {
    network..=host(network.broadcast())
}

/// The prefix that is one address.
pub fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The address that a prefix is all of.
pub fn address(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}

fn family(prefix: &IpNet) -> usize {
    usize::from(prefix.addr().is_ipv6())
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
