//! Where is the BPF object that the agent embeds? Named by
//! `CAUSEWAY_BPF_OBJECT`, else where `cargo xtask build-ebpf` puts it: in the
//! target directory, which is an ancestor of OUT_DIR.

use std::{
    env, fs,
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
};

const NAME: &str = "causeway.bpf.o";

fn main() {
    println!("cargo:rerun-if-env-changed=CAUSEWAY_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let Some(object) = find(&out) else {
        panic!(
            "no {NAME} in any parent of {}: build the BPF programs first with `cargo xtask build-ebpf`, \
             or name the object in CAUSEWAY_BPF_OBJECT",
            out.display()
        );
    };
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_else(|error| {
        panic!(
            "cannot read the BPF object {}: {error}; build it with `cargo xtask build-ebpf`",
            object.display()
        )
    });
    let copy = out.join(NAME);
    if let Err(error) = fs::write(&copy, &bytes) {
        panic!("cannot write {}: {error}", copy.display());
    }
    // An agent that finds programs of the same object in the kernel uses those.
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    println!("cargo:rustc-env=CAUSEWAY_BPF_BUILD={:016x}", hasher.finish());
}

fn find(out: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("CAUSEWAY_BPF_OBJECT") {
        return Some(PathBuf::from(named));
    }
    // The copy in OUT_DIR itself must not be taken for the source.
    out.ancestors().skip(1).map(|ancestor| ancestor.join(NAME)).find(|path| path.is_file())
}
