//! A real containerd, with everything it keeps in a directory of the test's. It and its
//! client look for plugins in the usual places alone: the client is given such of its
//! own.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{agent, child, cni::Plugin, image, netns::Netns, scratch::Dir, until::until};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Containerd {
    dir: Dir,
    /// The node's.
    netns: String,
    daemon: Option<Child>,
}

impl Containerd {
    /// The node's, whose containers get their network by the plugin.
    pub fn new(netns: &Netns, plugin: &Plugin) -> Self {
        let dir = Dir::new();
        let own = json!({"type": "causeway-cni", "socket": plugin.socket, "stateDir": plugin.state_dir});
        let list = json!({"cniVersion": "1.0.0", "name": "causeway", "plugins": [own]}).to_string();
        for part in ["bin", "etc", "work"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::create_dir_all(dir.join("etc/cni/net.d")).unwrap();
        fs::write(dir.join("etc/cni/net.d/05-causeway.conflist"), list).unwrap();
        fs::copy(agent::binary().with_file_name("causeway-cni"), dir.join("bin/causeway-cni")).unwrap();
        image::archive(&dir);
        // What it would make beside.
        let opt = dir.join("opt");
        let config = format!("version = 2\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n");
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        for (name, place) in
            [("--config", "config.toml"), ("--address", "socket"), ("--root", "root"), ("--state", "state")]
        {
            command.arg(name).arg(dir.join(place));
        }
        let log = fs::File::create(dir.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Some(child::spawn(command));
        let containerd = Self { dir, netns: netns.path().display().to_string(), daemon };
        until("containerd", PATIENCE, || containerd.client("version").0.then_some(()));
        containerd
    }

    /// Runs a command in a new container, to its end; whether it succeeded, and its words.
    pub fn run(&self, id: &str, command: &str) -> (bool, String) {
        let root = self.dir.join("image");
        self.client(&format!(
            "run --rm --cni --env PATH=/bin --rootfs {} {id} /bin/sh -c '{command}'",
            root.display()
        ))
    }

    fn client(&self, arguments: &str) -> (bool, String) {
        let dir = self.dir.path().display();
        let script = format!(
            "mount -t overlay -o lowerdir=/etc,upperdir={dir}/etc,workdir={dir}/work overlay /etc && \
             mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni && ln -s {dir}/bin /opt/cni/bin && \
             exec ctr --address {dir}/socket --namespace test {arguments}"
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns));
        command.args(["unshare", "--mount", "sh", "-c", &script]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
        self.daemon.take().into_iter().for_each(|daemon| child::end(daemon, Signal::SIGTERM));
    }
}
