//! Who may ask? Root, and the group of the socket; and one program listens.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net,
    },
    path::Path,
};

use anyhow::Context;
use tokio::net::UnixListener;

const DIRECTORY_MODE: u32 = 0o750;
const SOCKET_MODE: u32 = 0o660;

/// Takes the socket. A stale one is replaced, a live one is not.
///
/// # Errors
/// When another program answers there, something else than a socket lies there,
/// or the directory cannot be used.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::set_permissions(parent, fs::Permissions::from_mode(DIRECTORY_MODE))
            .with_context(|| format!("set the mode of {}", parent.display()))?;
    }
    remove_stale(path)?;
    // Under another name until its mode is set, so that nobody slips in; then
    // linked to its own, which fails if another was quicker.
    let aside = parent.join(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let listener =
        net::UnixListener::bind(&aside).with_context(|| format!("listen at {}", path.display()))?;
    let published = fs::set_permissions(&aside, fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| fs::hard_link(&aside, path));
    let _ = fs::remove_file(&aside);
    match published {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken(path)),
        published => published.with_context(|| format!("listen at {}", path.display()))?,
    }
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    anyhow::ensure!(
        metadata.file_type().is_socket(),
        "{} is there and no socket: remove it, or name another place",
        path.display()
    );
    match net::UnixStream::connect(path) {
        Ok(_) => Err(taken(path)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("remove the stale socket {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("ask who listens at {}", path.display())),
    }
}

fn taken(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("another program answers at {}: stop it, or name another socket", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn only_owner_and_group_may_ask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let _listener = bind(&path).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (DIRECTORY_MODE, SOCKET_MODE));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing but the socket: {left:?}");
    }

    #[tokio::test]
    async fn a_directory_that_was_there_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let _listener = bind(&dir.path().join("agent.sock")).unwrap();
        assert_eq!(mode(dir.path()), 0o711);
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("another program answers at") && error.contains("agent.sock"), "{error}");
        drop(first);
        assert!(path.exists());
        let _second = bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
