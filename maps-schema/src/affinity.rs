//! Which backend does a client of a service with affinity go back to?
//!
//! `ClientKey -> Client{backend}` (LRU hash) remembers by address, which is the
//! same for every port of a service object; `MemberKey -> Member{backend id}`
//! (hash) tells whether that address still serves this port, and by which row.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, V4, V6, hash};

/// What the ports of one service object have in common: a hash of its name,
/// the same on every node and after every restart. Never [`Group::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Group(pub [u32; 2]);

impl Group {
    pub const NONE: Group = Group([0; 2]);

    /// Of 64 bits, so that among 10,000 services two meet once in 10^11 clusters;
    /// then a client of both is remembered for the one it used last.
    pub fn of(namespace: &str, name: &str) -> Self {
        // No name has a slash.
        let bytes = namespace.bytes().chain([b'/']).chain(name.bytes());
        let state = bytes.fold(hash::MULTIPLIER_A, |state, byte| hash::mix(state ^ u64::from(byte)));
        Group([(state >> 32) as u32, state as u32 | 1])
    }
}

/// A client of a group of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClientKey<A> {
    pub client: A,
    pub group: Group,
}

/// Where that client went last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Client<A> {
    pub backend: A,
    /// When a flow of the client's last began, in whole seconds of the
    /// kernel's clock (jiffies).
    pub last_used: u32,
}

/// A backend's address in a service, or the service itself: [`MemberKey::settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MemberKey<A> {
    pub service: u32,
    pub backend: A,
}

impl<A: Addr> MemberKey<A> {
    #[inline(always)]
    pub fn new(service: u32, backend: A) -> Self {
        Self { service, backend }
    }

    /// The row of the service's settings: no backend has this address.
    #[inline(always)]
    pub fn settings(service: u32) -> Self {
        Self::new(service, A::UNSPECIFIED)
    }
}

/// A backend's row, or a service's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Member {
    /// Id of the backend; of several on one address, that of the lowest port.
    /// [`Member::NONE`] in settings.
    pub backend: u32,
    /// In settings: seconds after which a client is forgotten. Else zero.
    pub timeout: u32,
    /// In settings: what the clients are remembered under. Else none.
    pub group: Group,
}

impl Member {
    pub const NONE: u32 = u32::MAX;

    pub const fn backend(id: u32) -> Self {
        Self { backend: id, timeout: 0, group: Group::NONE }
    }

    pub const fn settings(group: Group, timeout: u32) -> Self {
        Self { backend: Self::NONE, timeout, group }
    }
}

// SAFETY: `repr(C)`, every field is Pod, sizes below leave no padding.
unsafe impl<A: Addr> Zeroable for ClientKey<A> {}
unsafe impl<A: Addr> Pod for ClientKey<A> {}
unsafe impl<A: Addr> Zeroable for Client<A> {}
unsafe impl<A: Addr> Pod for Client<A> {}
unsafe impl<A: Addr> Zeroable for MemberKey<A> {}
unsafe impl<A: Addr> Pod for MemberKey<A> {}

const _: () = {
    assert!(size_of::<ClientKey<V4>>() == 12 && size_of::<ClientKey<V6>>() == 24);
    assert!(size_of::<Client<V4>>() == 8 && size_of::<Client<V6>>() == 20);
    assert!(size_of::<MemberKey<V4>>() == 8 && size_of::<MemberKey<V6>>() == 20);
    assert!(size_of::<Member>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents of different releases that share pinned maps must agree.
    #[test]
    fn a_group_is_its_name() {
        assert_eq!(Group::of("default", "web"), Group::of("default", "web"));
        assert_ne!(Group::of("default", "web"), Group::of("default", "wed"));
        assert_ne!(Group::of("a", "bc"), Group::of("ab", "c"));
        assert_ne!(Group::of("", ""), Group::NONE);
    }
}
