//! Who tries, and when is it given up?

use std::{
    collections::BTreeMap,
    io,
    net::TcpStream,
    path::PathBuf,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{Attempt, Goal, Outcome, Tried};
use crate::{attach::Netns, kernel::ping::ping};

/// Attempts under way at once, of one place.
const AT_ONCE: usize = 32;
/// A ping that everybody lets through.
const SMALL: usize = 84;

/// Tries everything from where it is to be tried: by their network namespaces, or
/// where this is called. Calls `progress` with how many are done.
pub fn run(
    attempts: &[Attempt],
    namespaces: &BTreeMap<String, PathBuf>,
    timeout: Duration,
    mut progress: impl FnMut(usize),
) -> Vec<Tried> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, attempt) in attempts.iter().enumerate() {
        places.entry(&attempt.from).or_default().push(index);
    }
    let mut tried: Vec<Option<Tried>> = vec![None; attempts.len()];
    let mut done = 0;
    for (from, indexes) in places {
        let netns = namespaces.get(from);
        let waiting = Mutex::new(indexes.into_iter());
        let (said, heard) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let (waiting, said) = (&waiting, said.clone());
                scope.spawn(move || {
                    // Of this thread alone, which ends here.
                    let entered = netns.map_or(Ok(()), |path| Netns::open(path)?.enter());
                    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
                    while let Some(index) = next() {
                        let attempt = &attempts[index];
                        let result = match &entered {
                            Ok(()) => attempt.make(timeout),
                            Err(error) => Err((Outcome::Failed, format!("its network namespace: {error}"))),
                        };
                        // Heard until all are done.
                        let _ = said.send((index, attempt.tried(result)));
                    }
                });
            }
            drop(said);
            for (index, result) in heard {
                tried[index] = Some(result);
                done += 1;
                progress(done);
            }
        });
    }
    tried.into_iter().flatten().collect()
}

type Made = Result<Duration, (Outcome, String)>;

impl Attempt {
    fn make(&self, timeout: Duration) -> Made {
        let failed = |error: io::Error| (Outcome::Failed, words(&error));
        match self.goal {
            Goal::Skip(why) => Err((Outcome::Skipped, why.to_owned())),
            Goal::Connect(to) => {
                let begun = Instant::now();
                TcpStream::connect_timeout(&to, timeout).map(|_| begun.elapsed()).map_err(failed)
            }
            Goal::Ping(to, length) => ping(to, length, timeout).map_err(|error| {
                let small = match ping(to, SMALL, timeout) {
                    Ok(_) => format!("one of {SMALL} does: the way between nodes has a smaller MTU"),
                    Err(_) => format!("nor does one of {SMALL}"),
                };
                let error = words(&error);
                (Outcome::Failed, format!("a packet of {length} bytes does not come back ({error}), {small}"))
            }),
        }
    }

    fn tried(&self, made: Made) -> Tried {
        let to = match self.goal {
            Goal::Connect(to) => format!("{to}/TCP"),
            Goal::Ping(to, _) => to.to_string(),
            Goal::Skip(_) => String::new(),
        };
        let (outcome, micros, detail) = match made {
            Ok(time) => (Outcome::Ok, Some(time.as_micros() as u64), String::new()),
            Err((outcome, why)) => (outcome, None, why),
        };
        Tried { from: self.from.clone(), to, what: self.what.clone(), outcome, micros, detail }
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".into(),
        io::ErrorKind::ConnectionRefused => "refused".into(),
        _ => error.to_string(),
    }
}
