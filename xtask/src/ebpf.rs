//! How are the BPF programs built? By a rustc that carries `core` for the BPF
//! target, or by a nightly that builds it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::paths;

const TARGET: &str = "bpfel-unknown-none";
/// Names of the binaries, and of the objects in the target directory.
const OBJECTS: [(&str, &str); 2] =
    [("causeway-dataplane", "causeway.bpf.o"), ("causeway-bench-front", "bench-front.bpf.o")];

/// Who compiles.
pub enum Compiler {
    /// This rustc has a prebuilt `core`.
    Prebuilt(String),
    /// `cargo +nightly -Z build-std`.
    Nightly,
}

/// The first compiler that is there.
///
/// # Errors
/// When none is.
pub fn compiler(shell: &Shell) -> Result<Compiler> {
    let named = std::env::var("CAUSEWAY_BPF_RUSTC").ok();
    for rustc in named.into_iter().chain(["rustc".into(), "/usr/bin/rustc".into()]) {
        let libdir =
            cmd!(shell, "{rustc} --print target-libdir --target {TARGET}").quiet().ignore_stderr().read();
        if libdir.is_ok_and(|libdir| has_core(Path::new(libdir.trim()))) {
            return Ok(Compiler::Prebuilt(rustc));
        }
    }
    let sysroot = cmd!(shell, "rustc +nightly --print sysroot").quiet().ignore_stderr().read();
    if sysroot.is_ok_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists()) {
        return Ok(Compiler::Nightly);
    }
    bail!("no rustc can build for {TARGET}: run `cargo xtask setup`")
}

fn has_core(libdir: &Path) -> bool {
    let entries = fs::read_dir(libdir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

/// Builds both objects and puts them where the loader's build script looks.
///
/// # Errors
/// When no compiler is there, or the programs do not compile.
pub fn build(shell: &Shell) -> Result<()> {
    let target = paths::target();
    let out = target.join("bpf");
    let cargo = paths::cargo();
    let flags = "-C debuginfo=2 -C link-arg=--btf";
    let _dir = shell.push_dir(paths::root().join("dataplane-ebpf"));
    let command = match compiler(shell)? {
        // The prebuilt core is of a stable release, and the one nightly feature
        // in use (see `cache.rs`) is the same in it.
        Compiler::Prebuilt(rustc) => {
            cmd!(shell, "{cargo} build --release --target {TARGET} --locked --quiet")
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
        }
        Compiler::Nightly => {
            cmd!(shell, "cargo +nightly build --release --target {TARGET} --locked --quiet -Z build-std=core")
        }
    };
    command
        .env("CARGO_TARGET_DIR", &out)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.replace(" -C", "\u{1f}-C").replace("-C ", "-C\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env("PATH", paths::search_path())
        .quiet()
        .run()
        .context("build the BPF programs")?;
    for (binary, object) in OBJECTS {
        let built =
            fs::read(out.join(TARGET).join("release").join(binary)).context("read the built object")?;
        let place = target.join(object);
        // Left alone when it is the same, so that nothing is rebuilt for it.
        if fs::read(&place).ok().as_ref() != Some(&built) {
            fs::write(&place, built).with_context(|| format!("write {}", place.display()))?;
        }
    }
    Ok(())
}
