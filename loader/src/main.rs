//! The binary `causeway`: the agent, and the commands that ask it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What kube's client talks TLS with; two in one program must not be guessed at.
    let _ = rustls::crypto::ring::default_provider().install_default();
    causeway::cli::main()
}
