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

use crate::{
    deb,
    scratch::{Scratch, left_behind},
    whole,
};

const BOOT: &str = include_str!("booted/boot.sh");
const PROBE: &str = include_str!("booted/probe.sh");
const HOLD: &str = include_str!("booted/hold.py");
const PATIENCE: Duration = Duration::from_secs(180);
/// How long processes may take that have been killed.
const END: Duration = Duration::from_secs(5);

/// The machine; gone with the value, its processes and cgroups too.
struct Machine {
    init: Option<Child>,
    cgroup: PathBuf,
    handed: Scratch,
}

impl Machine {
    fn boot() -> Self {
        let cgroups = cgroups();
        left_behind(&cgroups).iter().for_each(|cgroup| end(cgroup));
        let handed = Scratch::new().unwrap();
        let cgroup = cgroups.join(handed.path().file_name().unwrap());
        // First of all the value: what fails from here on is cleared up.
        let mut machine = Self { init: None, cgroup, handed };
        machine.start();
        machine
    }

    fn start(&mut self) {
        for (name, text) in [("boot.sh", BOOT), ("probe.sh", PROBE), ("hold.py", HOLD)] {
            fs::write(self.handed.join(name), text).unwrap();
        }
        let package = self.handed.join("causeway.deb");
        deb::build(&Shell::new().unwrap(), "1.2.3", &whole::place(), &package).unwrap();
        fs::create_dir(&self.cgroup).unwrap();
        // Whoever kills this process kills `unshare`, and that process 1, with
        // which all others end.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]);
        command.args(["--cgroup", "--mount", "--net", "--pid", "--uts", "--ipc"]);
        command.arg("bash").arg(self.handed.join("boot.sh")).arg(self.handed.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(fs::File::create(self.handed.join("boot.log")).unwrap());
        let members = self.cgroup.join("cgroup.procs");
        // SAFETY: writes a file whose path was made before.
        unsafe { command.pre_exec(move || fs::write(&members, "0")) };
        self.init = Some(command.spawn().unwrap());
    }

    /// What the steps have said, when all are done.
    fn log(&mut self) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            // Asked first: what it said before it ended is in the log.
            let ended = self.init.as_mut().and_then(|init| init.try_wait().unwrap());
            let read = |name: &str| fs::read_to_string(self.handed.join(name)).unwrap_or_default();
            let log = read("log");
            if log.lines().any(|line| line == "done") {
                return log;
            }
            let boot = || read("boot.log");
            assert!(ended.is_none(), "the machine has ended ({ended:?}):\n{}{log}", boot());
            assert!(Instant::now() < give_up, "the steps have not come to their end:\n{}{log}", boot());
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&self.cgroup);
        if let Some(init) = &mut self.init {
            let _ = init.kill();
            let _ = init.wait();
        }
    }
}

/// Where the host has its cgroups.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields[2] == "cgroup2").expect("cgroup2 is mounted");
    mount[1].into()
}

/// Kills whoever is in a cgroup or below it, and removes it.
fn end(cgroup: &Path) {
    let give_up = Instant::now() + END;
    while cgroup.exists() && Instant::now() < give_up {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove(cgroup);
        thread::sleep(Duration::from_millis(20));
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

#[test]
fn what_is_in_a_cgroup_ends_with_it() {
    // Of this process: the machine of the other test clears up what is beside.
    let own = cgroups().join(format!("causeway-xtask-{}-own", std::process::id()));
    // Above the kernel's largest pid, so nobody has it.
    let dead = own.join("causeway-xtask-4194305-0");
    let below = dead.join("below");
    fs::create_dir_all(&below).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(below.join("cgroup.procs"), child.id().to_string()).unwrap();
    let left = left_behind(&own);
    left.iter().for_each(|cgroup| end(cgroup));
    let is_gone = !dead.exists();
    let _ = child.kill();
    let _ = child.wait();
    end(&own);
    assert!(left == [dead] && is_gone, "{left:?}");
}
