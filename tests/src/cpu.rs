//! Which CPU does a thread run on?

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread, and those that it starts, on one CPU.
pub fn stay_on(cpu: usize) {
    allow([cpu]);
}

/// Leaves the calling thread to all CPUs again.
pub fn roam() {
    // Those that are not there are passed over.
    allow(0..CpuSet::count());
}

fn allow(cpus: impl IntoIterator<Item = usize>) {
    let mut set = CpuSet::new();
    cpus.into_iter().for_each(|cpu| set.set(cpu).unwrap());
    sched_setaffinity(Pid::from_raw(0), &set).expect("choose CPUs");
}
