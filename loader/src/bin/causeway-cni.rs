//! The binary `causeway-cni`: what container runtimes call to attach containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway::cni::main()
}
