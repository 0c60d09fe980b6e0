//! Does something come to pass soon enough?

use std::{
    thread,
    time::{Duration, Instant},
};

/// What is there at last.
///
/// # Panics
/// When it is not within so much time.
#[track_caller]
pub fn until<T>(what: &str, patience: Duration, good: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = good() {
            return found;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_waited_for_and_given_up() {
        let asked = Cell::new(0);
        let third = || {
            asked.set(asked.get() + 1);
            (asked.get() == 3).then_some(asked.get())
        };
        assert_eq!(until("the third", Duration::from_secs(5), third), 3);
        let never = || until("what never is", Duration::from_millis(50), || None::<()>);
        let said = std::panic::catch_unwind(never).unwrap_err();
        assert!(said.downcast_ref::<String>().unwrap().contains("what never is"));
    }
}
