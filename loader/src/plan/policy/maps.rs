//! What are the policy maps to hold, and what would a program find there?

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use causeway_schema::policy::{self, EndpointPolicy, OTHERS, PolicyStep, SetKey, Standing, Steps};
use ipnet::IpNet;

/// Prefixes and their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes {
    rows: BTreeMap<IpNet, u32>,
    /// How many there are of each length: few lengths occur.
    lengths: BTreeMap<(bool, u8), u32>,
}

/// What the maps are to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyMaps {
    pub standing: Standing,
    pub sets: BTreeMap<SetKey, Steps>,
    pub steps: BTreeMap<u32, Arc<[PolicyStep]>>,
    /// Of the standing generation.
    pub classes: Classes,
    /// By index, of both banks.
    pub policies: BTreeMap<u32, EndpointPolicy>,
}

impl PolicyMaps {
    /// What a set says about a peer: what the programs would find.
    pub fn find(&self, set: u32, peer: IpAddr, place: u32) -> Option<PolicyStep> {
        let class = self.classes.of(peer);
        let at = self
            .sets
            .get(&SetKey { set, class })
            .or_else(|| self.sets.get(&SetKey { set, class: OTHERS }))?;
        let steps = self.steps.get(&at.base)?;
        policy::find(*at, place, |index| steps.get(index.checked_sub(at.base)? as usize).copied())
    }
}

impl Classes {
    pub fn rows(&self) -> &BTreeMap<IpNet, u32> {
        &self.rows
    }

    pub fn set(&mut self, peer: IpNet, class: Option<u32>) {
        let length = (peer.addr().is_ipv4(), peer.prefix_len());
        let before = match class {
            Some(class) => self.rows.insert(peer, class),
            None => self.rows.remove(&peer),
        };
        match (before.is_some(), class.is_some()) {
            (false, true) => *self.lengths.entry(length).or_default() += 1,
            (true, false) => {
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                }
            }
            _ => {}
        }
    }

    /// By the longest prefix.
    fn of(&self, peer: IpAddr) -> u32 {
        let lengths = self.lengths.range((peer.is_ipv4(), 0)..=(peer.is_ipv4(), u8::MAX)).rev();
        lengths
            .filter(|(_, count)| **count > 0)
            .find_map(|((_, length), _)| self.rows.get(&IpNet::new(peer, *length).ok()?.trunc()).copied())
            .unwrap_or(OTHERS)
    }
}
