//! Do the programs work on kernels other than this one? Debian's are booted in
//! QEMU, with the tests inside: every program is loaded, and suites are run.

mod fetch;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{paths, scratch::Scratch};

const INIT: &str = include_str!("kernels/init.sh");
/// The oldest that all programs are for, and one between it and the newest.
pub const VERSIONS: [&str; 2] = ["6.1", "6.12"];
/// What is run unless suites are named: verdicts and bytes of either family, real
/// sockets by way of the agent.
pub const SUITES: [&str; 4] = ["packets", "packets6", "svc_udp", "svc_fragments"];
/// Each after those that it needs.
const MODULES: [&str; 8] = ["llc", "stp", "bridge", "veth", "dummy", "sch_ingress", "cls_bpf", "act_bpf"];
/// Of this system, for the tests.
const TOOLS: [&str; 3] = ["ip", "tc", "bpftool"];
const APPLETS: [&str; 10] =
    ["sh", "cat", "depmod", "dmesg", "mkdir", "modprobe", "mount", "poweroff", "tail", "uname"];
/// Seconds that a machine may run: each of its instructions is emulated.
const PATIENCE: &str = "1200";
/// What begins the lines that tell how far it is.
const TOLD: &str = "GUEST ";

/// Boots Debian's kernels of these versions, one after the other.
///
/// # Errors
/// Names the versions on which a program or a suite failed.
pub fn run(shell: &Shell, versions: &[String], suites: &[String]) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels to be booted are for x86-64: this is another machine");
    fetch::emulator(shell)?;
    let mut inside = vec![paths::built("causeway"), paths::built("causeway-verify")];
    for suite in suites {
        inside.push(suite_binary(shell, suite)?);
    }
    let mut failed = Vec::new();
    for version in versions {
        let context = || format!("Linux {version}");
        let kernel = fetch::kernel(shell, version).with_context(context)?;
        let scratch = Scratch::new()?;
        let disk = lay_out(shell, &scratch, &kernel, &inside, suites).with_context(context)?;
        if !boot(&kernel.image, &disk).with_context(context)? {
            failed.push(version.as_str());
        }
    }
    ensure!(failed.is_empty(), "failed on Linux {}", failed.join(", "));
    Ok(())
}

/// Builds a suite; what is to be run.
fn suite_binary(shell: &Shell, suite: &str) -> Result<PathBuf> {
    let cargo = paths::cargo();
    let arguments =
        ["--release", "--quiet", "-p", "causeway-testkit", "--no-run", "--message-format", "json"];
    let said = cmd!(shell, "{cargo} test {arguments...} --test {suite}").quiet().read()?;
    // The package's own programs are built and named as well.
    let of_suite =
        |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(&format!("{suite}-")));
    let mut named = said.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let built = named.rfind(of_suite);
    built.map(PathBuf::from).with_context(|| format!("cargo has not said where suite {suite} is"))
}

/// The machine's files, packed as a kernel unpacks them.
fn lay_out(
    shell: &Shell,
    scratch: &Scratch,
    kernel: &fetch::Kernel,
    inside: &[PathBuf],
    suites: &[String],
) -> Result<PathBuf> {
    let root = scratch.join("root");
    for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let busybox = root.join("bin/busybox");
    // The static one, which set-up has installed.
    fs::copy("/bin/busybox", &busybox).context("copy /bin/busybox")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    // Where the kernel looks for it.
    symlink("../bin/busybox", root.join("sbin/modprobe"))?;
    for module in MODULES {
        kernel.copy_module(shell, module, &root)?;
    }
    let mut libraries = BTreeSet::new();
    for path in inside.iter().cloned().chain(TOOLS.iter().filter_map(|tool| paths::find(tool))) {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program's name")?;
        // Without the hash that cargo puts behind a suite's.
        let plain = suites.iter().find(|suite| name.strip_prefix(suite.as_str()).is_some_and(is_hash));
        fs::copy(&path, root.join("bin").join(plain.map_or(name, String::as_str)))?;
        let linked = cmd!(shell, "ldd {path}").quiet().ignore_status().ignore_stderr().read()?;
        libraries.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    // What suites read has the path that was compiled into them.
    let read = ["tests", "deploy"].map(|dir| paths::root().join(dir));
    let objects = ["causeway.bpf.o", "bench-front.bpf.o"];
    for path in libraries.iter().chain(&read) {
        let place = root.join(path.strip_prefix("/")?);
        let parent = place.parent().context("a file's directory")?;
        fs::create_dir_all(parent)?;
        cmd!(shell, "cp -rL {path} {parent}").quiet().run()?;
    }
    for object in objects {
        fs::copy(paths::target().join(object), root.join("bin").join(object))?;
    }
    fs::write(root.join("modules"), MODULES.join(" "))?;
    fs::write(root.join("work.sh"), work(suites))?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let disk = scratch.join("initrd");
    let pack = "find . | bin/busybox cpio -o -H newc > ../initrd";
    let _inside = shell.push_dir(&root);
    cmd!(shell, "sh -c {pack}").quiet().ignore_stderr().run().context("pack the machine's files")?;
    Ok(disk)
}

fn is_hash(rest: &str) -> bool {
    rest.strip_prefix('-').is_some_and(|hash| hash.chars().all(|digit| digit.is_ascii_hexdigit()))
}

/// What is done inside, as a script that fails when any of it does.
fn work(suites: &[String]) -> String {
    let tests = paths::root().join("tests");
    let mut script = format!(
        "failed=0\nexport CAUSEWAY_BIN=/bin/causeway\ncd {}\n\
         causeway doctor --uplink lo || failed=1\n\
         causeway-verify --load-only || failed=1\n",
        tests.display()
    );
    for suite in suites {
        script.push_str(&format!("echo '{TOLD}suite {suite}'\n{suite} || failed=1\n"));
    }
    script.push_str("exit $failed\n");
    script
}

/// Whether all went well inside. Shows what it says.
fn boot(image: &Path, disk: &Path) -> Result<bool> {
    let mut qemu = Command::new("timeout");
    qemu.args([PATIENCE, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args([
            "-m",
            "4096",
            "-nographic",
            "-no-reboot",
            "-append",
            "console=ttyS0 quiet panic=-1",
            "-kernel",
        ])
        .arg(image)
        .arg("-initrd")
        .arg(disk);
    let mut machine =
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start qemu-system-x86_64")?;
    let (mut begun, mut ended) = (false, None);
    for line in BufReader::new(machine.stdout.take().context("the machine's console")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        // The firmware's own words come first, without an end of line.
        if let Some((_, told)) = line.split_once(TOLD) {
            begun = true;
            println!("== {told}");
            ended = told.strip_prefix("ended: ").map(str::to_owned).or(ended);
        } else if begun {
            println!("{line}");
        }
    }
    machine.wait()?;
    match ended.as_deref() {
        Some("0") => Ok(true),
        Some(_) => Ok(false),
        None if begun => bail!("the machine has not come to an end within {PATIENCE} s, or died"),
        None => bail!("the machine has not come up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suites_binary_is_told_from_others() {
        assert!(is_hash("-4f55ecffddfe0480") && !is_hash("6-4f55ecffddfe0480") && !is_hash(""));
    }

    #[test]
    fn one_that_fails_is_not_the_last_word() {
        let script = work(&["packets".to_owned(), "svc_udp".to_owned()]);
        assert!(script.contains("packets || failed=1\n") && script.ends_with("exit $failed\n"), "{script}");
    }
}
