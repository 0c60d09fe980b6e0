//! A container of a pod as a kubelet and its runtime would start it: what the
//! manifest says of volumes, capabilities, environment and arguments, and what
//! a runtime does on its own (a read-only `/proc/sys` and `/sys`, a small
//! `/dev`). Not done: cgroups, seccomp, AppArmor, a namespace of pids.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{chdir, chroot},
};
use serde_json::Value;

use crate::apiserver::documents;

/// Linux's numbers (linux/capability.h) of those that manifests add.
const CAPABILITIES: [(&str, u32); 3] = [("NET_ADMIN", 12), ("NET_RAW", 13), ("SYS_ADMIN", 21)];
const SERVICE_ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// The first container of a workload's pods.
#[derive(Clone)]
pub struct Pod {
    spec: Value,
    annotations: Value,
    /// What is mounted in place of a path of the host's, and values of fields.
    pub hosts: Vec<(&'static str, PathBuf)>,
    pub fields: Vec<(&'static str, String)>,
    /// The authority's certificate and the token.
    pub account: (String, String),
    pub netns: PathBuf,
}

struct Mount {
    from: PathBuf,
    to: PathBuf,
    read_only: bool,
    propagation: MsFlags,
}

impl Pod {
    /// The first document of that kind in a manifest.
    pub fn read(path: &Path, kind: &str) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = documents(&text).into_iter().find(|document| document["kind"] == kind);
        let found = found.unwrap_or_else(|| panic!("no {kind} in {}", path.display()));
        let template = &found["spec"]["template"];
        let (spec, annotations) = (template["spec"].clone(), template["metadata"]["annotations"].clone());
        assert_eq!(spec["hostNetwork"], true, "pods with a network of their own are not made here");
        let account = Default::default();
        Self { spec, annotations, hosts: vec![], fields: vec![], account, netns: "/".into() }
    }

    /// A part of the pod's specification.
    pub fn spec(&self, pointer: &str) -> Value {
        self.spec.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}")).clone()
    }

    pub fn annotation(&self, key: &str) -> String {
        self.annotations[key].as_str().unwrap_or_else(|| panic!("no annotation {key}")).to_owned()
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// Takes a capability away that the manifest adds.
    pub fn drop_capability(&mut self, name: &str) {
        let added = &mut self.spec["containers"][0]["securityContext"]["capabilities"]["add"];
        let added = added.as_array_mut().unwrap();
        let before = added.len();
        added.retain(|added| added != name);
        assert_eq!(added.len() + 1, before, "{name} is not added");
    }

    /// Takes a volume away, where it is mounted and where it is from.
    pub fn drop_volume(&mut self, name: &str) {
        for list in ["/volumes", "/containers/0/volumeMounts"] {
            self.spec.pointer_mut(list).unwrap().as_array_mut().unwrap().retain(|item| item["name"] != name);
        }
    }

    pub fn capabilities(&self) -> Vec<String> {
        let context = &self.container()["securityContext"];
        assert_eq!(context["privileged"], Value::Null);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        strings(&context["capabilities"]["add"])
    }

    /// Puts a value in the place of the one that the manifest gives a variable.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let list = self.spec["containers"][0]["env"].as_array_mut().unwrap();
        let found = list.iter_mut().find(|variable| variable["name"] == name);
        found.unwrap_or_else(|| panic!("no variable {name}"))["value"] = value.into();
    }

