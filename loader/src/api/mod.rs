//! The local API: JSON over a UNIX socket, for the CLI and for `curl`.

pub mod client;
pub mod server;
pub mod view;
