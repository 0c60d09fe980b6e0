//! What is said about a checksum field, and the field that comes of it.

use std::net::IpAddr;

use crate::inspect::{pseudo_header, sum};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    #[default]
    Right,
    /// Wrong by this, in one's complement: a rewrite that updates the field by
    /// what it changed (RFC 1624) keeps the distance. Neither 0 nor 0xffff.
    Off(u16),
    /// Zero, which for UDP means that there is none.
    Absent,
    /// As written, and not to be judged: the bytes it covers are not all here.
    Given(u16),
}

impl Checksum {
    /// The field of a message that sums up to `rest` without it.
    pub(super) fn field(self, rest: u16) -> u16 {
        match self {
            Checksum::Right => !rest,
            Checksum::Off(distance) => add(!rest, distance),
            Checksum::Absent => 0,
            Checksum::Given(field) => field,
        }
    }

    /// The other way: what `field` is to a message that sums up to `rest` without it.
    pub(super) fn of(field: u16, rest: u16) -> Self {
        match add(field, rest) {
            0xffff => Checksum::Right,
            distance => Checksum::Off(distance),
        }
    }
}

/// What a transport checksum covers beside the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cover {
    pub src: IpAddr,
    /// Where the packet ends up, routing headers followed.
    pub dst: IpAddr,
    /// False: bytes of the message are elsewhere, or lost.
    pub whole: bool,
}

impl Cover {
    /// The checksum at `at` of a `message` of `protocol`, whose field is skipped.
    pub fn rest(&self, protocol: u8, message: &[u8], at: usize) -> u16 {
        let pseudo = pseudo_header(self.src, self.dst, protocol, message.len());
        let rest = add(sum(&message[..at]), sum(&message[at + 2..]));
        add(sum(&pseudo), rest)
    }

    pub fn read(&self, protocol: u8, message: &[u8], at: usize) -> Checksum {
        let field = u16::from_be_bytes([message[at], message[at + 1]]);
        if self.whole {
            Checksum::of(field, self.rest(protocol, message, at))
        } else {
            Checksum::Given(field)
        }
    }
}

pub(super) fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

pub(super) fn put(message: &mut [u8], at: usize, field: u16) {
    message[at..at + 2].copy_from_slice(&field.to_be_bytes());
}
