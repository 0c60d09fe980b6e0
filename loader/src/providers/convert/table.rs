//! Annotations of a Service -> how its backends are chosen.

use causeway_schema::{Target, choice::RENDEZVOUS_MAX};

use super::{Refusal, quoted, wire::ObjectMeta};
use crate::event::Table;

const ALGORITHM: &str = "causeway.io/algorithm";
const SIZE: &str = "causeway.io/table-size";

/// What cannot be is left to the number of backends.
pub fn table(metadata: &ObjectMeta, refusals: &mut Vec<Refusal>) -> Table {
    let note = |name: &str| metadata.annotations.as_ref().and_then(|notes| notes.get(name));
    let mut refuse = |name: &str, message: String| {
        refusals.push(Refusal::new(format!("metadata.annotations[{name}]"), message));
    };
    let mut table = Table::default();
    match note(ALGORITHM).map(String::as_str) {
        None => {}
        Some("maglev") => table.maglev = true,
        Some(other) => {
            let other = quoted(other);
            let message = format!(
                "{other} is no algorithm to be had: use maglev, or leave it out, and up to {RENDEZVOUS_MAX} \
                 backends are chosen by rendezvous"
            );
            refuse(ALGORITHM, message);
        }
    }
    if let Some(text) = note(SIZE) {
        table.slots = text.parse().ok().filter(|slots| (1..=Target::MAX_LEN).contains(slots));
        if table.slots.is_none() {
            let most = Target::MAX_LEN;
            refuse(SIZE, format!("{} is no size of a table: use a number from 1 to {most}", quoted(text)));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(notes: &[(&str, &str)]) -> (Table, Vec<String>) {
        let annotations = notes.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let mut refusals = Vec::new();
        let table = table(&metadata, &mut refusals);
        (table, refusals.into_iter().map(|refusal| refusal.field).collect())
    }

    #[test]
    fn maglev_and_its_size_can_be_asked_for() {
        assert_eq!(check(&[]), (Table::default(), vec![]));
        let both = Table { maglev: true, slots: Some(65_521) };
        assert_eq!(check(&[(ALGORITHM, "maglev"), (SIZE, "65521")]), (both, vec![]));
        assert_eq!(check(&[(SIZE, "1")]), (Table { maglev: false, slots: Some(1) }, vec![]));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for algorithm in ["rendezvous", "", "Maglev", "lc"] {
            let refused = vec!["metadata.annotations[causeway.io/algorithm]".to_owned()];
            assert_eq!(check(&[(ALGORITHM, algorithm)]), (Table::default(), refused), "{algorithm}");
        }
        for size in ["0", "", "-1", "many", "1048577", "99999999999"] {
            let refused = vec!["metadata.annotations[causeway.io/table-size]".to_owned()];
            assert_eq!(check(&[(SIZE, size)]), (Table::default(), refused), "{size}");
        }
    }
}