    fn environment(&self) -> Vec<(String, String)> {
        let value = |variable: &Value| -> String {
            if let Some(value) = variable["value"].as_str() {
                return value.to_owned();
            }
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap();
            let known = self.fields.iter().find(|(known, _)| *known == field);
            known.unwrap_or_else(|| panic!("the test gives no {field}")).1.clone()
        };
        let list = self.container()["env"].as_array().unwrap();
        list.iter().map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable))).collect()
    }

    /// `$(NAME)` stands for a variable.
    fn arguments(&self) -> Vec<String> {
        let environment = self.environment();
        let expand = |text: String| {
            environment.iter().fold(text, |text, (name, value)| text.replace(&format!("$({name})"), value))
        };
        strings(&self.container()["args"]).into_iter().map(expand).collect()
    }

    fn mounts(&self, root: &Path) -> Vec<Mount> {
        let volumes = self.spec["volumes"].as_array().unwrap();
        let mount = |at: &Value| {
            let volume = volumes.iter().find(|volume| volume["name"] == at["name"]);
            let volume = &volume.unwrap_or_else(|| panic!("no volume for {at}"))["hostPath"];
            let path = volume["path"].as_str().unwrap_or_else(|| panic!("{at} is no hostPath"));
            let replaced = self.hosts.iter().find(|(host, _)| *host == path);
            let from = replaced.map_or_else(|| PathBuf::from(path), |(_, place)| place.clone());
            if volume["type"] == "DirectoryOrCreate" {
                fs::create_dir_all(&from).unwrap();
            }
            let inside = at["mountPath"].as_str().unwrap();
            let propagation = match at["mountPropagation"].as_str() {
                None | Some("None") => MsFlags::MS_PRIVATE,
                Some("HostToContainer") => MsFlags::MS_SLAVE,
                Some(other) => panic!("{other} asks for a privileged container"),
            };
            let to = root.join(inside.trim_start_matches('/'));
            // Those below /sys are there when it is mounted.
            if !inside.starts_with("/sys/") {
                fs::create_dir_all(&to).unwrap();
            }
            Mount { from, to, read_only: at["readOnly"] == true, propagation }
        };
        self.container()["volumeMounts"].as_array().unwrap().iter().map(mount).collect()
    }

    /// The command that starts it, in a root of its own below `dir`.
    pub fn command(&self, dir: &Path, program: &Path) -> Command {
        let root = dir.join("root");
        for name in ["proc", "sys", "dev", SERVICE_ACCOUNT] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["causeway", "causeway-cni"] {
            fs::copy(program.with_file_name(name), root.join(name)).unwrap();
        }
        let devices = ["null", "zero", "random", "urandom"];
        devices.iter().for_each(|name| fs::write(root.join("dev").join(name), "").unwrap());
        let account = root.join(SERVICE_ACCOUNT);
        for (name, text) in
            [("ca.crt", &self.account.0), ("token", &self.account.1), ("namespace", &"kube-system".into())]
        {
            fs::write(account.join(name), text).unwrap();
        }
        let devices: Vec<_> =
            devices.iter().map(|name| (Path::new("/dev").join(name), root.join("dev").join(name))).collect();
        let mounts = self.mounts(&root);
        let dropped = self.dropped();
        let netns = File::open(&self.netns).unwrap();
        let read_only_root = self.container()["securityContext"]["readOnlyRootFilesystem"] == true;

        let mut command = Command::new("/causeway");
        command.args(self.arguments()).env_clear().envs(self.environment());
        // As every pod has them: an address that leads nowhere yet.
        command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
        let (proc, sys) = (root.join("proc"), root.join("sys"));
        let proc_sys = proc.join("sys");
        let enter = move || -> io::Result<()> {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
            bind(&root, &root)?;
            mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), None::<&str>)?;
            bind(&proc_sys, &proc_sys)?;
            read_only(&proc_sys)?;
            mount(Some("sysfs"), &sys, Some("sysfs"), MsFlags::MS_RDONLY, None::<&str>)?;
            devices.iter().try_for_each(|(from, to)| bind(from, to))?;
            for mount in &mounts {
                bind(&mount.from, &mount.to)?;
                change(&mount.to, MsFlags::MS_REC | mount.propagation)?;
                if mount.read_only {
                    read_only(&mount.to)?;
                }
            }
            if read_only_root {
                read_only(&root)?;
            }
            chroot(&root)?;
            chdir("/")?;
            for capability in &dropped {
                // SAFETY: takes numbers and touches no memory of ours.
                if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: system calls over paths that were made before the fork.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// All capabilities but those that are added: root's program gets the rest.
    fn dropped(&self) -> Vec<u32> {
        let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
        let number = |name: &String| {
            let found = CAPABILITIES.iter().find(|(known, _)| known == name);
            found.unwrap_or_else(|| panic!("no number of CAP_{name} is known here")).1
        };
        let kept: Vec<u32> = self.capabilities().iter().map(number).collect();
        (0..=last).filter(|capability| !kept.contains(capability)).collect()
    }
}

/// The static binary that images carry.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // target/release/deps/SUITE
    let target = own.ancestors().nth(3).unwrap();
    let path = target.join("static/causeway");
    assert!(path.is_file(), "no {}: cargo xtask image builds it", path.display());
    path
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

fn read_only(at: &Path) -> io::Result<()> {
    change(at, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
}

fn change(at: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, at, None::<&str>, flags, None::<&str>)?)
}
