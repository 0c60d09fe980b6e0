//! Where are the pins? Under one directory of a BPF file system: `maps/NAME`,
//! `progs/BUILD/NAME`, `links/PROGRAM-IFINDEX`. They keep the dataplane running while
//! no agent does.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::MsFlags,
    sys::statfs::{FsType, statfs},
};

use super::{BpfError, sys};

/// Where every distribution mounts it.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const MAGIC: FsType = FsType(0xcafe_4a11);
/// The object that is built into this binary, by its contents.
const BUILD: &str = env!("CAUSEWAY_BPF_BUILD");

#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Those that may be there.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories, and mounts the file system when `root` lies below
    /// its usual place and nothing is mounted there yet.
    pub fn prepare(root: &Path) -> Result<Self, BpfError> {
        if root.starts_with(MOUNT_POINT) {
            mount(Path::new(MOUNT_POINT))?;
        }
        if !would_be_in_bpffs(root)? {
            return Err(BpfError::NotBpffs { path: root.to_owned() });
        }
        let pins = Self::at(root);
        for directory in [root, &pins.maps(), &pins.programs(), &pins.links()] {
            fs::create_dir_all(directory).map_err(|cause| {
                // EPERM is how a BPF file system answers to a dot in a name.
                let step = match cause.raw_os_error() {
                    Some(libc::EPERM) => "create (a name there must not contain a dot) directory",
                    _ => "create directory",
                };
                BpfError::call(step, directory.display().to_string())(cause)
            })?;
        }
        Ok(pins)
    }

    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Those of this build.
    pub fn programs(&self) -> PathBuf {
        self.root.join("progs").join(BUILD)
    }

    /// Removes the pins of all programs, of this build and of others. What runs
    /// goes on: its links and the map that it jumps by hold it.
    pub fn remove_programs(&self) -> Result<(), BpfError> {
        let mut errors = Vec::new();
        remove_tree(&self.root.join("progs"), &mut errors);
        BpfError::collect(errors)?;
        let own = self.programs();
        fs::create_dir_all(&own).map_err(BpfError::call("create directory", own.display().to_string()))
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Removes everything below the root, and the root: files (pins) and
    /// directories. Links must be detached before: a pin is only a reference.
    pub fn remove(&self) -> Result<(), BpfError> {
        let mut errors = Vec::new();
        remove_tree(&self.root, &mut errors);
        BpfError::collect(errors)
    }
}

/// Pins `object` at `path`, taking the place of what is there in one step: a
/// reader of the path finds the old object or the new, never nothing.
pub fn publish(object: &impl AsFd, path: &Path) -> Result<(), BpfError> {
    let fresh = beside(path);
    remove_file(&fresh).map_err(BpfError::call("remove", fresh.display().to_string()))?;
    sys::pin(object, &fresh).map_err(BpfError::call("pin", fresh.display().to_string()))?;
    fs::rename(&fresh, path).map_err(BpfError::call("rename into place", path.display().to_string()))
}

/// Names in a directory; none when it is not there.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removing what is not there succeeds.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The name that a pin has before it is in place. No extension: a BPF file
/// system reserves names with a dot.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("_new");
    PathBuf::from(name)
}

fn remove_tree(path: &Path, errors: &mut Vec<BpfError>) {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => {
            match names(path) {
                Ok(names) => names.iter().for_each(|name| remove_tree(&path.join(name), errors)),
                Err(cause) => errors.push(BpfError::call("list", path.display().to_string())(cause)),
            }
            fs::remove_dir(path)
        }
        Ok(_) => fs::remove_file(path),
    };
    if let Err(cause) = removed {
        errors.push(BpfError::call("remove", path.display().to_string())(cause));
    }
}

/// Whether a directory is, or would be made, in a BPF file system.
///
/// # Errors
/// When the kernel does not say.
pub fn would_be_in_bpffs(root: &Path) -> Result<bool, BpfError> {
    is_bpffs(root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")))
}

fn is_bpffs(path: &Path) -> Result<bool, BpfError> {
    let stat = statfs(path).map_err(|errno| {
        BpfError::call("look at the file system of", path.display().to_string())(errno.into())
    })?;
    Ok(stat.filesystem_type() == MAGIC)
}

/// Two agents that start at once must not mount over each other: the second
/// would hide the pins of the first.
fn mount(point: &Path) -> Result<(), BpfError> {
    let fail = |cause| BpfError::call("mount a BPF file system at", point.display().to_string())(cause);
    let directory = fs::File::open(point).map_err(fail)?;
    let _lock =
        Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| fail(io::Error::from(errno)))?;
    if is_bpffs(point)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| fail(io::Error::from(errno)))
}
