//! How do ten thousand objects share the words they have in common? Each name
//! is stored once, and everything that uses it holds a reference.

use std::{collections::HashSet, sync::Arc};

/// Forgetting a name is harmless: a later use of it is stored anew.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
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
}
