//! Edits of a directory end where a fresh look would.

use std::{collections::BTreeMap, time::SystemTime};

use proptest::prelude::*;

use super::*;

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

/// Long after every edit: nothing is fresh.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(1)
}

struct Place {
    dir: tempfile::TempDir,
    directory: Directory,
    state: BTreeMap<ObjectKey, (Arc<Object>, Arc<Origin>)>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned(), "manifests".into());
        Self { dir, directory, state: BTreeMap::new() }
    }

    fn rename_over(&self, name: &str, text: &str) {
        let draft = self.dir.path().join(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.dir.path().join(name)).unwrap();
    }

    fn look(&mut self) -> Look {
        let look = self.directory.look(later());
        for event in &look.events {
            match &event.object {
                Some(object) => self.state.insert(event.key.clone(), object.clone()),
                None => self.state.remove(&event.key),
            };
        }
        look
    }

    fn names(&self) -> Vec<String> {
        self.state.keys().map(|key| key.name.to_string()).collect()
    }
}

#[test]
fn a_half_written_file_keeps_what_it_held() {
    let mut place = Place::new();
    place.rename_over("a.yaml", &(service("one", 80) + &service("two", 80)));
    place.look();
    place.rename_over("a.yaml", &(service("one", 81) + "---\napiVersion: v1\nkind: Serv"));
    let look = place.look();
    assert_eq!(place.names(), ["one", "two"]);
    assert_eq!(look.problems.len(), 1, "{:?}", look.problems);
    place.rename_over("a.yaml", &service("one", 81));
    assert!(place.look().problems.is_empty());
    assert_eq!(place.names(), ["one"]);
}

#[test]
fn a_file_being_written_in_place_is_left_alone_until_it_is_still() {
    let mut place = Place::new();
    place.rename_over("a.yaml", &service("one", 80));
    place.look();
    fs::write(place.dir.path().join("a.yaml"), service("one", 81)).unwrap();
    let look = place.directory.look(SystemTime::now());
    assert!(look.unsettled && look.events.is_empty());
    assert_eq!(place.look().events.len(), 1);
}

#[test]
fn the_first_file_by_name_wins_and_the_next_takes_over() {
    let mut place = Place::new();
    place.rename_over("b.yaml", &service("one", 80));
    place.look();
    place.rename_over("a.yaml", &service("one", 81));
    let look = place.look();
    let place_of = |place: &Place| place.state.values().next().unwrap().1.place.to_string();
    assert_eq!(place_of(&place), "a.yaml#1");
    assert!(look.problems[0].to_string().contains("a.yaml has the same object"), "{}", look.problems[0]);
    fs::remove_file(place.dir.path().join("a.yaml")).unwrap();
    assert!(place.look().problems.is_empty());
    assert_eq!(place_of(&place), "b.yaml#1");
}

#[test]
fn a_directory_that_goes_away_takes_nothing_with_it() {
    let mut place = Place::new();
    place.rename_over("a.yaml", &service("one", 80));
    place.look();
    fs::remove_dir_all(place.dir.path()).unwrap();
    let look = place.look();
    assert!(!look.readable && look.events.is_empty());
    assert!(look.problems[0].message.contains("last state is kept"));
}

#[derive(Clone, Debug)]
enum Edit {
    Rename(usize, Vec<(usize, u16)>),
    InPlace(usize, Vec<(usize, u16)>),
    Delete(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let objects = || proptest::collection::vec((0usize..6, 80u16..83), 1..4);
    prop_oneof![
        (0usize..4, objects()).prop_map(|(file, objects)| Edit::Rename(file, objects)),
        (0usize..4, objects()).prop_map(|(file, objects)| Edit::InPlace(file, objects)),
        (0usize..4).prop_map(Edit::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_edits_end_where_a_fresh_look_does(edits in proptest::collection::vec(edit(), 1..20)) {
        let mut place = Place::new();
        let text = |objects: &[(usize, u16)]| -> String {
            objects.iter().map(|(name, port)| service(&format!("s{name}"), *port)).collect()
        };
        for edit in edits {
            match edit {
                Edit::Rename(file, objects) => place.rename_over(&format!("{file}.yaml"), &text(&objects)),
                Edit::InPlace(file, objects) => {
                    fs::write(place.dir.path().join(format!("{file}.yaml")), text(&objects)).unwrap();
                }
                Edit::Delete(file) => {
                    let _ = fs::remove_file(place.dir.path().join(format!("{file}.yaml")));
                }
            }
            place.look();
        }
        let mut fresh = Directory::new(place.dir.path().to_owned(), "manifests".into());
        let fresh: BTreeMap<_, _> =
            fresh.look(later()).events.into_iter().map(|event| (event.key, event.object.unwrap())).collect();
        prop_assert_eq!(&place.state, &fresh);
    }
}
