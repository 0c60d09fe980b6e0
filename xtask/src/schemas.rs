//! Are deploy/'s manifests what Kubernetes takes? Held against its published
//! schemas, strictly: a field that does not exist is an error.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::paths;

/// Of PyPI; the schemas are in it, and its version is that of Kubernetes.
const PACKAGE: &str = "kubernetes-validate";
const VERSION: &str = "1.36.0";

/// Where it is, with what it needs beside it.
fn place() -> PathBuf {
    paths::target().join("schemas")
}

fn program() -> PathBuf {
    place().join("bin").join(PACKAGE)
}

/// Installs the validator, unless it is there.
///
/// # Errors
/// When Python has no `venv`, or the package cannot be had.
pub fn install(shell: &Shell) -> Result<()> {
    let program = program();
    let there = cmd!(shell, "{program} --version").quiet().ignore_stderr().read();
    if there.is_ok_and(|version| version.contains(VERSION)) {
        return Ok(());
    }
    println!("installing {PACKAGE} {VERSION}: it holds deploy/ against the schemas of Kubernetes");
    let place = place();
    // Debian's Python has the `venv` of Debian's package.
    let python = if shell.path_exists("/usr/bin/python3") { "/usr/bin/python3" } else { "python3" };
    cmd!(shell, "{python} -m venv --clear {place}").quiet().run().context("make a place for it")?;
    let pip = place.join("bin/pip");
    cmd!(shell, "{pip} install --quiet --disable-pip-version-check {PACKAGE}=={VERSION}")
        .quiet()
        .run()
        .with_context(|| format!("install {PACKAGE}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    /// Whether all of a file is right, and what is said of it.
    fn validate(path: &Path) -> (bool, String) {
        let version = VERSION.rsplit_once('.').unwrap().0;
        let said = Command::new(program()).args(["--strict", "-k", version]).arg(path).output();
        let said = said.unwrap_or_else(|error| panic!("{error}: cargo xtask test installs {PACKAGE}"));
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    }

    #[test]
    fn every_manifest_of_deploy_is_right() {
        let mut files = 0;
        for entry in fs::read_dir(paths::root().join("deploy")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files += 1;
                let (right, said) = validate(&path);
                assert!(right, "{said}");
                assert!(said.contains("passed for resource"), "{said}");
            }
        }
        assert!(files >= 3, "{files} files");
    }

    #[test]
    fn a_field_that_does_not_exist_is_found() {
        let text = fs::read_to_string(paths::root().join("deploy/daemonset.yaml")).unwrap();
        let path = std::env::temp_dir().join(format!("causeway-schemas-{}.yaml", std::process::id()));
        fs::write(&path, text.replace("maxUnavailable:", "maxUnreachable:")).unwrap();
        let (right, said) = validate(&path);
        fs::remove_file(&path).unwrap();
        assert!(!right && said.contains("maxUnreachable"), "{said}");
    }
}
