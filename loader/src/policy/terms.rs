//! Which selectors of peers do rules in use have? Each distinct one is a *term*
//! with a number of its own, while a set names it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::Name;
use crate::event::policy::{NamedPort, Peer, PodSelector};

pub type TermId = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub who: Who,
    /// The peer is a pod that has this port.
    pub port: Option<NamedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Only with a port.
    Anybody,
    Pods(PodSelector),
    /// Without bits beyond the prefix; sorted.
    Block {
        network: IpNet,
        except: Vec<IpNet>,
    },
    /// Whoever serves it.
    Service(Name),
}

impl Term {
    pub fn new(peer: Option<&Peer>, port: Option<NamedPort>) -> Self {
        let who = match peer {
            None => Who::Anybody,
            Some(Peer::Pods(selector)) => Who::Pods(selector.clone()),
            Some(Peer::Block { network, except }) => {
                let mut except: Vec<IpNet> = except.iter().map(IpNet::trunc).collect();
                except.sort_unstable();
                except.dedup();
                Who::Block { network: network.trunc(), except }
            }
            Some(Peer::Service { namespace, name }) => Who::Service((namespace.clone(), name.clone())),
        };
        Self { who, port }
    }

    /// The network, if the term holds for addresses whoever has them.
    pub fn network(&self) -> Option<(&IpNet, &[IpNet])> {
        match (&self.who, &self.port) {
            (Who::Block { network, except }, None) => Some((network, except)),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub struct Terms {
    /// By number; `None` is free.
    entries: Vec<Option<Entry>>,
    free: Vec<TermId>,
    ids: HashMap<Arc<Term>, TermId>,
    /// New since the last [`Terms::settle`].
    fresh: BTreeSet<TermId>,
    /// May be in no set any more.
    idle: BTreeSet<TermId>,
}

#[derive(Debug)]
struct Entry {
    term: Arc<Term>,
    sets: BTreeSet<u32>,
}

impl Terms {
    pub fn get(&self, id: TermId) -> Option<&Arc<Term>> {
        self.entries.get(id as usize)?.as_ref().map(|entry| &entry.term)
    }

    /// The sets that name it.
    pub fn sets(&self, id: TermId) -> impl Iterator<Item = u32> {
        let entry = self.entries.get(id as usize).and_then(Option::as_ref);
        entry.into_iter().flat_map(|entry| entry.sets.iter().copied())
    }

    /// Whether a rule names any.
    pub fn has_services(&self) -> bool {
        self.entries.iter().flatten().any(|entry| matches!(entry.term.who, Who::Service(_)))
    }

    pub fn is_network(&self, id: TermId) -> bool {
        self.get(id).is_some_and(|term| term.network().is_some())
    }

    pub fn intern(&mut self, term: Term) -> TermId {
        if let Some(&id) = self.ids.get(&term) {
            return id;
        }
        let term = Arc::new(term);
        let entry = Some(Entry { term: term.clone(), sets: BTreeSet::new() });
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as TermId - 1
            }
        };
        self.ids.insert(term, id);
        self.fresh.insert(id);
        id
    }

    pub fn join(&mut self, id: TermId, set: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(id as usize) {
            entry.sets.insert(set);
        }
    }

    pub fn leave(&mut self, id: TermId, set: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(id as usize) {
            entry.sets.remove(&set);
            if entry.sets.is_empty() {
                self.idle.insert(id);
            }
        }
    }

    /// Which terms are in use now and were not before, and which the other way
    /// round. The latter are to be [forgotten](Terms::forget) when no class has
    /// them any more.
    pub fn settle(&mut self) -> (BTreeSet<TermId>, BTreeSet<TermId>) {
        let fresh = std::mem::take(&mut self.fresh);
        let idle = std::mem::take(&mut self.idle);
        let unused = |terms: &Self, id| terms.sets(id).next().is_none();
        let gone = idle.iter().copied().filter(|id| unused(self, *id) && !fresh.contains(id)).collect();
        let (never, new): (BTreeSet<_>, BTreeSet<_>) = fresh.into_iter().partition(|id| unused(self, *id));
        self.forget(&never);
        (new, gone)
    }

    pub fn forget(&mut self, ids: &BTreeSet<TermId>) {
        for &id in ids {
            if let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::take) {
                self.ids.remove(&entry.term);
                self.free.push(id);
            }
        }
    }
}
