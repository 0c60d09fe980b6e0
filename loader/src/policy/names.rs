//! What is a rule called? By policy, direction and place; a default denial by
//! the policies that isolate.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::{Direction, PolicyId};

/// Whom a rule's number means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    Rule {
        policy: PolicyId,
        direction: Direction,
        /// In the object, from 0.
        index: usize,
        /// May be empty.
        name: Arc<str>,
    },
    DefaultDeny {
        direction: Direction,
        /// Sorted, at least one.
        policies: Vec<PolicyId>,
    },
    /// There are more rules than numbers: this one stands for several.
    Shared {
        count: usize,
        /// The first few.
        some: Vec<Arc<RuleName>>,
    },
    /// A list of steps was cut: see the problems.
    TooLong,
}

impl RuleName {
    /// The policies that it belongs to.
    pub fn policies(&self) -> Vec<&PolicyId> {
        match self {
            RuleName::Rule { policy, .. } => vec![policy],
            RuleName::DefaultDeny { policies, .. } => policies.iter().collect(),
            RuleName::Shared { some, .. } => some.iter().flat_map(|name| name.policies()).collect(),
            RuleName::TooLong => Vec::new(),
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleName::Rule { policy, direction, index, name } => {
                write!(f, "{policy} {direction}[{index}]")?;
                if name.is_empty() { Ok(()) } else { write!(f, " \"{name}\"") }
            }
            RuleName::DefaultDeny { direction, policies } => {
                write!(f, "default deny by ")?;
                list(f, policies)?;
                write!(f, " ({direction})")
            }
            RuleName::Shared { count, some } => {
                write!(f, "one of {count} rules that share a number: ")?;
                list(f, some)?;
                f.write_str(if some.len() < *count { ", …" } else { "" })
            }
            RuleName::TooLong => f.write_str("too many port ranges for one peer, the rest is denied"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
    }
    Ok(())
}
