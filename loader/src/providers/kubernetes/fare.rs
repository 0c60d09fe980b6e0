//! How do requests to the API server fare? Of each kind, since when it cannot
//! be read and why: a watch that is quiet says nothing of its own.

use std::{
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use tokio::sync::Notify;

use super::kinds::{Index, KINDS};

/// Why objects of a kind cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answer: the error.
    Silent(String),
    /// A status, and what the server says of it, if it does.
    Refused(u16, String),
    /// An answer that is none of an API server's.
    Garbage(String),
}

impl Cause {
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Cause::Refused(403, _))
    }
}

/// What is wrong with one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub since: SystemTime,
    /// When it showed last.
    pub last: Instant,
    pub cause: Cause,
}

#[derive(Debug, Default)]
struct Fare {
    trouble: Option<Trouble>,
    /// Failures one after the other.
    failures: u32,
}

impl Fare {
    /// Whether anything was wrong.
    fn heal(&mut self, kind: Index) -> bool {
        self.failures = 0;
        let healed = self.trouble.take().is_some();
        if healed {
            tracing::info!(kind = KINDS[kind].name, "can be read from the API server again");
        }
        healed
    }
}

/// Shared by those who ask and the one who tells.
#[derive(Debug)]
pub struct Fares {
    kinds: Mutex<Vec<Fare>>,
    pub changed: Notify,
}

impl Fares {
    pub fn new() -> Self {
        Self { kinds: Mutex::new(KINDS.iter().map(|_| Fare::default()).collect()), changed: Notify::new() }
    }

    /// A request failed.
    pub fn failed(&self, kind: Index, cause: Cause) {
        self.with(kind, |fare| {
            fare.failures = fare.failures.saturating_add(1);
            let known = fare.trouble.as_ref();
            let same = known.is_some_and(|known| known.cause == cause);
            if !same {
                tracing::warn!(kind = KINDS[kind].name, ?cause, "cannot be read from the API server");
            }
            // What is forbidden still is what policies wait for.
            let news = !same || cause.is_forbidden();
            // Since it could last be read, whatever the reason was at first.
            let since = known.map_or_else(SystemTime::now, |known| known.since);
            fare.trouble = Some(Trouble { since, last: Instant::now(), cause });
            news
        });
    }

    /// A request was answered as it should be.
    pub fn answered(&self, kind: Index) {
        self.with(kind, |fare| {
            // What is in an answer shows later.
            if matches!(fare.trouble, Some(Trouble { cause: Cause::Garbage(_), .. })) {
                return false;
            }
            fare.heal(kind)
        });
    }

    /// An answer made sense.
    pub fn understood(&self, kind: Index) {
        self.with(kind, |fare| fare.heal(kind));
    }

    pub fn failures(&self, kind: Index) -> u32 {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)[kind].failures
    }

    /// Of each kind that has any.
    pub fn troubles(&self) -> Vec<(Index, Trouble)> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().enumerate().filter_map(|(index, fare)| Some((index, fare.trouble.clone()?))).collect()
    }

    /// `change` says whether there is something to tell.
    fn with(&self, kind: Index, change: impl FnOnce(&mut Fare) -> bool) {
        let news = change(&mut self.kinds.lock().unwrap_or_else(PoisonError::into_inner)[kind]);
        if news {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_from_its_first_failure_to_the_next_answer() {
        let fares = Fares::new();
        assert!(fares.troubles().is_empty());
        fares.failed(2, Cause::Silent("refused".into()));
        let trouble = || {
            let troubles = fares.troubles();
            let [(2, trouble)] = &troubles[..] else { panic!("{troubles:?}") };
            trouble.clone()
        };
        let mut before = trouble();
        for cause in [Cause::Silent("timed out".into()), Cause::Refused(403, String::new())] {
            fares.failed(2, cause.clone());
            let now = trouble();
            assert_eq!((&now.cause, now.since), (&cause, before.since));
            assert!(now.last > before.last);
            before = now;
        }
        assert_eq!((fares.failures(2), fares.failures(1)), (3, 0));
        fares.answered(2);
        assert!(fares.troubles().is_empty() && fares.failures(2) == 0);
    }

    #[test]
    fn garbage_is_gone_when_an_answer_makes_sense() {
        let fares = Fares::new();
        fares.failed(1, Cause::Garbage("<html>".into()));
        fares.answered(1);
        assert_eq!(fares.troubles().len(), 1);
        fares.understood(1);
        assert!(fares.troubles().is_empty());
    }
}
