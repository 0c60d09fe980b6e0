//! Where are the switches of an interface set? In a container `/proc/sys` is
//! read-only; what is mounted at `/host` there is not.

use std::{fs, io, path::Path};

/// Both show the network namespace of the thread that looks.
const USUAL: &str = "/proc/sys/net";
const HOST: &str = "/host/proc/sys/net";

/// Sets `net/FAMILY/conf/INTERFACE/KEY`.
///
/// # Errors
/// When there is no such switch, or none that may be written.
pub fn set(family: &str, interface: &str, key: &str, value: &str) -> io::Result<()> {
    let write =
        |root: &str| fs::write(Path::new(root).join(family).join("conf").join(interface).join(key), value);
    let read_only = match write(USUAL) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => error,
        other => return other,
    };
    if Path::new(HOST).exists() {
        return write(HOST);
    }
    let message = format!("{USUAL}: {read_only}: mount the host's at {HOST}, as deploy/daemonset.yaml does");
    Err(io::Error::other(message))
}

/// A kernel without IPv6 has no switches of it.
pub fn has_ipv6() -> bool {
    Path::new(USUAL).join("ipv6").exists()
}
