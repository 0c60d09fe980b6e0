//! The binary `causeway-docker`: what Docker asks to attach containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway::docker::main()
}
