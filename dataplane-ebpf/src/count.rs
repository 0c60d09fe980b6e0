//! Who counts? Every verdict and every event, per CPU, without atomics.

use causeway_schema::{Event, Verdict};

use crate::maps;

#[inline(always)]
pub fn verdict(verdict: Verdict) {
    add(verdict as u32);
}

#[inline(always)]
pub fn event(event: Event) {
    add(event.index());
}

#[inline(always)]
fn add(index: u32) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(index) {
        // SAFETY: the row belongs to this CPU, and programs do not migrate.
        unsafe { *counter += 1 };
    }
}
