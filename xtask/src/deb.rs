//! What is in the Debian package? The static binaries, so that it depends on
//! nothing, its units, an example of its settings, completions and the docs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{elf, paths, scratch::Scratch, whole};

/// A setting of the operator's that an upgrade does not overwrite.
const CONFFILE: &str = "/etc/causeway/causeway.toml";
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/causeway"),
    ("zsh", "usr/share/zsh/vendor-completions/_causeway"),
    ("fish", "usr/share/fish/vendor_completions.d/causeway.fish"),
];
/// The second is for those who have Docker.
const UNITS: [&str; 2] = ["causeway.service", "causeway-docker.service"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The usual name of the package.
pub fn name(version: &str, binary: &Path) -> Result<String> {
    Ok(format!("causeway_{version}_{}.deb", architecture(binary)?))
}

/// Builds it from a static binary. The same input gives the same bytes.
///
/// # Errors
/// Names the file, or what `dpkg-deb` says.
pub fn build(shell: &Shell, version: &str, binary: &Path, output: &Path) -> Result<()> {
    let staging = Staging::new()?;
    staging.copy(binary, "usr/bin/causeway", 0o755)?;
    // Where Debian's container runtimes look for plugins.
    staging.copy(&whole::plugin_of(binary), "usr/lib/cni/causeway-cni", 0o755)?;
    staging.copy(&whole::driver_of(binary), "usr/bin/causeway-docker", 0o755)?;
    let deploy = paths::root().join("deploy");
    for unit in UNITS {
        staging.copy(&deploy.join(unit), &format!("usr/lib/systemd/system/{unit}"), 0o644)?;
    }
    staging.copy(&deploy.join("causeway.toml"), &CONFFILE[1..], 0o644)?;
    staging.directory("etc/causeway/manifests")?;
    for (kind, place) in COMPLETIONS {
        let script = cmd!(shell, "{binary} completion {kind}").quiet().output()?.stdout;
        staging.write(place, &script, 0o644)?;
    }
    let doc = Path::new("usr/share/doc/causeway");
    for file in documents()? {
        let name = file.file_name().context("a document's name")?;
        staging.copy(&file, &doc.join(name).to_string_lossy(), 0o644)?;
    }
    staging.write(&doc.join("copyright").to_string_lossy(), copyright()?.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        staging.copy(&deploy.join("deb").join(script), &format!("DEBIAN/{script}"), 0o755)?;
    }
    staging.write("DEBIAN/conffiles", format!("{CONFFILE}\n").as_bytes(), 0o644)?;
    let control = control(version, architecture(binary)?, fs::metadata(binary)?.len());
    staging.write("DEBIAN/control", control.as_bytes(), 0o644)?;
    let root = staging.0.path();
    cmd!(shell, "dpkg-deb --root-owner-group -Zgzip --build {root} {output}")
        .env("SOURCE_DATE_EPOCH", "0")
        .quiet()
        .ignore_stdout()
        .run()
        .context("build the package")
}

fn architecture(binary: &Path) -> Result<&'static str> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    Ok(elf::read(&bytes).with_context(|| binary.display().to_string())?.architecture)
}

fn control(version: &str, architecture: &str, size: u64) -> String {
    format!(
        "Package: causeway\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: The Causeway developers\n\
         Installed-Size: {}\n\
         Section: net\n\
         Priority: optional\n\
         Description: dataplane of a container host, without iptables\n \
         TC and XDP programs carry packets from container to container and to\n \
         services; one agent per node fills their BPF maps from manifests, the API\n \
         server of Kubernetes or the Docker engine. Needs Linux 6.1 or later.\n",
        size.div_ceil(1024)
    )
}

/// README and docs/, in order.
fn documents() -> Result<Vec<PathBuf>> {
    let mut files = vec![paths::root().join("README.md")];
    for entry in fs::read_dir(paths::root().join("docs")).context("read docs/")? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// As Debian wants it (machine-readable, 1.0).
fn copyright() -> Result<String> {
    let mit = fs::read_to_string(paths::root().join("LICENSE-MIT")).context("read LICENSE-MIT")?;
    let holder = mit.lines().find_map(|line| line.strip_prefix("Copyright (c) ")).unwrap_or("its authors");
    let indented = |line: &str| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") };
    let text: String = mit.lines().map(indented).collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: causeway\n\n\
         Files: *\nCopyright: {holder}\nLicense: MIT or Apache-2.0\n\n\
         License: MIT\n{text}\n\
         License: Apache-2.0\n On Debian the text is in /usr/share/common-licenses/Apache-2.0.\n"
    ))
}

/// The tree that becomes the package.
struct Staging(Scratch);

impl Staging {
    fn new() -> Result<Self> {
        let staging = Self(Scratch::new()?);
        staging.directory("DEBIAN")?;
        Ok(staging)
    }

    /// Whatever the umask is: directories of a package are 0755.
    fn directory(&self, path: &str) -> Result<()> {
        let mut place = self.0.path().to_owned();
        for part in Path::new("").join(path).components() {
            fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
            place.push(part);
        }
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        Ok(fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?)
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        self.directory(&parent.to_string_lossy())?;
        let place = self.0.join(path);
        fs::write(&place, bytes).with_context(|| format!("write {}", place.display()))?;
        Ok(fs::set_permissions(&place, fs::Permissions::from_mode(mode))?)
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        self.write(to, &fs::read(from).with_context(|| format!("read {}", from.display()))?, mode)
    }
}

#[cfg(test)]
#[path = "deb_tests.rs"]
mod tests;
