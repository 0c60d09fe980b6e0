//! Do container runtimes find the plugin? The agent puts it where they look, and
//! beside it the configuration that says that this node can attach containers.

use std::{fs, io, path::Path};

use serde_json::json;

use crate::whole_file;

/// The plugin's name, in configurations too.
pub const PLUGIN: &str = "causeway-cni";
/// Before what distributions bring along: runtimes take the first by name.
const CONFIGURATION: &str = "05-causeway.conflist";

/// Whether one of them is not in its directory.
pub fn is_missing(plugins: Option<&Path>, configurations: Option<&Path>) -> bool {
    let lacks =
        |directory: Option<&Path>, name| directory.is_some_and(|directory| !directory.join(name).exists());
    lacks(plugins, PLUGIN) || lacks(configurations, CONFIGURATION)
}

/// Puts the plugin, which is beside this program, into a runtime's directory of
/// plugins. One that is the same already is left alone.
///
/// # Errors
/// When there is none, or the directory cannot be written.
pub fn put_plugin(directory: &Path) -> io::Result<()> {
    let own = std::env::current_exe()?.with_file_name(PLUGIN);
    let bytes = fs::read(&own)
        .map_err(|error| io::Error::new(error.kind(), format!("read {}: {error}", own.display())))?;
    put(&directory.join(PLUGIN), &bytes, 0o755)
}

/// Says to runtimes that containers are attached by it: from now on kubelets take
/// this node for ready.
///
/// # Errors
/// When the directory cannot be written.
pub fn put_configuration(directory: &Path, socket: &Path, state_dir: &Path) -> io::Result<()> {
    let plugin = json!({
        "type": PLUGIN, "socket": socket, "stateDir": state_dir,
        "capabilities": {"ips": true, "mac": true, "portMappings": true},
    });
    // Runtimes that know the list choose the newest that they speak.
    let list = json!({
        "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "causeway", "plugins": [plugin],
    });
    let text = serde_json::to_vec_pretty(&list)?;
    put(&directory.join(CONFIGURATION), &text, 0o600)
}

/// Runtimes attach nothing by it any more. The plugin stays: what is attached is
/// still to be detached by it.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove_configuration(directory: &Path) -> io::Result<()> {
    whole_file::remove(&directory.join(CONFIGURATION))
}

/// Whole or not at all: who starts it meanwhile has the old one or the new.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    whole_file::write(path, bytes, mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_replaced_whole_and_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIGURATION);
        fs::write(&path, "another").unwrap();
        let put = || put_configuration(dir.path(), Path::new("/run/x.sock"), Path::new("/var/x"));
        put().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("causeway-cni") && text.contains("/run/x.sock") && text.contains("/var/x"));
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        put().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before, "it was the same");
        remove_configuration(dir.path()).unwrap();
        remove_configuration(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let error = put_configuration(Path::new("/proc/nowhere"), Path::new(""), Path::new("")).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/05-causeway.conflist"), "{error}");
    }
}
