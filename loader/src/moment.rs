//! How does a point in time read?

use std::time::SystemTime;

/// `2026-11-21T12:30:05Z`
pub fn text(time: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(time).unwrap_or_default();
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
