//! How do ten thousand objects share the words they have in common? Each name,
//! each set of labels and each list of ports is stored once, and everything that uses it holds a
//! reference.

use std::{collections::HashSet, sync::Arc};

use crate::event::{
    Place,
    policy::{Labels, NamedPort},
};

/// Forgetting a name is harmless: a later use of it is stored anew.
#[derive(Debug, Default)]
pub struct Names {
    names: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[NamedPort]>>,
    places: HashSet<Arc<Place>>,
}

impl Names {
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }

    pub fn labels<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
        let labels = Labels::new(labels.map(|(key, value)| (self.get(key), self.get(value))).collect());
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }

    pub fn place(&mut self, place: Place) -> Arc<Place> {
        if let Some(known) = self.places.get(&place) {
            return known.clone();
        }
        let place = Arc::new(place);
        self.places.insert(place.clone());
        place
    }

    pub fn ports(&mut self, ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
        if ports.is_empty() {
            return Arc::default();
        }
        if let Some(known) = self.ports.get(&*ports) {
            return known.clone();
        }
        let ports: Arc<[NamedPort]> = ports.into();
        self.ports.insert(ports.clone());
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_stored_once() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.get("default"), &names.get("default")));
    }

    #[test]
    fn the_same_labels_are_stored_once() {
        let mut names = Names::default();
        let mut labels = |value| names.labels([("app", value), ("a", "b")].into_iter());
        let web = labels("web");
        assert!(Arc::ptr_eq(&web, &labels("web")) && !Arc::ptr_eq(&web, &labels("db")));
        assert_eq!(&*web["app"], "web");
    }
}
