//! Labels of an object -> a shared map.

use std::collections::BTreeMap;

use super::{Names, Refusal};
use crate::event::{label, policy::Labels};

/// A label that cannot be is left out. `implied`: one that the object has
/// whatever it says.
pub fn labels(
    wire: Option<&BTreeMap<String, String>>,
    implied: Option<(&str, &str)>,
    names: &mut Names,
    refusals: &mut Vec<Refusal>,
) -> Labels {
    let mut sound: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, value) in wire.into_iter().flatten() {
        match label::key(key).and_then(|()| label::value(value)) {
            Ok(()) => drop(sound.insert(key, value)),
            Err(message) => {
                let end = key.char_indices().nth(80).map_or(key.len(), |(end, _)| end);
                refusals.push(Refusal::new(format!("metadata.labels[{}]", &key[..end]), message));
            }
        }
    }
    sound.extend(implied);
    names.labels(sound.into_iter())
}
