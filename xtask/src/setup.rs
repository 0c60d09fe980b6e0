//! What does a machine need, and is it there? Each thing is checked before it
//! is installed, so the second run does nothing.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{ebpf, paths};

/// Packages of Debian 12, and what each is for.
const PACKAGES: [(&str, &str); 19] = [
    ("rustc-web", "a rustc that knows the BPF target"),
    ("libstd-rust-web-dev-bpf", "its `core` for the BPF target"),
    ("llvm-22-dev", "to build bpf-linker against an LLVM as new as that rustc"),
    ("libpolly-22-dev", "for the same"),
    ("libzstd-dev", "for the same"),
    ("zlib1g-dev", "for the same"),
    ("iproute2", "namespaces and links of the tests"),
    ("iptables", "to check that we leave its tables empty, and to be measured beside"),
    ("nftables", "to check that we leave its tables empty, and to be measured beside"),
    ("haproxy", "to be measured beside; its service is not started"),
    ("conntrack", "to check that we leave its table empty"),
    ("bpftool", "to look at programs and maps"),
    ("systemd", "to check the unit of the agent"),
    ("podman", "a container runtime, to call the CNI plugin"),
    ("runc", "for podman"),
    ("docker.io", "another container runtime, to call our driver; its service is not started"),
    ("containernetworking-plugins", "plugins of others, to stand behind ours"),
    ("busybox-static", "what runs in the containers of the tests, and in their machines"),
    ("python3-venv", "to hold manifests against the schemas of Kubernetes"),
];

const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const BPFFS: &str = "/sys/fs/bpf";
const RUST: (u32, u32) = (1, 95);

/// # Errors
/// Names what is missing, and the lines that install it.
pub fn run(shell: &Shell) -> Result<()> {
    check_rust(shell)?;
    let packages = missing_packages(shell)?;
    let linker = !has_linker(shell);
    let bpffs = !is_mounted();
    if packages.is_empty() && !linker && !bpffs {
        println!("set-up complete");
        return Ok(());
    }
    if !is_debian_12() {
        bail!(
            "this is not Debian 12, so nothing is installed for you; run:\n{}",
            lines(&packages, linker, bpffs)
        );
    }
    ensure!(
        paths::is_root(),
        "set-up must install packages and mount the BPF file system: run it as root, or run yourself:\n{}",
        lines(&packages, linker, bpffs)
    );
    if !packages.is_empty() {
        for (name, purpose) in PACKAGES.iter().filter(|(name, _)| packages.contains(name)) {
            println!("installing {name}: {purpose}");
        }
        let _quiet = shell.push_env("DEBIAN_FRONTEND", "noninteractive");
        let _idle = Idle::new().context("keep services from being started")?;
        cmd!(shell, "apt-get update -qq").run().context("update the lists of packages")?;
        cmd!(shell, "apt-get install -y -qq --no-install-recommends {packages...}")
            .ignore_stdout()
            .run()
            .context("install packages")?;
    }
    if linker {
        println!(
            "installing {LINKER} {LINKER_VERSION} from source: it links the BPF programs (about a minute)"
        );
        let cargo = paths::cargo();
        let path = format!("{LLVM}/bin:{}", paths::search_path());
        // Built for this machine, whatever the project is being built for.
        cmd!(shell, "{cargo} install {LINKER} --version {LINKER_VERSION} --no-default-features --features llvm-22 --locked --quiet")
            .env("LLVM_PREFIX", LLVM)
            .env("PATH", path)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .run()
            .context("install bpf-linker")?;
    }
    if bpffs {
        println!("mounting the BPF file system at {BPFFS}: pins live there");
        cmd!(shell, "mount -t bpf bpf {BPFFS}").run().context("mount the BPF file system")?;
    }
    ensure!(
        ebpf::compiler(shell).is_ok(),
        "the installed rustc has no core for BPF: see {LLVM} and rustc-web"
    );
    println!("set-up complete");
    Ok(())
}

/// Services of packages that are installed meanwhile are not started: Docker's would
/// put rules into the tables of this machine.
struct Idle {
    is_ours: bool,
}

impl Idle {
    /// What `invoke-rc.d` and `deb-systemd-invoke` ask.
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        let is_ours = !fs::exists(Self::POLICY)?;
        if is_ours {
            fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { is_ours })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

fn check_rust(shell: &Shell) -> Result<()> {
    let cargo = paths::cargo();
    let version = cmd!(shell, "{cargo} --version").quiet().read().context("ask cargo for its version")?;
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    ensure!(
        found >= RUST,
        "Rust {}.{} or later is needed, this is {number}: rustup update stable",
        RUST.0,
        RUST.1
    );
    Ok(())
}

fn missing_packages(shell: &Shell) -> Result<Vec<&'static str>> {
    // Elsewhere the tools may come by other names: only programs count.
    if !is_debian_12() {
        let programs =
            [("ip", "iproute2"), ("iptables", "iptables"), ("nft", "nftables"), ("conntrack", "conntrack")];
        return Ok(programs
            .into_iter()
            .filter(|(program, _)| paths::find(program).is_none())
            .map(|(_, package)| package)
            .collect());
    }
    let names: Vec<&'static str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    let format = "${Package} ${db:Status-Status}\n";
    let asked = &names;
    let listed = cmd!(shell, "dpkg-query -W -f {format} {asked...}")
        .ignore_status()
        .ignore_stderr()
        .quiet()
        .read()
        .context("ask dpkg")?;
    let installed = |name: &&str| listed.lines().any(|line| line == format!("{name} installed"));
    Ok(names.into_iter().filter(|name| !installed(name)).collect())
}

fn has_linker(shell: &Shell) -> bool {
    let there = cmd!(shell, "{LINKER} --version").env("PATH", paths::search_path()).quiet().ignore_stderr();
    there.read().is_ok()
}

fn is_mounted() -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(&format!(" {BPFFS} bpf ")))
}

fn is_debian_12() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|release| {
        release.lines().any(|line| line == "ID=debian")
            && release.lines().any(|line| line == "VERSION_ID=\"12\"")
    })
}

fn lines(packages: &[&str], linker: bool, bpffs: bool) -> String {
    let mut lines = Vec::new();
    if !packages.is_empty() {
        lines.push(format!("  apt-get install {}    # or your system's names for them", packages.join(" ")));
    }
    if linker {
        lines.push(format!(
            "  cargo install {LINKER} --version {LINKER_VERSION} --locked    # against an LLVM as new as rustc's"
        ));
    }
    if bpffs {
        lines.push(format!("  mount -t bpf bpf {BPFFS}"));
    }
    lines.push(
        "  rustup toolchain install nightly --component rust-src    # unless a rustc has core for BPF".into(),
    );
    lines.join("\n")
}
