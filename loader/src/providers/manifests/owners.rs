//! Which file gives an object that several have? The first by name; the others
//! lose, and take over when it goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::event::ObjectKey;

#[derive(Debug, Default)]
pub struct Owners {
    owners: BTreeMap<ObjectKey, Arc<str>>,
    losers: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
}

impl Owners {
    pub fn owner(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.owners.get(key)
    }

    /// Each object with each file that has it in vain.
    pub fn losers(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<str>)> {
        self.losers.iter().flat_map(|(key, files)| files.iter().map(move |file| (key, file)))
    }

    /// `file` has the object now. Notes the key if that changes who gives it.
    pub fn own(&mut self, key: &ObjectKey, file: &Arc<str>, changed: &mut Vec<ObjectKey>) {
        match self.owners.get_mut(key) {
            None => {
                self.owners.insert(key.clone(), file.clone());
                changed.push(key.clone());
            }
            Some(owner) => {
                let mut loser = file.clone();
                if *file < *owner {
                    std::mem::swap(owner, &mut loser);
                    changed.push(key.clone());
                }
                self.losers.entry(key.clone()).or_default().insert(loser);
            }
        }
    }

    /// Gives back the room that many new objects have left in the nodes.
    pub fn pack(&mut self) {
        self.owners = std::mem::take(&mut self.owners).into_iter().collect();
    }

    /// `file` no longer has the object.
    pub fn disown(&mut self, key: &ObjectKey, file: &Arc<str>, changed: &mut Vec<ObjectKey>) {
        let losers = self.losers.get_mut(key);
        if self.owners.get(key).is_some_and(|owner| owner == file) {
            changed.push(key.clone());
            match losers.and_then(BTreeSet::pop_first) {
                Some(heir) => drop(self.owners.insert(key.clone(), heir)),
                None => drop(self.owners.remove(key)),
            }
        } else if let Some(losers) = losers {
            losers.remove(file);
        }
        if self.losers.get(key).is_some_and(BTreeSet::is_empty) {
            self.losers.remove(key);
        }
    }
}
