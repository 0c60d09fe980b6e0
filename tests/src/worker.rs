//! Threads that go on until they are told to end: because their result is wanted,
//! or because a test that fails drops them.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::netns::Netns;

/// A thread inside a namespace.
pub struct Worker<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// `work` looks at the flag, and returns soon after it is set.
    pub fn start(netns: &Netns, work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let thread = netns.spawn_thread({
            let stop = stop.clone();
            move || work(&stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl<T> Worker<T> {
    /// Tells it to end, and does not wait.
    pub fn tell(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn end(mut self) -> T {
        let ended = self.join().expect("ended once");
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn join(&mut self) -> Option<std::thread::Result<T>> {
        self.tell();
        self.thread.take().map(JoinHandle::join)
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Tells the threads of a scope to end, at the scope's own end or when it fails.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, thread};

    use super::*;

    #[test]
    fn who_fails_leaves_nobody_running() {
        let here = Netns::new();
        let worker = Worker::start(&here, |stop| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        });
        drop(worker);
        let failed = catch_unwind(|| {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let _ends = Ends(&stop);
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop()
                    }
                });
                panic!("as an assertion that fails");
            });
        });
        assert!(failed.is_err());
        assert_eq!(Worker::start(&here, |_| 7).end(), 7);
    }
}
