//! A network namespace as a value: made by a thread that leaves its own, named
//! under `/run/netns`, entered by threads that never come back out.

use std::{
    fs::{self, File, OpenOptions},
    os::fd::AsFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
    thread::{self, JoinHandle},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::scratch::{NETNS_DIR, unique};

/// Lives as long as this value and the threads and processes inside.
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
}

impl Netns {
    /// A new namespace with `lo` up.
    pub fn new() -> Self {
        let netns = Self::named(|path| {
            thread::scope(|scope| {
                let made = scope.spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network namespace: root is needed");
                    // The thread's own entry: the process stays where it was.
                    bind(Path::new("/proc/thread-self/ns/net"), path);
                });
                made.join().unwrap_or_else(|panic| resume_unwind(panic));
            });
        });
        netns.ip("link set lo up");
        netns
    }

    /// One that is there, such as a container's, by a name of our own.
    pub fn at(other: &Path) -> Self {
        Self::named(|path| bind(other, path))
    }

    fn named(make: impl FnOnce(&Path)) -> Self {
        let name = unique();
        let path = Path::new(NETNS_DIR).join(&name);
        share_directory();
        OpenOptions::new().create_new(true).write(true).open(&path).unwrap();
        make(&path);
        let file = File::open(&path).unwrap();
        Self { name, path, file }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `--netns` and `endpoint attach` take.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside, on a thread of its own, and returns its result. A
    /// panic inside is a panic outside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread inside. It keeps the namespace alive, named or not.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self.file.try_clone().unwrap();
        thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            work()
        })
    }

    /// Moves the calling thread inside, for good: for threads that do nothing else.
    pub fn enter(&self) {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
    }

    /// Runs `ip` with `arguments` inside; panics with its words when it fails.
    pub fn ip(&self, arguments: &str) -> String {
        let (success, output) = self.command("ip", arguments);
        assert!(success, "ip {arguments} in {}: {output}", self.name);
        output
    }

    /// Runs a program inside; returns whether it succeeded, and all it said.
    pub fn command(&self, program: &str, arguments: &str) -> (bool, String) {
        // A child has the namespace of the thread that starts it.
        let output = self.run(|| Command::new(program).args(arguments.split_whitespace()).output());
        match output {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                (output.status.success(), String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) => (false, format!("{program}: {error}")),
        }
    }

    /// A sysctl of this namespace, by its path below `/proc/sys`.
    pub fn sysctl(&self, key: &str) -> String {
        let path = Path::new("/proc/sys").join(key);
        let value = self.run(|| fs::read_to_string(&path));
        value.unwrap_or_else(|error| panic!("read {}: {error}", path.display())).trim().to_owned()
    }

    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("mount the namespace {}: {error}", from.display()));
}

/// As `ip netns add` leaves the directory: containers that have it mounted see
/// namespaces that are named later. On a machine with systemd all is shared.
fn share_directory() {
    static SHARE: Once = Once::new();
    SHARE.call_once(|| {
        fs::create_dir_all(NETNS_DIR).unwrap();
        let change = |from: Option<&str>, flags: MsFlags| {
            mount(from, NETNS_DIR, None::<&str>, flags | MsFlags::MS_REC, None::<&str>)
        };
        let shared = change(None, MsFlags::MS_SHARED).or_else(|_| {
            // It is no mount yet.
            change(Some(NETNS_DIR), MsFlags::MS_BIND)?;
            change(None, MsFlags::MS_SHARED)
        });
        shared.unwrap_or_else(|error| panic!("share {NETNS_DIR}: {error}"));
    });
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}
