//! What went wrong with a BPF object, at which step, and what helps?

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A call that the kernel refused.
    #[error("cannot {step} {object}: {cause}{}", remedy(cause))]
    Call {
        /// Completes "cannot ...", e.g. `pin`.
        step: &'static str,
        object: String,
        #[source]
        cause: io::Error,
    },
    #[error(
        "pinned maps do not fit this agent: {differences}; start `causeway agent --recreate-maps` \
         (open connections are lost), or with the capacity the maps have"
    )]
    Shape {
        /// One clause a map: its path, what it has, what is wanted.
        differences: String,
    },
    #[error(
        "the maps under {} are of schema version {found}, this agent writes version {wanted}; start \
         `causeway agent --recreate-maps` (open connections are lost), or the agent that made them",
        path.display()
    )]
    Version { path: PathBuf, found: u32, wanted: u32 },
    #[error(
        "the kernel's verifier refuses program {program}: {cause}; see `causeway doctor` for what \
         this kernel lacks; end of its log:\n{log}"
    )]
    Verifier {
        program: &'static str,
        #[source]
        cause: io::Error,
        log: String,
    },
    #[error("cannot {step} the embedded BPF object: {cause}; rebuild it with `cargo xtask build-ebpf`")]
    Object {
        step: &'static str,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the embedded BPF object has no {kind} {name}; rebuild it with `cargo xtask build-ebpf`")]
    Missing { kind: &'static str, name: String },
    #[error(
        "{} is not on a BPF file system; mount one (`mount -t bpf bpf DIR`) or give --bpffs a directory \
         below /sys/fs/bpf",
        path.display()
    )]
    NotBpffs { path: PathBuf },
    /// What a teardown could not remove; it tried everything.
    #[error("{} left over: {}", .0.len(), join(.0))]
    Several(Vec<BpfError>),
}

impl BpfError {
    pub(super) fn call(step: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |cause| BpfError::Call { step, object: object.into(), cause }
    }

    /// `Ok` when nothing failed.
    pub(super) fn collect(errors: Vec<BpfError>) -> Result<(), BpfError> {
        if errors.is_empty() { Ok(()) } else { Err(BpfError::Several(errors)) }
    }
}

fn join(errors: &[BpfError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (the agent needs root, or CAP_BPF and CAP_NET_ADMIN)",
        Some(libc::ENOMEM) => " (raise the cgroup's memory limit, or lower the capacities)",
        Some(libc::ENODEV) => " (the interface is gone, or is in another network namespace)",
        _ => "",
    }
}
