//! Where is the BPF object that the agent embeds? Named by
//! `CAUSEWAY_BPF_OBJECT`, else where `cargo xtask build-ebpf` puts it: in the
//! target directory, which is an ancestor of OUT_DIR.

use std::{
    env, fs,
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
    if let Err(error) = fs::copy(&object, out.join(NAME)) {
        panic!(
            "cannot copy the BPF object {} to {}: {error}; build it with `cargo xtask build-ebpf`",
            object.display(),
            out.display()
        );
    }
}

fn find(out: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("CAUSEWAY_BPF_OBJECT") {
        return Some(PathBuf::from(named));
    }
    // The copy in OUT_DIR itself must not be taken for the source.
    out.ancestors().skip(1).map(|ancestor| ancestor.join(NAME)).find(|path| path.is_file())
}
