//! The binary `causeway`: the agent, and the commands that ask it.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway::cli::main()
}
