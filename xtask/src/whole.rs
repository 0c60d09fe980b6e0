//! How is the agent built that needs nothing beside it? With the C library
//! inside, for places that have none or an older one: an image, another system.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{elf, paths};

/// Where the binary is put.
pub fn place() -> PathBuf {
    paths::target().join("static").join("causeway")
}

/// Builds it. Only the binary is linked anew: what is inside is the build that
/// the tests run.
///
/// # Errors
/// When it does not build, or would need a library after all.
pub fn build(shell: &Shell) -> Result<PathBuf> {
    let cargo = paths::cargo();
    let package = ["--release", "--quiet", "-p", "causeway"];
    let flags = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"];
    cmd!(shell, "{cargo} rustc {package...} --bin causeway -- {flags...}").quiet().run().context("build")?;
    let binary = fs::read(paths::built("causeway")).context("read the built binary")?;
    // Back in its place comes the one that the tests know.
    cmd!(shell, "{cargo} build {package...} --bins").quiet().run().context("build")?;
    let facts = elf::read(&binary).context("the built binary")?;
    ensure!(facts.is_static, "the built binary is not static: it asks for a loader or libraries");
    let place = place();
    if fs::read(&place).ok().as_ref() != Some(&binary) {
        fs::create_dir_all(place.parent().unwrap_or(&place)).context("make a directory")?;
        // Another name first: the old file may be running.
        let fresh = place.with_extension("new");
        fs::write(&fresh, &binary).with_context(|| format!("write {}", fresh.display()))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        fs::rename(&fresh, &place).with_context(|| format!("write {}", place.display()))?;
    }
    Ok(place)
}
