//! Are deploy/'s manifests what Kubernetes takes? Held against its published
//! schemas, strictly: a field that does not exist is an error.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::paths;

/// Of PyPI; the schemas are in it, and its version is that of Kubernetes.
const PACKAGE: &str = "kubernetes-validate";
const VERSION: &str = "1.36.0";
/// What it needs, and what that needs, under the Python 3.11 of Debian 12.
const NEEDED: [&str; 9] = [
    "attrs==26.1.0",
    "importlib_resources==7.1.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "packaging==26.3",
    "PyYAML==6.0.3",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
    "typing_extensions==4.16.0",
];

/// Where it is, with what it needs beside it.
fn place() -> PathBuf {
    paths::target().join("schemas")
}

/// All that is installed, as `pip` writes it.
fn wanted() -> Vec<String> {
    let needed = NEEDED.into_iter().map(str::to_owned);
    needed.chain([format!("{PACKAGE}=={VERSION}")]).collect()
}

/// What is there, in the same words; nothing before the first time.
fn there(shell: &Shell) -> Vec<String> {
    let pip = place().join("bin/pip");
    let said = cmd!(shell, "{pip} freeze --disable-pip-version-check").quiet().ignore_stderr().read();
    said.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Installs the validator, unless it is there.
///
/// # Errors
/// When Python has no `venv`, or a package cannot be had.
pub fn install(shell: &Shell) -> Result<()> {
    let wanted = wanted();
    let there = there(shell);
    if wanted.iter().all(|package| there.contains(package)) {
        return Ok(());
    }
    println!("installing {PACKAGE} {VERSION}: it holds deploy/ against the schemas of Kubernetes");
    let place = place();
    // Debian's Python has the `venv` of Debian's package.
    let python = if shell.path_exists("/usr/bin/python3") { "/usr/bin/python3" } else { "python3" };
    cmd!(shell, "{python} -m venv --clear {place}").quiet().run().context("make a place for it")?;
    let pip = place.join("bin/pip");
    // None but those of the list: what came beside would be of any version.
    cmd!(shell, "{pip} install --quiet --disable-pip-version-check --no-deps {wanted...}")
        .quiet()
        .run()
        .with_context(|| format!("install {PACKAGE}"))?;
    cmd!(shell, "{pip} check --disable-pip-version-check")
        .quiet()
        .ignore_stdout()
        .run()
        .with_context(|| format!("find all that {PACKAGE} needs in the list"))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;
    use crate::scratch::Scratch;

    /// Whether all of a file is right, and what is said of it.
    fn validate(path: &Path) -> (bool, String) {
        let version = VERSION.rsplit_once('.').unwrap().0;
        let said = Command::new(place().join("bin").join(PACKAGE))
            .args(["--strict", "-k", version])
            .arg(path)
            .output();
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
    fn nothing_is_there_but_what_is_named() {
        let mut there = there(&Shell::new().unwrap());
        let mut wanted = wanted();
        there.sort();
        wanted.sort();
        assert_eq!(there, wanted);
    }

    #[test]
    fn a_field_that_does_not_exist_is_found() {
        let text = fs::read_to_string(paths::root().join("deploy/daemonset.yaml")).unwrap();
        let scratch = Scratch::new().unwrap();
        let path = scratch.join("daemonset.yaml");
        fs::write(&path, text.replace("maxUnavailable:", "maxUnreachable:")).unwrap();
        let (right, said) = validate(&path);
        assert!(!right && said.contains("maxUnreachable"), "{said}");
    }
}
