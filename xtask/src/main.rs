//! The only build system a developer needs: `cargo xtask COMMAND`.

#[cfg(test)]
mod booted;
mod ci;
mod deb;
mod ebpf;
mod elf;
mod image;
mod kernels;
mod paths;
mod runner;
mod schemas;
mod scratch;
mod setup;
mod suites;
mod whole;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use xshell::Shell;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set up, build, show and test Causeway")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on Debian 12; elsewhere print the lines to run.
    Setup,
    /// Build the BPF programs into the target directory.
    BuildEbpf,
    /// Set up, build, and show two nodes and six containers under load (root).
    Demo {
        /// Passed on; --help tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Set up, build, and run every test (root).
    Test {
        /// Passed on to `cargo test`: a name to filter by, `-- --nocapture`, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Load every program on this kernel and hold its size against dataplane-ebpf/instructions.txt (root).
    Verify {
        /// Rewrite the file, for review.
        #[arg(long)]
        update: bool,
    },
    /// Boot other kernels (Debian's, in QEMU), load every program there, and run suites (root).
    Kernels(Kernels),
    /// Play a folder of policy cases over real connections (root); docs/netpol.md.
    Netpol {
        /// The folder and what else is passed on; --help tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Play a folder of cases of what the CNI plugin should say (root); docs/cni.md.
    CniConformance {
        /// The folder and what else is passed on; --help tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the container image, without a daemon: an OCI layout in a tar.
    Image(Image),
    /// Build the Debian package.
    Deb(Deb),
    /// Check the rules of the house: import arrows, file sizes, unfinished code.
    Tidy,
    /// Run the benchmarks (root).
    Bench {
        /// Passed on; --help tells.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything that must pass: format, lints, tests, verification.
    Ci,
}

#[derive(clap::Args)]
struct Kernels {
    /// Of which kernels: the newest that Debian 12 or its backports have.
    #[arg(value_name = "VERSION", default_values = kernels::VERSIONS)]
    versions: Vec<String>,
    /// A suite of tests/suites to run there; may be given several times.
    #[arg(long = "suite", value_name = "NAME", default_values = kernels::SUITES)]
    suites: Vec<String>,
}

#[derive(clap::Args)]
struct Deb {
    /// Where to; target/causeway_VERSION_ARCHITECTURE.deb unless given.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    output: Option<PathBuf>,
    /// Pack this static binary, and those beside it, instead of building them.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    binary: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Image {
    /// Where to; target/causeway-image.tar unless given.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    output: Option<PathBuf>,
    /// Pack this static binary, and those beside it, instead of building them.
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    binary: Option<PathBuf>,
    /// Where the source is, for the label org.opencontainers.image.source.
    #[arg(long, value_name = "URL")]
    source: Option<String>,
}

/// Tools run at the top of the tree: a path is meant from where the caller is.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(paths::root());
    match command {
        Command::Setup => setup::run(&shell).and_then(|()| schemas::install(&shell)),
        Command::BuildEbpf => ebpf::build(&shell),
        Command::Demo { arguments } => suites::demo(&shell, &arguments),
        Command::Test { arguments } => suites::test(&shell, &arguments),
        Command::Verify { update } => suites::verify(&shell, update),
        Command::Kernels(Kernels { versions, suites }) => suites::kernels(&shell, &versions, &suites),
        Command::Netpol { arguments } => suites::netpol(&shell, &arguments),
        Command::CniConformance { arguments } => suites::cni_conformance(&shell, &arguments),
        Command::Image(Image { output, binary, source }) => suites::image(&shell, output, binary, source),
        Command::Deb(Deb { output, binary }) => suites::deb(&shell, output, binary),
        Command::Tidy => suites::tidy(&shell),
        Command::Bench { arguments } => suites::bench(&shell, &arguments),
        Command::Ci => ci::run(&shell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_from_where_the_caller_is() {
        let here = std::env::current_dir().unwrap();
        for command in ["image", "deb"] {
            let arguments = ["xtask", command, "--output", "a/b", "--binary", "c"];
            let (output, binary) = match Arguments::parse_from(arguments).command {
                Command::Image(Image { output, binary, .. }) | Command::Deb(Deb { output, binary }) => {
                    (output, binary)
                }
                _ => panic!("{command} is another command"),
            };
            assert_eq!((output, binary), (Some(here.join("a/b")), Some(here.join("c"))));
        }
    }
}
