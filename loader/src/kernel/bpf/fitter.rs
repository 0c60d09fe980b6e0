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
    hook: Hook,
    pins: Pins,
    /// In the order of [`Attachment::of_container`].
    programs: [OwnedFd; 2],
}

/// Where, and the links of those that have one.
type Links = Vec<(Attachment, Option<OwnedFd>)>;

/// Programs that stand at an interface; to be held, or to be forgotten.
pub struct Fitted {
    links: Links,
    pins: Pins,
}

impl Fitter {
    pub(super) fn new(hook: Hook, pins: Pins, object: &Object) -> Result<Self, BpfError> {
        let [first, second] = Attachment::of_container(0, "");
        let programs = [object.program(first.program)?, object.program(second.program)?];
        Ok(Self { hook, pins, programs })
    }

    /// Puts both programs at an interface.
    ///
    /// # Errors
    /// When the interface is gone, or the kernel refuses.
    pub fn fit(&self, ifindex: u32, interface: &str) -> Result<Fitted, BpfError> {
        let wanted = Attachment::of_container(ifindex, interface);
        let one = |(attachment, program): (Attachment, _)| {
            let link = links::put(self.hook, &self.pins, program, &attachment, None)?;
            Ok((attachment, link))
        };
        let both = wanted.into_iter().zip(&self.programs);
        let put: Vec<Result<_, BpfError>> = if self.hook == Hook::Clsact {
            // Nobody is waited for, and the second looks for what the first has made.
            both.map(one).collect()
        } else {
            thread::scope(|scope| {
                let begun: Vec<_> = both.map(|each| scope.spawn(move || one(each))).collect();
                let joined = begun.into_iter().map(|each| each.join());
                joined.map(|link| link.unwrap_or_else(|_| Err(died(interface)))).collect()
            })
        };
        let (mut links, mut failed) = (Vec::new(), None);
        for link in put {
            match link {
                Ok(link) => links.push(link),
                Err(error) => failed = Some(error),
            }
        }
        let fitted = Fitted { links, pins: self.pins.clone() };
        let Some(error) = failed else { return Ok(fitted) };
        // The cause of the failure matters more than that of the clean-up.
        let _ = fitted.forget();
        Err(error)
    }
}

impl Fitted {
    pub(super) fn new(links: Links, pins: Pins) -> Self {
        Self { links, pins }
    }

    pub(super) fn into_links(self) -> Links {
        self.links
    }

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
