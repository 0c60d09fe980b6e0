//! An agent as a value: the real binary, as a child that dies with the test.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use causeway::snapshot::Status;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    child,
    http::{get_by, post_by},
    pod::{self, Pod},
    scratch::{Dir, PinDir},
};

/// What an agent is started with.
pub struct Setup {
    pub node: String,
    /// `None`: another source is in the configuration.
    pub manifests: Option<PathBuf>,
    pub netns: PathBuf,
    pub uplink: Option<String>,
    /// Contents of `--config`, if any.
    pub config: Option<String>,
    /// What else it is told each time.
    pub arguments: Vec<String>,
    /// Started as a pod's container; of the above the node's name counts alone.
    pub pod: Option<Pod>,
}

/// A running, killed or stopped agent; its state and pins outlive the process
/// and go with the value.
pub struct Agent {
    setup: Setup,
    /// State directory, socket and log.
    dir: Dir,
    pins: PinDir,
    child: Option<Child>,
}

/// What a command of the CLI said.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: i32,
    /// Standard output read as JSON, null when it is none.
    pub json: Value,
    pub stdout: String,
    pub stderr: String,
}

impl Agent {
    pub fn start(setup: Setup) -> Self {
        let dir = Dir::new();
        fs::create_dir_all(dir.join("state")).unwrap();
        let mut agent = Self { setup, dir, pins: PinDir::new(), child: None };
        agent.restart();
        agent
    }

    /// Starts the process again, with the same state and pins.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// As [`Agent::restart`], with more arguments this once.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match self.setup.pod.clone() {
            Some(pod) => self.in_pod(pod),
            None => self.by_hand(),
        };
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(child::spawn(command));
    }

    fn by_hand(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("agent").arg("--node").arg(&self.setup.node);
        if let Some(manifests) = &self.setup.manifests {
            command.arg("--manifests").arg(manifests);
        }
        command.arg("--netns").arg(&self.setup.netns);
        command.arg("--state-dir").arg(self.dir.join("state")).arg("--bpffs").arg(self.pins.path());
        command.arg("--socket").arg(self.socket());
        if let Some(uplink) = &self.setup.uplink {
            command.arg("--uplink").arg(uplink);
        }
        if let Some(config) = &self.setup.config {
            let path = self.dir.join("config.toml");
            fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
        }
        command.args(&self.setup.arguments);
        command
    }

    /// With places of its own for what the manifest has on the host.
    fn in_pod(&self, mut pod: Pod) -> Command {
        fs::create_dir_all(self.pins.path()).unwrap();
        let [bin, conf] = self.cni_dirs();
        pod.hosts = vec![
            ("/run/causeway", self.dir.join("run")),
            ("/var/lib/causeway", self.state_dir()),
            ("/sys/fs/bpf", self.pins.path().to_owned()),
            ("/opt/cni/bin", bin),
            ("/etc/cni/net.d", conf),
        ];
        pod.netns.clone_from(&self.setup.netns);
        pod.fields.push(("spec.nodeName", self.setup.node.clone()));
        pod.command(self.dir.path(), &pod::program())
    }

    /// With another configuration file from the next start on.
    pub fn reconfigure(&mut self, config: &str) {
        self.setup.config = Some(config.to_owned());
    }

    pub fn kill9(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Asks it to end, as systemd does.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(child) = self.child.take() {
            child::end(child, signal);
        }
    }

    /// True while the process runs; false also after it ended by itself.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until the process has ended by itself; its exit code.
    pub fn ended(&mut self, patience: Duration) -> Option<i32> {
        let end = Instant::now() + patience;
        loop {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            match status {
                Some(status) => return status.code(),
                None => assert!(Instant::now() < end, "it goes on: {}", self.log_tail()),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Runs `causeway ARGUMENTS -o json` against this agent.
    pub fn cli(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(binary());
        command.args(arguments).args(["-o", "json"]).arg("--socket").arg(self.socket());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Said {
            code: output.status.code().unwrap_or(-1),
            json: serde_json::from_str(&stdout).unwrap_or(Value::Null),
            stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What `causeway ARGUMENTS` prints for people.
    pub fn text(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary());
        let output = command.args(arguments).arg("--socket").arg(self.socket()).stdin(Stdio::null()).output();
        let output = output.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// As [`Agent::cli`], and it must succeed.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let said = self.cli(arguments);
        assert!(said.code == 0, "causeway {arguments:?}: {said:?}\nlog:\n{}", self.log_tail());
        said.json
    }

    /// `None` while it does not answer.
    pub fn try_status(&self) -> Option<Status> {
        serde_json::from_value(self.cli(&["status"]).json).ok()
    }

    pub fn status(&self) -> Status {
        let said = self.cli(&["status"]);
        serde_json::from_value(said.json.clone())
            .unwrap_or_else(|error| panic!("status: {error}: {said:?}\nlog:\n{}", self.log_tail()))
    }

    /// What the node's programs have counted, by name.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let shown = self.ask(&["show", "counters"]);
        let rows = shown.as_array().into_iter().flatten();
        let row = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["packets"].as_u64()?));
        rows.filter_map(row).collect()
    }

    /// Until the socket answers.
    pub fn wait_up(&self, timeout: Duration) {
        self.wait_status("answers", timeout, |_| true);
    }

    /// Until `causeway wait` says that all written so far is in the kernel.
    pub fn wait_converged(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let seconds = timeout.as_secs().max(1).to_string();
        loop {
            let said = self.cli(&["wait", "--timeout", &seconds]);
            if said.code == 0 {
                return;
            }
            assert!(
                Instant::now() < end,
                "{} did not converge within {timeout:?}: {said:?}\nstatus {:#?}\nlog:\n{}",
                self.setup.node,
                self.try_status(),
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Polls `status` until `good`, and returns it.
    pub fn wait_status(&self, what: &str, timeout: Duration, good: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + timeout;
        loop {
            let status = self.try_status();
            if let Some(status) = &status
                && good(status)
            {
                return status.clone();
            }
            assert!(
                Instant::now() < end,
                "not within {timeout:?}: {what}; status {status:#?}\nlog:\n{}",
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The body of a GET on the agent's socket.
    pub fn get(&self, path: &str) -> String {
        get_by(UnixStream::connect(self.socket()).unwrap(), path).unwrap().body
    }

    /// Asks the API; panics with its words when it refuses.
    pub fn post(&self, path: &str, question: &Value) -> Value {
        let answer = post_by(UnixStream::connect(self.socket()).unwrap(), path, question).unwrap();
        assert_eq!(answer.status, 200, "{question}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    pub fn node(&self) -> &str {
        &self.setup.node
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join(if self.setup.pod.is_some() { "run/agent.sock" } else { "causeway.sock" })
    }

    pub fn pins(&self) -> &std::path::Path {
        self.pins.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where the host of its pod has container runtimes look for plugins, and for their
    /// configurations.
    pub fn cni_dirs(&self) -> [PathBuf; 2] {
        ["cni-bin", "cni-conf"].map(|name| self.dir.join(name))
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of agent {}:\n{}", self.setup.node, self.log_tail());
        }
        self.kill9();
    }
}

/// `$CAUSEWAY_BIN`, or the `causeway` built beside this program.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CAUSEWAY_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    // A test lies in `deps`, the demo beside the binary.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("causeway")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `causeway` near {}: cargo build --release", own.display()))
}
