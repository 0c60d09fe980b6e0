//! What do files say? Documents, each on its own: one that cannot be read
//! never hides its neighbours.

use std::{num::NonZero, sync::Arc, thread};

use super::{
    document::{self, Parsed},
    split::{self, Document},
};
use crate::{
    event::{Origin, Problem},
    providers::Names,
};

/// Less text than this is not worth a second thread.
const WORTH_A_THREAD: usize = 64 << 10;
const MAX_THREADS: usize = 4;

/// A file's name and its text.
pub type Text = (Arc<str>, String);

/// Reads files on as many threads as pay, and keeps the names it has met.
pub struct Parser {
    source: Arc<str>,
    /// One for each thread.
    names: Vec<Names>,
}

impl Parser {
    pub fn new(source: Arc<str>) -> Self {
        Self { source, names: Vec::new() }
    }

    /// What each of the files says, in their order.
    pub fn parse(&mut self, files: &[Text]) -> Vec<Parsed> {
        let tasks: Vec<Task<'_>> = files
            .iter()
            .enumerate()
            .flat_map(|(file, (_, text))| {
                split::documents(text).into_iter().map(move |document| Task { file, document })
            })
            .collect();
        let bytes: usize = tasks.iter().map(|task| task.document.text.len()).sum();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        let threads = threads.min(1 + bytes / WORTH_A_THREAD);
        self.names.resize_with(self.names.len().max(threads), Names::default);

        let source = &self.source;
        let shares = shares(&tasks, bytes.div_ceil(threads));
        let mut parts = Vec::with_capacity(shares.len());
        if let ([share], [names, ..]) = (&shares[..], &mut self.names[..]) {
            parts.push(run(source, files, share, names));
        } else {
            thread::scope(|scope| {
                let workers: Vec<_> = shares
                    .iter()
                    .zip(&mut self.names)
                    .map(|(share, names)| scope.spawn(move || run(source, files, share, names)))
                    .collect();
                // A worker that panicked was a bug: let it be seen.
                parts.extend(workers.into_iter().map(|worker| match worker.join() {
                    Ok(part) => part,
                    Err(panic) => std::panic::resume_unwind(panic),
                }));
            });
        }
        let mut parsed: Vec<Option<Parsed>> = files.iter().map(|_| None).collect();
        for (task, part) in tasks.iter().zip(parts.into_iter().flatten()) {
            match &mut parsed[task.file] {
                Some(whole) => whole.append(part),
                none => *none = Some(part),
            }
        }
        let finish = |((name, _), parsed): (&Text, Option<Parsed>)| match parsed {
            Some(parsed) => parsed.finish(name),
            None => nothing(source, name),
        };
        files.iter().zip(parsed).map(finish).collect()
    }

    /// Lets go of the names: what uses them keeps them.
    pub fn forget(&mut self) {
        self.names.clear();
    }
}

struct Task<'a> {
    /// Index into the files.
    file: usize,
    document: Document<'a>,
}

/// Parts the tasks into runs of at least `bytes` each, but for the last.
fn shares<'t, 'a>(tasks: &'t [Task<'a>], bytes: usize) -> Vec<&'t [Task<'a>]> {
    let mut shares = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (index, task) in tasks.iter().enumerate() {
        size += task.document.text.len();
        if size >= bytes {
            shares.push(&tasks[from..=index]);
            (from, size) = (index + 1, 0);
        }
    }
    if from < tasks.len() {
        shares.push(&tasks[from..]);
    }
    shares
}

fn run(source: &Arc<str>, files: &[Text], tasks: &[Task<'_>], names: &mut Names) -> Vec<Parsed> {
    let read = |task: &Task<'_>| {
        let (name, text) = &files[task.file];
        document::parse(source, name, task.document, || task.document.line(text), names)
    };
    tasks.iter().map(read).collect()
}

/// An empty file is taken for one that is about to be written.
fn nothing(source: &Arc<str>, file: &Arc<str>) -> Parsed {
    let problem = Problem {
        origin: Some(Origin { source: source.clone(), place: file.clone() }),
        object: String::new(),
        field: String::new(),
        message: "has no document: delete the file to remove what it held".into(),
    };
    Parsed { entries: Vec::new(), problems: vec![problem], incomplete: true }
}

impl Parsed {
    fn append(&mut self, part: Parsed) {
        self.entries.extend(part.entries);
        self.problems.extend(part.problems);
        self.incomplete |= part.incomplete;
    }

    /// Sorts the objects by key; of two with one key the first stays.
    fn finish(mut self, file: &str) -> Self {
        self.entries.sort_by(|a, b| a.key.cmp(&b.key));
        let problems = &mut self.problems;
        self.entries.dedup_by(|later, earlier| {
            let same = later.key == earlier.key;
            if same {
                let place = earlier.origin.place.strip_prefix(file).unwrap_or(&earlier.origin.place);
                problems.push(Problem {
                    origin: Some((*later.origin).clone()),
                    object: later.key.to_string(),
                    field: "metadata.name".into(),
                    message: format!("document {place} has the same name and comes first: rename this one"),
                });
            }
            same
        });
        self.entries.shrink_to_fit();
        self
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
