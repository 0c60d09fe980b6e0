//! Where do the kernels come from, and what boots them? Packages of Debian 12 and
//! its backports, by a list of sources of our own; the system's is not touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::paths;

const RELEASE: &str = "bookworm";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The release's own, 7.2, crashes its guests now and then.
const EMULATOR: &str = "qemu-system-x86";
const OLDEST_EMULATOR: u32 = 8;

pub struct Kernel {
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    modules: PathBuf,
}

impl Kernel {
    /// Puts a module into the file system below `root`, for that system's `modprobe`.
    pub fn copy_module(&self, shell: &Shell, name: &str, root: &Path) -> Result<()> {
        let release = self.modules.file_name().context("the modules' release")?;
        let place = root.join("lib/modules").join(release);
        fs::create_dir_all(&place)?;
        let modules = &self.modules;
        let pattern = format!("{name}.ko*");
        let found = cmd!(shell, "find {modules} -name {pattern}").quiet().read()?;
        // One that is not there is part of the kernel.
        let Some(file) = found.lines().next() else { return Ok(()) };
        cmd!(shell, "cp {file} {place}").quiet().run()?;
        let packed = place.join(format!("{name}.ko.xz"));
        if packed.exists() {
            cmd!(shell, "xz -d {packed}").quiet().run().context("unpack a module")?;
        }
        Ok(())
    }
}

/// Where what was fetched is kept for the next time.
fn kept() -> PathBuf {
    paths::target().join("kernels")
}

/// The newest kernel of Debian whose version begins so.
pub fn kernel(shell: &Shell, version: &str) -> Result<Kernel> {
    let place = kept().join(version);
    if !place.exists() {
        let apt = Apt::new(shell)?;
        let name = apt.newest(&format!("linux-image-{version}."), "-cloud-amd64")?;
        println!("fetching {name}");
        apt.unpack(&name, &place)?;
    }
    let only = |dir: &str, prefix: &str| -> Result<PathBuf> {
        let dir = place.join(dir);
        let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let named =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        paths.into_iter().find(named).with_context(|| format!("no {prefix}* in {}", dir.display()))
    };
    let modules = ["lib/modules", "usr/lib/modules"].into_iter().find(|dir| place.join(dir).exists());
    Ok(Kernel {
        image: only("boot", "vmlinuz-")?,
        modules: only(modules.context("the package has no modules")?, version)?,
    })
}

/// # Errors
/// When there is none, and it may not be installed here.
pub fn emulator(shell: &Shell) -> Result<()> {
    let said = cmd!(shell, "qemu-system-x86_64 --version").quiet().ignore_stderr().read().unwrap_or_default();
    let version =
        said.split_once("version ").and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    if version.is_some_and(|version| version >= OLDEST_EMULATOR) {
        return Ok(());
    }
    ensure!(paths::is_root(), "QEMU {OLDEST_EMULATOR} or later is needed: install it, or run this as root");
    println!("installing {EMULATOR}: it boots the kernels");
    let options = Apt::new(shell)?.options;
    let _quiet = shell.push_env("DEBIAN_FRONTEND", "noninteractive");
    let target = format!("{RELEASE}-backports");
    cmd!(shell, "apt-get {options...} install -y -qq --no-install-recommends -t {target} {EMULATOR}")
        .ignore_stdout()
        .run()
        .context("install QEMU")
}

/// Debian's packages, by lists of our own.
struct Apt<'a> {
    shell: &'a Shell,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    fn new(shell: &'a Shell) -> Result<Self> {
        let mirror = mirror(shell)?;
        let lists = kept().join("lists");
        fs::create_dir_all(lists.join("partial"))?;
        let sources = kept().join("sources.list");
        let line = |suite: &str| format!("deb [signed-by={KEYS}] {mirror} {suite} main\n");
        fs::write(&sources, line(RELEASE) + &line(&format!("{RELEASE}-backports")))?;
        let options: Vec<String> = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State::lists={}", lists.display()),
            "APT::Sandbox::User=root".into(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect();
        let asked = &options;
        cmd!(shell, "apt-get {asked...} update -qq")
            .quiet()
            .run()
            .context("read Debian's lists of packages")?;
        Ok(Self { shell, options })
    }

    /// Of the packages so named the one with the highest numbers.
    fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let Self { shell, options } = self;
        let names = cmd!(shell, "apt-cache {options...} pkgnames {prefix}").quiet().read()?;
        let fitting = names.lines().filter(|name| name.ends_with(suffix));
        let newest = fitting.max_by_key(|name| numbers(name));
        newest.map(str::to_owned).with_context(|| format!("Debian has no {prefix}*{suffix}"))
    }

    /// A package's files, whole or not at all.
    fn unpack(&self, package: &str, place: &Path) -> Result<()> {
        let Self { shell, options } = self;
        let fresh = place.with_extension("new");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh)?;
        let _inside = shell.push_dir(&fresh);
        cmd!(shell, "apt-get {options...} download -qq {package}")
            .quiet()
            .run()
            .context("fetch the package")?;
        let Some(file) = fs::read_dir(&fresh)?.flatten().map(|entry| entry.path()).next() else {
            bail!("apt-get has not fetched {package}");
        };
        cmd!(shell, "dpkg-deb -x {file} .").quiet().run().context("unpack the package")?;
        fs::remove_file(&file)?;
        fs::rename(&fresh, place).with_context(|| format!("write {}", place.display()))
    }
}

/// The numbers in a name, to be compared one after the other.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|at: char| !at.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Where this system has Debian's packages from.
fn mirror(shell: &Shell) -> Result<String> {
    let format = "$(SITE) $(REPO_URI)";
    let said = cmd!(shell, "apt-get indextargets --format {format}")
        .quiet()
        .ignore_stderr()
        .read()
        .context("ask apt-get: the kernels are packages of Debian 12")?;
    let uris = said.lines().filter_map(|line| line.rsplit(' ').next());
    let own = uris.map(|uri| uri.trim_end_matches('/')).find(|uri| uri.ends_with("/debian"));
    own.map(str::to_owned).context("apt-get has no source of Debian's own packages: this is not Debian 12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_has_the_highest_numbers() {
        let [old, new] = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"];
        assert!(numbers(new) > numbers(old));
    }
}
