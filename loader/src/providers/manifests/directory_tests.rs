//! Edits of a directory end where a fresh look would.

use proptest::prelude::*;

use super::*;
use crate::event::Object;

fn everything() -> Ask {
    Ask { everything: true, ..Ask::default() }
}

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
        self.ask(&everything(), later())
    }

    fn ask(&mut self, ask: &Ask, now: SystemTime) -> Look {
        let look = self.directory.look(ask, now);
        for event in &look.events {
            match &event.object {
                Some(object) => self.state.insert(event.key.clone(), object.clone()),
                None => self.state.remove(&event.key),
            };
        }
        look
    }

    /// Rules of ingress of the one policy, in words.
    fn ingress(&self) -> Vec<String> {
        let policies = self.state.values().filter_map(|(object, _)| match &**object {
            Object::Policy(policy) => Some(policy),
            _ => None,
        });
        let rules = policies.flat_map(|policy| policy.ingress.iter().flatten());
        rules.map(|rule| rule.words(true)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.state.keys().map(|key| key.name.to_string()).collect()
    }
}

#[test]
fn a_policy_that_is_spoilt_stands_as_it_last_was_and_a_new_one_closes() {
    let policy = |port: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{ingress: [{{ports: [{{port: {port}}}, {{port: 9}}]}}]}}\n"
        )
    };
    let mut place = Place::new();
    // There never was a sound one: what can be read of the first counts, then
    // that of the second.
    for port in ["70000", "0"] {
        place.rename_over("p.yaml", &(policy(port) + &service("a", if port == "0" { 80 } else { 81 })));
        assert_eq!(place.look().problems.len(), 1);
        assert_eq!(place.ingress(), ["allow from anybody at 9/TCP"], "{port}");
    }
    place.rename_over("p.yaml", &policy("80"));
    assert!(place.look().problems.is_empty());
    assert_eq!(place.ingress(), ["allow from anybody at 80/TCP, 9/TCP"]);
    for port in ["[80]", "81x_", "65536"] {
        place.rename_over("p.yaml", &policy(port));
        assert_eq!(place.look().problems[0].field, "spec.ingress[0].ports[0].port");
        assert_eq!(place.ingress(), ["allow from anybody at 80/TCP, 9/TCP"], "{port}");
    }
    place.rename_over("p.yaml", &policy("81"));
    assert!(place.look().problems.is_empty());
    assert_eq!(place.ingress(), ["allow from anybody at 81/TCP, 9/TCP"]);
    place.rename_over("p.yaml", &service("a", 80));
    place.look();
    assert!(place.ingress().is_empty());
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
    let look = place.ask(&everything(), SystemTime::now());
    assert!(look.unsettled && look.events.is_empty());
    // Nobody needs to speak of it again.
    assert_eq!(place.ask(&Ask::default(), later()).events.len(), 1);
    // A writer that never rests does not hold up the others for ever.
    for round in 0..100 {
        fs::write(place.dir.path().join("a.yaml"), service("one", 82 + round)).unwrap();
        if !place.ask(&everything(), SystemTime::now()).events.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the file was never read");
}

#[test]
fn a_file_that_its_writer_closed_is_read_at_once() {
    let mut place = Place::new();
    fs::write(place.dir.path().join("a.yaml"), service("one", 81)).unwrap();
    let ask = Ask { files: [("a.yaml".into(), true)].into(), ..Ask::default() };
    let look = place.ask(&ask, SystemTime::now());
    assert!(!look.unsettled && look.events.len() == 1);
}

