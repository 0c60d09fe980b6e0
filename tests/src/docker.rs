//! A real Docker engine, with everything it keeps in a directory of the test's, in
//! process and mount namespaces of its own: what it leaves behind ends with them.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{self, Agent},
    child,
    http::post_by,
    image::{self, IMAGE},
    netns::Netns,
    scratch::Dir,
    topology::{Cluster, Node},
    until::until,
};

/// In which an engine has its driver's answer, if only why not, whatever the agent is about.
pub const ANSWERED: Duration = Duration::from_secs(1);

/// The engine takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Docker {
    dir: Dir,
    /// The node's.
    netns: PathBuf,
    /// Holds the namespaces.
    holder: Option<Child>,
    engine: Option<Child>,
    driver: Option<Child>,
    arguments: Vec<String>,
}

impl Docker {
    /// The node's, without a network that is the engine's own.
    pub fn new(node: &Node) -> Self {
        Self::beside(&node.netns, node.agent().socket(), node.agent().state_dir())
    }

    /// With our driver, which asks the agent at `socket`, of whom there may be none yet.
    pub fn beside(netns: &Netns, socket: PathBuf, state_dir: PathBuf) -> Self {
        let dir = Dir::new();
        fs::create_dir_all(dir.join("run/plugins")).unwrap();
        let hold = format!(
            "mount --make-rprivate / && mkdir -p /run/docker && mount --bind {} /run/docker && exec sleep infinity",
            dir.join("run").display()
        );
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &hold]);
        let holder = child::spawn(command);
        let arguments = [
            ("--plugin", dir.join("run/plugins/causeway.sock")),
            ("--socket", socket),
            ("--state-dir", state_dir),
        ];
        let arguments =
            arguments.into_iter().flat_map(|(name, path)| [name.into(), path.display().to_string()]);
        let mut docker = Self {
            dir,
            netns: netns.path().to_owned(),
            holder: Some(holder),
            engine: None,
            driver: None,
            arguments: arguments.collect(),
        };
        let mounted = || fs::read_to_string(format!("/proc/{}/comm", docker.held())).ok();
        until("the namespaces", PATIENCE, || mounted().filter(|name| name.trim() == "sleep"));
        docker.start_driver();
        docker.start();
        let archive = image::archive(&docker.dir);
        docker.done(&["import", archive.to_str().unwrap(), IMAGE]);
        docker
    }

    /// The process that is in the namespaces.
    fn held(&self) -> u32 {
        only_child(self.holder.as_ref().unwrap().id()).unwrap_or(0)
    }

    fn start_driver(&mut self) {
        let mut command = Command::new(agent::binary().with_file_name("causeway-docker"));
        command.args(&self.arguments);
        let log = fs::File::options().create(true).append(true).open(self.dir.join("driver.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.driver = Some(child::spawn(command));
        let socket = self.dir.join("run/plugins/causeway.sock");
        until("the driver", PATIENCE, || UnixStream::connect(&socket).ok());
    }

    /// Kills the driver, and starts it anew.
    pub fn restart_driver(&mut self) {
        self.driver.take().into_iter().for_each(|driver| child::end(driver, Signal::SIGKILL));
        self.start_driver();
    }

    /// Starts the engine, and waits until it answers.
    pub fn start(&mut self) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.held())).args(["--mount", "--pid"]);
        command.arg(format!("--net={}", self.netns.display())).arg("dockerd");
        for (name, place) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(name).arg(self.dir.join(place));
        }
        let settings = self.dir.join("daemon.json");
        fs::write(&settings, documented()).unwrap();
        command.arg("--config-file").arg(settings);
        command.args(["--host", &self.host(), "--storage-driver", "vfs"]);
        let log = fs::File::options().create(true).append(true).open(self.dir.join("engine.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.engine = Some(child::spawn(command));
        until("the engine", PATIENCE, || self.try_done(&["version"]).0.then_some(()));
    }

    /// Ends the engine; what runs in containers goes on.
    pub fn stop(&mut self) {
        if let Some(engine) = self.engine.take() {
            only_child(engine.id()).into_iter().for_each(|pid| child::signal_to(pid, Signal::SIGTERM));
            child::end(engine, Signal::SIGCONT);
        }
    }

    /// What the agent's `--docker` takes.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    /// Runs a command in a new container, with more options; what it prints.
    pub fn run(&self, options: &[&str], command: &[&str]) -> String {
        self.done(&[&["run"][..], options, &[IMAGE], command].concat())
    }

    /// An engine on the cluster's first node, and the agent there, started anew, that
    /// watches it.
    pub fn watched(cluster: &mut Cluster) -> Self {
        cluster.wait_converged();
        let docker = Self::new(&cluster.nodes[0]);
        docker.watch(cluster.nodes[0].agent_mut());
        cluster.wait_converged();
        docker
    }

    /// Ends the node's agent, and starts one that watches the engine.
    pub fn watch(&self, agent: &mut Agent) {
        agent.stop();
        agent.restart_with(&["--docker", &self.host()]);
        agent.wait_up(PATIENCE);
    }

    /// Makes a network of ours, of both families.
    pub fn network(&self, name: &str, options: &[&str]) {
        let create = ["network", "create", "--driver", "causeway", "--ipam-driver", "causeway", "--ipv6"];
        self.done(&[&create[..], options, &[name]].concat());
    }

    /// Starts a web server in a network, which says its name at port 8080; its addresses.
    pub fn serve(&self, network: &str, name: &str, options: &[&str]) -> [String; 2] {
        let usual = ["--detach", "--name", name, "--network", network];
        let web = format!("busybox mkdir -p /www; echo {name} > /www/name; exec httpd -f -p 8080 -h /www");
        self.run(&[&usual[..], options].concat(), &["sh", "-c", &web]);
        self.addresses(name)
    }

    /// Of either family; empty where it has none.
    pub fn addresses(&self, container: &str) -> [String; 2] {
        ["IPAddress", "GlobalIPv6Address"].map(|field| {
            let format = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}");
            self.done(&["inspect", container, "--format", &format])
        })
    }

    /// Of a container that runs.
    pub fn netns(&self, container: &str) -> Netns {
        let key = self.done(&["inspect", container, "--format", "{{.NetworkSettings.SandboxKey}}"]);
        let path = key.replace("/var/run", "/run");
        Netns::at(Path::new(&format!("/proc/{}/root{path}", self.held())))
    }

    /// In a container that runs.
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        self.done(&[&["exec", container][..], command].concat())
    }

    pub fn remove(&self, container: &str) {
        self.done(&["rm", "--force", container]);
    }

    /// Its words; panics with them when it fails.
    pub fn done(&self, arguments: &[&str]) -> String {
        let (success, said) = self.try_done(arguments);
        assert!(success, "docker {arguments:?}: {said}\n{}", self.log_tail());
        said.trim().to_owned()
    }

    pub fn try_done(&self, arguments: &[&str]) -> (bool, String) {
        // The engine's own client, whatever else is called so.
        let mut command = Command::new("/usr/bin/docker");
        command.args(["--host", &self.host()]).args(arguments).stdin(Stdio::null());
        let output = command.env("DOCKER_CONFIG", self.dir.join("cli")).output();
        let output =
            output.unwrap_or_else(|error| panic!("docker: {error}: `cargo xtask setup` installs it"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Asks the driver itself, as the engine does: status and answer.
    pub fn call(&self, method: &str, question: &Value) -> (u16, Value) {
        let stream = UnixStream::connect(self.dir.join("run/plugins/causeway.sock")).unwrap();
        let answer = post_by(stream, &format!("/{method}"), question).unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// As [`Docker::try_done`], and how long it took.
    pub fn timed(&self, arguments: &[&str]) -> (bool, String, Duration) {
        let begun = Instant::now();
        let (success, said) = self.try_done(arguments);
        (success, said, begun.elapsed())
    }

    /// The last lines of the driver's log, and of the engine's.
    pub fn log_tail(&self) -> String {
        let tail = |name: &str| {
            let log = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        format!("driver:\n{}\nengine:\n{}", tail("driver.log"), tail("engine.log"))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let (_, containers) = self.try_done(&["ps", "--all", "--quiet"]);
        for container in containers.split_whitespace() {
            let _ = self.try_done(&["rm", "--force", container]);
        }
        self.stop();
        for child in [self.driver.take(), self.holder.take()].into_iter().flatten() {
            child::end(child, Signal::SIGKILL);
        }
    }
}

/// The engine's settings, as an operator is told to write them.
fn documented() -> &'static str {
    let guide = include_str!("../../docs/docker.md");
    let (_, settings) = guide.split_once("echo '").expect("the settings in docs/docker.md");
    settings.split('\'').next().unwrap()
}

fn only_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
