//! The local API: JSON over a UNIX socket, for the CLI and for `curl`.

mod attachments;
pub mod client;
mod egress_view;
pub mod policy_inputs;
mod policy_view;
pub mod proxy_health;
pub mod refusal;
pub mod selection_view;
pub mod server;
mod socket;
pub mod view;
mod wait;

#[cfg(test)]
mod json_tests;
#[cfg(test)]
mod tests;
