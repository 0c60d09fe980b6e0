//! What of this kernel do we use, and is it there? Probed by trying, never by
//! version.

use std::path::Path;

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use super::links::Hook;

/// Name of each feature, and whether the kernel has it. Costs a few
/// milliseconds: small programs are loaded to find out.
pub fn features() -> Vec<(&'static str, bool)> {
    let helper = |helper| is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(false);
    let setting = |path: &str| std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0");
    vec![
        ("tcx", Hook::probe() == Hook::Tcx),
        ("jit", setting("/proc/sys/net/core/bpf_jit_enable")),
        ("btf", Path::new("/sys/kernel/btf/vmlinux").exists()),
        ("bpf_redirect_peer", helper(BpfHelper::BPF_FUNC_redirect_peer)),
        ("bpf_redirect_neigh", helper(BpfHelper::BPF_FUNC_redirect_neigh)),
        ("bpf_fib_lookup", helper(BpfHelper::BPF_FUNC_fib_lookup)),
        ("bpf_jiffies64", helper(BpfHelper::BPF_FUNC_jiffies64)),
    ]
}
