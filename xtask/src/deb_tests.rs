//! Is the package what dpkg takes, and does what it brings work from there?

use std::process::Command;

use super::*;
use crate::whole;

/// The package, in a directory of the test's.
fn package(scratch: &Scratch, file: &str) -> PathBuf {
    let binary = whole::place();
    assert!(binary.is_file(), "no {}: cargo xtask test builds it", binary.display());
    let output = scratch.join(file);
    build(&Shell::new().unwrap(), "1.2.3", &binary, &output).unwrap();
    output
}

/// Whether a program succeeded, and all it said.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let said = Command::new(program).args(arguments).output();
    let said = said.unwrap_or_else(|error| panic!("{program}: {error}"));
    (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
}

fn done(program: &str, arguments: &[&str]) -> String {
    let (success, said) = run(program, arguments);
    assert!(success, "{program} {arguments:?}: {said}");
    said
}

#[test]
fn a_package_is_installed_used_and_purged() {
    let scratch = Scratch::new().unwrap();
    let package = package(&scratch, "causeway.deb");
    let package = package.to_str().unwrap();
    let info = done("dpkg-deb", &["--info", package]);
    for text in ["Package: causeway", "Version: 1.2.3", "Architecture: amd64", "prerm", "conffiles"] {
        assert!(info.contains(text), "{text}\n{info}");
    }
    assert!(!info.contains("Depends"), "{info}");
    let contents = done("dpkg-deb", &["--contents", package]);
    assert!(contents.lines().all(|line| line.contains(" root/root ")), "{contents}");

    // The scripts see DPKG_ROOT and leave this machine alone.
    let root = scratch.join("root");
    let database = root.join("var/lib/dpkg");
    ["info", "updates", "triggers"].iter().for_each(|name| fs::create_dir_all(database.join(name)).unwrap());
    ["status", "available"].iter().for_each(|name| fs::write(database.join(name), "").unwrap());
    let at_root = format!("--root={}", root.display());
    let dpkg = |action: &[&str]| {
        done("dpkg", &[&[at_root.as_str(), "--force-script-chrootless", "--log=/dev/null"], action].concat())
    };
    dpkg(&["--install", package]);
    let inside = |path: &str| root.join(path);
    let binary = inside("usr/bin/causeway");
    let binary = binary.to_str().unwrap();
    assert!(done(binary, &["version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(done(binary, &["agent", "--help"]).contains("--kubernetes"));
    let plugin = inside("usr/lib/cni/causeway-cni");
    assert!(done(plugin.to_str().unwrap(), &["--version"]).contains(env!("CARGO_PKG_VERSION")));
    let driver = inside("usr/bin/causeway-docker");
    assert!(done(driver.to_str().unwrap(), &["--version"]).contains(env!("CARGO_PKG_VERSION")));
    for (shell, path) in COMPLETIONS {
        let script = fs::read_to_string(inside(path)).unwrap();
        assert!(script.contains("recreate-maps"), "{shell}: {script}");
    }
    assert!(inside("usr/share/doc/causeway/install.md").is_file());
    let copyright = fs::read_to_string(inside("usr/share/doc/causeway/copyright")).unwrap();
    assert!(copyright.contains("License: MIT") && copyright.contains("WITHOUT WARRANTY"), "{copyright}");

    // The example is settings that can be: what fails is what comes after them.
    let settings = inside(&CONFFILE[1..]);
    let settings = settings.to_str().unwrap();
    let (_, said) = run(binary, &["agent", "--config", settings, "--netns", "/nonexistent"]);
    assert!(said.starts_with("error: netns /nonexistent"), "{said}");

    fs::write(settings, "# the operator's\n").unwrap();
    dpkg(&["--install", package]);
    assert_eq!(fs::read_to_string(settings).unwrap(), "# the operator's\n");
    dpkg(&["--remove", "causeway"]);
    assert!(!Path::new(binary).exists() && Path::new(settings).exists());
    dpkg(&["--purge", "causeway"]);
    assert!(!inside("etc/causeway").exists());
}

#[test]
fn the_same_input_gives_the_same_package() {
    let scratch = Scratch::new().unwrap();
    let (one, two) = (package(&scratch, "one.deb"), package(&scratch, "two.deb"));
    assert!(fs::read(one).unwrap() == fs::read(two).unwrap());
}

#[test]
fn the_units_are_such() {
    let scratch = Scratch::new().unwrap();
    for name in UNITS {
        let unit = fs::read_to_string(paths::root().join("deploy").join(name)).unwrap();
        // systemd looks whether the program is there.
        let unit = unit.replace("/usr/bin/causeway", whole::place().to_str().unwrap());
        let verify = |text: &str| {
            let path = scratch.join(name);
            fs::write(&path, text).unwrap();
            run("systemd-analyze", &["verify", "--man=no", path.to_str().unwrap()])
        };
        let (right, said) = verify(&unit);
        let ours = |said: &str| said.lines().any(|line| line.contains(name));
        assert!(right && !ours(&said), "{said}");
        let (_, said) = verify(&unit.replace("Restart=", "Restrat="));
        assert!(ours(&said), "{said}");
    }
}
