//! What do those have in common that container runtimes call? They put a question
//! to the agent, over its socket, and what cannot be said to it now is left where
//! it finds it.

mod agent;
mod pending;

pub use agent::{Agent, Trouble};
pub use pending::Pending;
