//! How does a container's new interface get its programs, and lose them? Beside
//! the loop: each of the two waits until no packet is in a program any more, and
//! so may many at a time.

use std::{fs, io, os::fd::OwnedFd, thread};

use super::{
    BpfError,
    bpffs::{self, Pins},
    links::{self, Attachment, Hook},
    object::Object,
};

/// What it takes to attach the programs of one container.
pub struct Fitter {
    pub(super) hook: Hook,
    pub(super) pins: Pins,
    /// In the order of [`Attachment::of_container`].
    programs: [OwnedFd; 2],
}

/// Programs that stand at an interface; to be held, or to be forgotten.
pub struct Fitted {
    pub(super) links: Vec<(Attachment, Option<OwnedFd>)>,
    pub(super) pins: Pins,
}

impl Fitter {
    pub(super) fn new(hook: Hook, pins: Pins, object: &Object) -> Result<Self, BpfError> {
        let [first, second] = Attachment::of_container(0, "");
        let programs = [object.program(first.program)?, object.program(second.program)?];
        Ok(Self { hook, pins, programs })
    }

    /// Puts both programs at an interface, both at a time.
    ///
    /// # Errors
    /// When the interface is gone, or the kernel refuses.
    pub fn fit(&self, ifindex: u32, interface: &str) -> Result<Fitted, BpfError> {
        let wanted = Attachment::of_container(ifindex, interface);
        let links: Result<Vec<_>, BpfError> = thread::scope(|scope| {
            let one = |(attachment, program)| {
                scope.spawn(move || {
                    let link = links::put(self.hook, &self.pins, program, &attachment, None)?;
                    Ok((attachment, link))
                })
            };
            let both: Vec<_> = wanted.into_iter().zip(&self.programs).map(one).collect();
            both.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(died(interface)))).collect()
        });
        Ok(Fitted { links: links?, pins: self.pins.clone() })
    }
}

impl Fitted {
    /// To be called when the interface has gone, and the programs' places with it:
    /// nothing has to be taken off any more, and nobody be waited for.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn forget(self) -> io::Result<()> {
        for (attachment, link) in self.links {
            drop(link);
            let path = links::path(&self.pins, &attachment);
            // A filter's directory, or a link's pin.
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { bpffs::remove_file(&path) };
            removed?;
        }
        Ok(())
    }
}

fn died(interface: &str) -> BpfError {
    BpfError::call("attach to", interface.to_owned())(io::Error::other("the thread that does it died"))
}
