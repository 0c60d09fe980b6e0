//! What runs in the containers of real runtimes: busybox alone. None is fetched.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use crate::scratch::Dir;

/// What it is imported as.
pub const IMAGE: &str = "tools";

const APPLETS: [&str; 7] = ["sh", "cat", "httpd", "ip", "nc", "sleep", "wget"];
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Its files as `podman import` and `docker import` take them.
pub fn archive(dir: &Dir) -> PathBuf {
    let bin = dir.join("image/bin");
    fs::create_dir_all(&bin).unwrap();
    let busybox = BUSYBOX.iter().find(|path| fs::exists(path).unwrap_or(false));
    let busybox = busybox.expect("no busybox: `cargo xtask setup` installs what is missing");
    fs::copy(busybox, bin.join("busybox")).unwrap();
    APPLETS.iter().for_each(|name| symlink("busybox", bin.join(name)).unwrap());
    let archive = dir.join("image.tar");
    let packed =
        Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(dir.join("image")).arg(".").status();
    assert!(packed.unwrap().success());
    archive
}
