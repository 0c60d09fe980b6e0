//! Who waits for a frontend that another service has?

use std::collections::{BTreeSet, HashMap};

use causeway_schema::FrontendKey;

use super::Family;
use crate::model::desired::ServiceId;

/// For each contested frontend, the services that want it and do not have it.
#[derive(Debug)]
pub struct Rivals<A> {
    waiting: HashMap<FrontendKey<A>, BTreeSet<ServiceId>>,
}

impl<A: Family> Default for Rivals<A> {
    fn default() -> Self {
        Self { waiting: HashMap::new() }
    }
}

impl<A: Family> Rivals<A> {
    pub fn add(&mut self, key: FrontendKey<A>, service: &ServiceId) {
        self.waiting.entry(key).or_default().insert(service.clone());
    }

    pub fn remove(&mut self, key: &FrontendKey<A>, service: &ServiceId) {
        if let Some(services) = self.waiting.get_mut(key) {
            services.remove(service);
            if services.is_empty() {
                self.waiting.remove(key);
            }
        }
    }

    pub fn of(&self, key: &FrontendKey<A>) -> impl Iterator<Item = &ServiceId> {
        self.waiting.get(key).into_iter().flatten()
    }
}
