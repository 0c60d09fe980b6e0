//! The thread: what is written arrives, soon and once, and a fence tells when.

use std::{collections::BTreeMap, fs};

use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::{
    event::{Event, Object, ObjectKey, Problem},
    providers::dice::Dice,
};

struct Live {
    dir: tempfile::TempDir,
    manifests: Manifests,
    batches: Receiver<Batch>,
    state: BTreeMap<ObjectKey, Arc<Object>>,
    problems: Vec<Problem>,
    fences: u64,
}

impl Live {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, batches) = channel(64);
        let manifests = Manifests::spawn(dir.path().join("m"), sender).unwrap();
        Self { dir, manifests, batches, state: BTreeMap::new(), problems: Vec::new(), fences: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    fn batch(&mut self) -> Batch {
        let batch = self.batches.blocking_recv().unwrap();
        for Event { key, object } in batch.events.clone() {
            match object {
                Some((object, _)) => drop(self.state.insert(key, object)),
                None => drop(self.state.remove(&key)),
            }
        }
        self.problems.clone_from(&batch.problems);
        batch
    }

    /// The next batch that says something of an object.
    fn news(&mut self) -> Batch {
        loop {
            let batch = self.batch();
            if !batch.events.is_empty() {
                return batch;
            }
        }
    }

    fn fence(&mut self) -> Batch {
        self.fences += 1;
        self.manifests.fence(self.fences);
        loop {
            let batch = self.batch();
            if batch.fence == self.fences {
                return batch;
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.state.keys().map(|key| &*key.name).collect()
    }
}

fn service(name: &str, port: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn a_directory_may_come_late_go_and_come_back() {
    let mut live = Live::new();
    let first = live.batch();
    assert!(!first.synced && first.problems[0].message.contains("cannot be read"), "{first:?}");
    assert!(!live.fence().synced);

    fs::create_dir(live.path("")).unwrap();
    fs::write(live.path("a.yaml"), service("one", 80)).unwrap();
    assert!(live.fence().synced);
    assert_eq!(live.names(), ["one"]);
    assert!(live.problems.is_empty());

    fs::rename(live.path(""), live.dir.path().join("away")).unwrap();
    assert!(!live.fence().synced);
    assert_eq!(live.names(), ["one"], "the last state is kept");

    fs::create_dir(live.path("")).unwrap();
    fs::write(live.path("a.yaml"), service("two", 80)).unwrap();
    assert!(live.fence().synced);
    assert_eq!(live.names(), ["two"]);
    // The new directory is watched as the old one was: no fence is needed, and
    // at least one of some writes arrives sooner than by polling.
    let mut write = |round: usize| {
        fs::write(live.path("b.yaml"), service("three", 80 + round)).unwrap();
        let began = Instant::now();
        live.news();
        began.elapsed()
    };
    let soonest = (0..5).map(&mut write).min().unwrap();
    assert!(soonest < POLL / 5, "{soonest:?}");
}

#[test]
fn a_write_is_one_batch_and_a_rewrite_of_the_same_is_none() {
    let mut live = Live::new();
    fs::create_dir(live.path("")).unwrap();
    live.fence();
    for port in 80..100 {
        let text = service("one", port) + &service("two", port);
        if port % 2 == 0 {
            fs::write(live.path("a.yaml"), text).unwrap();
        } else {
            fs::write(live.path(".a"), text).unwrap();
            fs::rename(live.path(".a"), live.path("a.yaml")).unwrap();
        }
        assert_eq!(live.news().events.len(), 2);
    }
    fs::write(live.path("a.yaml"), service("one", 99) + &service("two", 99)).unwrap();
    assert!(live.fence().events.is_empty());
}

#[test]
fn a_thousand_edits_of_every_kind_end_where_a_fresh_look_does() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut lots = Dice(seed);
    let mut live = Live::new();
    fs::create_dir(live.path("")).unwrap();
    for edit in 0..1000 {
        let file = format!("{}.yaml", lots.below(8));
        let path = live.path(&file);
        let objects = 1 + lots.below(3);
        let text: String =
            (0..objects).map(|_| service(&format!("s{}", lots.below(10)), 80 + lots.below(4))).collect();
        match lots.below(6) {
            0 => fs::write(&path, &text).unwrap(),
            1 | 2 => {
                fs::write(live.path(".draft"), &text).unwrap();
                fs::rename(live.path(".draft"), &path).unwrap();
            }
            3 => drop(fs::remove_file(&path)),
            4 => fs::write(&path, &text[..lots.below(text.len())]).unwrap(),
            _ => {
                let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
                fs::write(&path, &text).unwrap();
                if let Ok(modified) = modified {
                    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
                }
            }
        }
        if edit % 97 == 0 {
            live.fence();
        }
        while live.batches.len() > 32 {
            live.batch();
        }
    }
    // What is broken keeps its past, which a fresh look cannot know: mend it.
    live.fence();
    for problem in live.problems.clone() {
        let origin = problem.origin.unwrap();
        let file = origin.place.split('#').next().unwrap();
        // Of two that are the same neither is broken.
        if !problem.message.contains("comes first") {
            fs::write(live.path(file), service("mended", 80)).unwrap();
        }
    }
    live.fence();
    let fresh = scan(&live.path(""));
    let objects: BTreeMap<_, _> =
        fresh.events.into_iter().map(|event| (event.key, event.object.unwrap().0)).collect();
    assert_eq!(live.state, objects);
    assert_eq!(live.problems, fresh.problems);
}

#[test]
fn a_second_look_ends_when_the_directory_was_read_whole() {
    let mut live = Live::new();
    live.batch();
    live.manifests.look(vec![Kind::Service], 7);
    assert!(live.fence().looked.is_empty(), "nothing could be read");
    let aside = live.dir.path().join("aside");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a.yaml"), service("one", 80)).unwrap();
    fs::rename(aside, live.path("")).unwrap();
    let looked = loop {
        let batch = live.batch();
        if !batch.looked.is_empty() {
            break batch.looked;
        }
    };
    assert_eq!((looked, live.names()), ([(Kind::Service, 7)].into(), vec!["one"]));
    assert!(live.fence().looked.is_empty(), "it was told once");
}

#[test]
fn files_that_go_together_go_in_one_batch() {
    let mut live = Live::new();
    fs::create_dir(live.path("")).unwrap();
    let mut batches = || {
        for number in 0..200 {
            fs::write(live.path(&format!("s{number}.yaml")), service(&format!("s{number}"), 80)).unwrap();
        }
        live.fence();
        for number in 0..200 {
            fs::remove_file(live.path(&format!("s{number}.yaml"))).unwrap();
        }
        let mut batches = 0;
        while !live.names().is_empty() {
            live.news();
            batches += 1;
        }
        batches
    };
    // A look at everything may come in between.
    let fewest = (0..5).map(|_| batches()).min();
    assert_eq!(fewest, Some(1));
}
