//! When does a revision stand? When the snapshot says that it was read back
//! whole, after every source was asked for its last word.

use tokio::time::{Instant, timeout_at};

use super::{refusal::Refused, server::ask_patiently, view::WaitView};
use crate::snapshot::{Command, Handle, Status};

/// Waits until `revision` stands, or `deadline`; `converged` says which.
/// Without a revision: everything that the sources hold now.
///
/// # Errors
/// When the loop has ended.
pub async fn until(
    handle: &mut Handle,
    revision: Option<u64>,
    deadline: Instant,
) -> Result<WaitView, Refused> {
    let Some(seen) = last_word(handle, deadline).await? else { return Ok(unanswered(handle)) };
    let wanted = revision.unwrap_or(seen);
    loop {
        handle.changed.mark_unchanged();
        let view = stands(&handle.snapshot.load().status, wanted);
        // A loop that has ended publishes nothing more.
        let ended = handle.changed.has_changed().is_err();
        if view.converged || ended || Instant::now() >= deadline {
            return Ok(view);
        }
        // Time up, or news: look again either way.
        let _ = timeout_at(deadline, handle.changed.changed()).await;
    }
}

/// Whether everything that the sources hold now stands. They, and the
/// read-back that goes with their answer, have until `deadline`.
///
/// # Errors
/// When the loop has ended.
pub async fn now(handle: &mut Handle, deadline: Instant) -> Result<WaitView, Refused> {
    let Some(seen) = last_word(handle, deadline).await? else { return Ok(unanswered(handle)) };
    Ok(stands(&handle.snapshot.load().status, seen))
}

/// The revision that holds all that the sources have to say. Every wait begins
/// with it: an older answer would not know of a change made meanwhile.
async fn last_word(handle: &Handle, deadline: Instant) -> Result<Option<u64>, Refused> {
    timeout_at(deadline, ask_patiently(handle, Command::Fence)).await.ok().transpose()
}

fn unanswered(handle: &Handle) -> WaitView {
    let status = &handle.snapshot.load().status;
    let mut reasons = vec!["a source did not answer in time".to_owned()];
    reasons.extend(status.reasons.iter().cloned());
    WaitView {
        converged: false,
        revision: status.revision,
        applied_revision: status.applied_revision,
        reasons,
    }
}

fn stands(status: &Status, wanted: u64) -> WaitView {
    let Status { revision, applied_revision, .. } = *status;
    let converged = status.converged && applied_revision >= wanted;
    let mut reasons = status.reasons.clone();
    if !converged && reasons.is_empty() {
        reasons.push(format!("revision {applied_revision} stands, {wanted} is waited for"));
    }
    WaitView { converged, revision, applied_revision, reasons }
}
