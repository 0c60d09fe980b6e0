//! How are the programs built that need nothing beside them? With the C library
//! inside, for places that have none or an older one: an image, another system.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{elf, paths};

/// The agent with its commands, the plugin for container runtimes, and Docker's driver.
const BINARIES: [&str; 3] = ["causeway", "causeway-cni", "causeway-docker"];

/// Where the agent is put; the others are beside it.
pub fn place() -> PathBuf {
    paths::target().join("static").join(BINARIES[0])
}

/// The plugin that belongs to an agent's binary.
pub fn plugin_of(binary: &Path) -> PathBuf {
    binary.with_file_name(BINARIES[1])
}

/// The driver that belongs to an agent's binary.
pub fn driver_of(binary: &Path) -> PathBuf {
    binary.with_file_name(BINARIES[2])
}

/// Builds them. Only the binaries are linked anew: what is inside is the build that
/// the tests run.
///
/// # Errors
/// When they do not build, or would need a library after all.
pub fn build(shell: &Shell) -> Result<PathBuf> {
    let cargo = paths::cargo();
    let package = ["--release", "--quiet", "-p", "causeway"];
    let flags = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"];
    let mut built = Vec::new();
    for name in BINARIES {
        cmd!(shell, "{cargo} rustc {package...} --bin {name} -- {flags...}")
            .quiet()
            .run()
            .context("build")?;
        built.push((name, fs::read(paths::built(name)).context("read the built binary")?));
    }
    // Back in their place come those that the tests know.
    cmd!(shell, "{cargo} build {package...} --bins").quiet().run().context("build")?;
    for (name, binary) in built {
        let facts = elf::read(&binary).with_context(|| format!("the built {name}"))?;
        ensure!(facts.is_static, "the built {name} is not static: it asks for a loader or libraries");
        let place = place().with_file_name(name);
        if fs::read(&place).ok().as_ref() != Some(&binary) {
            fs::create_dir_all(place.parent().unwrap_or(&place)).context("make a directory")?;
            // Another name first: the old file may be running.
            let fresh = place.with_extension("new");
            fs::write(&fresh, &binary).with_context(|| format!("write {}", fresh.display()))?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).context("make it executable")?;
            fs::rename(&fresh, &place).with_context(|| format!("write {}", place.display()))?;
        }
    }
    Ok(place())
}
