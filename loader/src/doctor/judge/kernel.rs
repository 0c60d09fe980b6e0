//! Does the kernel have what we use, and may we use it?

use super::Report;
use crate::{doctor::facts::Kernel, kernel::bpf::MOUNT_POINT};

/// All programs load on it (`cargo xtask kernels`); on older ones nobody has tried.
const OLDEST: (u32, u32) = (6, 1);
/// Bits of capabilities(7).
const NET_ADMIN: (u64, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: (u64, &str) = (21, "CAP_SYS_ADMIN");
const BPF: (u64, &str) = (39, "CAP_BPF");

pub fn judge(kernel: &Kernel, report: &mut Report) {
    if version(&kernel.release).is_some_and(|version| version < OLDEST) {
        let message = format!(
            "Linux {}; its verifier may refuse programs: 6.1 is the oldest that is known to take all of them",
            kernel.release
        );
        report.fault("kernel-old", "kernel", message, "boot a newer kernel");
    }
    let has = |(bit, _): (u64, &str)| kernel.capabilities & 1 << bit != 0;
    let lacks = [NET_ADMIN, SYS_ADMIN, BPF].into_iter().filter(|&capability| {
        // Who has the large one needs no small one.
        let implied = capability == BPF && has(SYS_ADMIN);
        !has(capability) && !implied
    });
    let lacks: Vec<&str> = lacks.map(|(_, name)| name).collect();
    if !lacks.is_empty() {
        let message = format!("{} missing: programs and interfaces are out of reach", lacks.join(", "));
        report.fault("capabilities", "this process", message, "run it as root: sudo causeway doctor");
    }
    let (root, is_bpffs) = &kernel.bpffs;
    if !is_bpffs && root.starts_with(MOUNT_POINT) {
        let message = format!("no BPF file system at {MOUNT_POINT}; the agent mounts it, if it may");
        report.warning("bpffs", root.display(), message, format!("mount -t bpf bpf {MOUNT_POINT}"));
    } else if !is_bpffs {
        let message = "is in no BPF file system: nothing can be pinned there".to_owned();
        report.fault("bpffs", root.display(), message, format!("give --bpffs a directory in {MOUNT_POINT}"));
    }
    if !kernel.cgroups {
        let message = "no cgroup2 file system is mounted: processes of the node cannot call services";
        let remedy = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
        report.warning("cgroup2", "cgroups", message.into(), remedy);
    }
    if kernel.jit == Some(false) {
        let message = "is 0: the kernel refuses programs of several functions, and interprets the others";
        let remedy = "sysctl -w net.core.bpf_jit_enable=1";
        report.fault("bpf-jit", "net.core.bpf_jit_enable", message.into(), remedy);
    }
    let helpers = kernel.features.iter().filter(|(name, _)| name.starts_with("bpf_"));
    for (name, _) in helpers.filter(|(_, present)| lacks.is_empty() && !present) {
        let message = "the kernel has no such helper: the programs do not load".to_owned();
        report.fault(
            "kernel-features",
            name,
            message,
            "boot Linux 6.1 or later with CONFIG_NET and CONFIG_BPF_SYSCALL",
        );
    }
}

/// Of a release like `6.1.0-13-amd64`; `None` if it is none.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests;
    use super::*;
    use crate::doctor::Level;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Kernel), expected: &[(Level, &str)]) {
        tests::check(|facts| change(&mut facts.kernel), expected);
    }

    #[test]
    fn a_kernel_is_too_old_by_its_number() {
        for release in ["5.15.0-91-generic", "6.0.19", "4.18.0-513.el8"] {
            check(|kernel| kernel.release = release.into(), &[(Level::Fault, "kernel-old")]);
        }
        for release in ["6.1.0-50-cloud-amd64", "6.12.95+deb12-cloud-amd64", "6.18.44", "7.0", "nonsense"] {
            check(|kernel| kernel.release = release.into(), &[]);
        }
    }

    #[test]
    fn rights_are_those_that_count() {
        check(|kernel| kernel.capabilities = 0, &[(Level::Fault, "capabilities")]);
        check(|kernel| kernel.capabilities &= !(1 << 12), &[(Level::Fault, "capabilities")]);
        check(|kernel| kernel.capabilities &= !(1 << 39), &[]);
    }

    #[test]
    fn without_rights_nothing_is_said_of_helpers() {
        let blind = |kernel: &mut Kernel| {
            kernel.features = vec![("bpf_fib_lookup", false)];
            kernel.capabilities = 0;
        };
        check(blind, &[(Level::Fault, "capabilities")]);
        let old = |kernel: &mut Kernel| kernel.features = vec![("bpf_fib_lookup", false), ("tcx", false)];
        check(old, &[(Level::Fault, "kernel-features")]);
    }

    #[test]
    fn the_agent_mounts_only_where_it_is_used_to() {
        check(|kernel| kernel.bpffs.1 = false, &[(Level::Warning, "bpffs")]);
        check(|kernel| kernel.bpffs = ("/tmp/pins".into(), false), &[(Level::Fault, "bpffs")]);
    }

    #[test]
    fn what_is_missing_is_named() {
        check(|kernel| kernel.cgroups = false, &[(Level::Warning, "cgroup2")]);
        check(|kernel| kernel.jit = Some(false), &[(Level::Fault, "bpf-jit")]);
        check(|kernel| kernel.jit = None, &[]);
    }
}
