//! A real container runtime: podman, with its networks by CNI and everything it
//! keeps in a directory of the test's.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    agent,
    cni::Plugin,
    image::{self, IMAGE},
    scratch::Dir,
};

const NETWORK: &str = "causeway";

pub struct Podman {
    dir: Dir,
}

impl Podman {
    /// With one network: ours, and the plugins `behind` it.
    pub fn new(plugin: &Plugin, behind: &[Value]) -> Self {
        let podman = Self { dir: Dir::new() };
        let own = json!({
            "type": "causeway-cni", "socket": plugin.socket, "stateDir": plugin.state_dir,
            "capabilities": {"ips": true, "mac": true, "portMappings": true},
        });
        let plugins: Vec<&Value> = [&own].into_iter().chain(behind).collect();
        let list = json!({"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins}).to_string();
        let programs = agent::binary().parent().unwrap().display().to_string();
        let networks = podman.dir.join("networks");
        fs::create_dir_all(&networks).unwrap();
        fs::write(networks.join("05-causeway.conflist"), list).unwrap();
        let settings = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{programs}\", \"/usr/lib/cni\"]\n\
             network_config_dir = \"{}\"\ndefault_network = \"{NETWORK}\"\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
            networks.display()
        );
        fs::write(podman.settings(), settings).unwrap();
        let archive = image::archive(&podman.dir);
        podman.done(&["import", archive.to_str().unwrap(), IMAGE]);
        podman
    }

    fn settings(&self) -> PathBuf {
        self.dir.join("containers.conf")
    }

    /// Runs a command in a new container, with more options; what it prints.
    pub fn run(&self, options: &[&str], command: &[&str]) -> String {
        let (success, said) = self.try_run(options, command);
        assert!(success, "podman run {options:?} {command:?}: {said}");
        said.trim().to_owned()
    }

    pub fn try_run(&self, options: &[&str], command: &[&str]) -> (bool, String) {
        // The machine's own limits may be lower than podman's.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        self.try_done(&[&["run"][..], &limits, options, &[IMAGE], command].concat())
    }

    /// Of a container that runs.
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        self.done(&[&["exec", container][..], command].concat())
    }

    pub fn remove(&self, container: &str) {
        self.done(&["rm", "--force", "--time", "0", container]);
    }

    /// Its words; panics with them when it fails.
    pub fn done(&self, arguments: &[&str]) -> String {
        let (success, said) = self.try_done(arguments);
        assert!(success, "podman {arguments:?}: {said}");
        said.trim().to_owned()
    }

    pub fn try_done(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments).stdin(Stdio::null());
        let output = command.env("CONTAINERS_CONF", self.settings()).output();
        let output =
            output.unwrap_or_else(|error| panic!("podman: {error}: `cargo xtask setup` installs it"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.try_done(&["rm", "--all", "--force", "--time", "0"]);
        let _ = self.try_done(&["rmi", "--all", "--force"]);
    }
}
