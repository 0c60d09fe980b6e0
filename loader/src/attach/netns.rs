//! How do we act inside another network namespace? On a thread that enters it
//! and never does anything else: the namespace must not leak into the runtime.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::netlink::Netlink;

/// `NSFS_MAGIC`, linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// An open network namespace.
pub struct Netns(File);

impl Netns {
    /// # Errors
    /// When the path is missing or is no namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let kind = nix::sys::statfs::fstatfs(&file)?.filesystem_type();
        if kind.0 as i64 != NSFS_MAGIC {
            return Err(io::Error::other("is no network namespace: give a path like /run/netns/NAME"));
        }
        Ok(Self(file))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Moves the calling thread in, for good.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or when the file is a namespace of another kind.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` inside, with a netlink socket of the namespace.
    ///
    /// # Errors
    /// Those of `work`, and of entering.
    pub async fn run<T, W>(&self, work: W) -> io::Result<T>
    where
        T: Send + 'static,
        W: AsyncFnOnce(Netlink) -> io::Result<T> + Send + 'static,
    {
        let netns = Self(self.0.try_clone()?);
        let (reply, result) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("netns".into()).spawn(move || {
            let outcome = netns.enter().and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async { work(Netlink::open()?).await })
            });
            // Nobody waits any more when the request was cancelled.
            let _ = reply.send(outcome);
        })?;
        result.await.map_err(|_| io::Error::other("the thread inside the namespace died"))?
    }
}