#[test]
fn an_edit_that_keeps_size_and_modification_time_is_seen() {
    let mut place = Place::new();
    let path = place.dir.path().join("a.yaml");
    fs::write(&path, service("one", 80)).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    place.look();
    std::thread::sleep(Duration::from_millis(10));
    fs::write(&path, service("one", 81)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(place.look().events.len(), 1);
}

#[test]
fn a_new_place_of_an_unchanged_object_is_said_without_a_new_object() {
    let mut place = Place::new();
    place.rename_over("a.yaml", &service("one", 80));
    let before = place.look().events.remove(0).object.unwrap();
    place.rename_over("a.yaml", &(service("zero", 80) + &service("one", 80)));
    let look = place.look();
    let after = look.events.iter().find(|event| &*event.key.name == "one").unwrap().object.clone().unwrap();
    assert!(Arc::ptr_eq(&before.0, &after.0));
    assert_eq!(&*after.1.place, "a.yaml#2");
    place.rename_over("a.yaml", &(service("zero", 80) + &service("one", 80)));
    assert!(place.look().events.is_empty(), "an identical rewrite says nothing");
}

#[test]
fn what_is_no_text_or_cannot_be_opened_keeps_the_last_state() {
    let mut place = Place::new();
    place.rename_over("a.yaml", &service("one", 80));
    place.look();
    fs::write(place.dir.path().join("a.yaml"), b"apiVersion: \xff").unwrap();
    let look = place.look();
    assert!(look.problems[0].to_string().contains("manifests:a.yaml: is no UTF-8 text from byte 12"));
    assert_eq!(place.look().problems.len(), 1, "the problem stays while the file does");
    assert_eq!(place.names(), ["one"]);
    place.rename_over("a.yaml", &service("two", 80));
    assert!(place.look().problems.is_empty());
    assert_eq!(place.names(), ["two"]);
}

#[test]
fn drafts_directories_and_other_files_are_ignored_and_links_followed() {
    let mut place = Place::new();
    let path = |name: &str| place.dir.path().join(name);
    fs::write(path(".hidden.yaml"), "kind: [").unwrap();
    fs::write(path("README.md"), "kind: [").unwrap();
    fs::create_dir(path("d.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("l.yaml")).unwrap();
    fs::create_dir(path("..1")).unwrap();
    fs::create_dir(path("..2")).unwrap();
    fs::write(path("..1/web.yaml"), service("one", 80)).unwrap();
    fs::write(path("..2/web.yaml"), service("two", 80)).unwrap();
    std::os::unix::fs::symlink("..1", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/web.yaml", path("web.yaml")).unwrap();
    assert!(place.look().problems.is_empty());
    assert_eq!(place.names(), ["one"]);
    // As the kubelet updates a ConfigMap.
    let path = |name: &str| place.dir.path().join(name);
    std::os::unix::fs::symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    place.look();
    assert_eq!(place.names(), ["two"]);
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
    /// Cut off after so many bytes.
    Half(usize, Vec<(usize, u16)>, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let objects = || proptest::collection::vec((0usize..6, 80u16..83), 1..4);
    prop_oneof![
        (0usize..4, objects()).prop_map(|(file, objects)| Edit::Rename(file, objects)),
        (0usize..4, objects()).prop_map(|(file, objects)| Edit::InPlace(file, objects)),
        (0usize..4).prop_map(Edit::Delete),
        (0usize..4, objects(), 1usize..200).prop_map(|(file, objects, cut)| Edit::Half(file, objects, cut)),
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
                Edit::Half(file, objects, cut) => {
                    let text = text(&objects);
                    place.rename_over(&format!("{file}.yaml"), &text[..cut.min(text.len())]);
                }
                Edit::Delete(file) => {
                    let _ = fs::remove_file(place.dir.path().join(format!("{file}.yaml")));
                }
            }
            place.look();
        }
        // What is broken keeps its past, which a fresh look cannot know.
        let broken: BTreeSet<_> = place.directory.faulty.clone();
        for file in broken {
            place.rename_over(&file, &service("mended", 80));
        }
        place.look();
        let mut fresh = Directory::new(place.dir.path().to_owned(), "manifests".into());
        let fresh: BTreeMap<_, _> =
            fresh.look(&everything(), later()).events.into_iter().map(|event| (event.key, event.object.unwrap())).collect();
        prop_assert_eq!(&place.state, &fresh);
    }
}
