//! Does the package work on a machine with systemd? One is booted in namespaces
//! of its own, over this system's files, and used as an operator would.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use xshell::Shell;

use crate::{deb, whole};

const BOOT: &str = include_str!("booted/boot.sh");
const PROBE: &str = include_str!("booted/probe.sh");
const PATIENCE: Duration = Duration::from_secs(90);

/// The machine; gone with the value, its processes and cgroups too.
struct Machine {
    init: Child,
    cgroup: PathBuf,
    handed: PathBuf,
}

impl Machine {
    fn boot() -> Self {
        let handed = std::env::temp_dir().join(format!("causeway-booted-{}", std::process::id()));
        let _ = fs::remove_dir_all(&handed);
        fs::create_dir_all(&handed).unwrap();
        fs::write(handed.join("boot.sh"), BOOT).unwrap();
        fs::write(handed.join("probe.sh"), PROBE).unwrap();
        deb::build(&Shell::new().unwrap(), "1.2.3", &whole::place(), &handed.join("causeway.deb")).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields[2] == "cgroup2").expect("cgroup2 is mounted");
        let cgroup = Path::new(mount[1]).join(format!("causeway-booted-{}", std::process::id()));
        fs::create_dir_all(&cgroup).unwrap();
        let mut command = Command::new("unshare");
        command.args([
            "-C",
            "-m",
            "-n",
            "-p",
            "-u",
            "-i",
            "--fork",
            "--propagation",
            "private",
            "--kill-child",
        ]);
        command.arg("bash").arg(handed.join("boot.sh")).arg(&handed).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(fs::File::create(handed.join("boot.log")).unwrap());
        let members = cgroup.join("cgroup.procs");
        // SAFETY: writes a file whose path was made before.
        unsafe { command.pre_exec(move || fs::write(&members, "0")) };
        Self { init: command.spawn().unwrap(), cgroup, handed }
    }

    /// What the steps have said, when all are done.
    fn log(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.handed.join("log")).unwrap_or_default();
            if log.lines().any(|line| line == "done") {
                return log;
            }
            let boot = || fs::read_to_string(self.handed.join("boot.log")).unwrap_or_default();
            assert!(Instant::now() < end, "the steps have not come to their end:\n{}{log}", boot());
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `--kill-child`: process 1 dies with it, and with that all others.
        let _ = self.init.kill();
        let _ = self.init.wait();
        let end = Instant::now() + Duration::from_secs(5);
        while self.cgroup.exists() && Instant::now() < end {
            remove(&self.cgroup);
            thread::sleep(Duration::from_millis(50));
        }
        let _ = fs::remove_dir_all(&self.handed);
    }
}

/// Removes a cgroup and those below; one that has processes stays.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[test]
fn the_package_works_under_systemd() {
    let log = Machine::boot().log();
    println!("{log}");
    let steps = log.lines().filter(|line| line.starts_with("ok: ")).count();
    assert!(!log.contains("FAILED: "), "{log}");
    assert_eq!(steps, PROBE.lines().filter(|line| line.starts_with("is \"")).count(), "{log}");
}
