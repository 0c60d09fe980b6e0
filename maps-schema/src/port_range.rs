//! Which service has a range of an address's ports? One row for each address
//! that has any, whatever the ranges span; a frontend of its own comes first.
//!
//! The backends of such a service listen on as many ports: the port that its
//! target or backend row names is that of the range's first.

use bytemuck::{Pod, Zeroable};

use crate::Port;

/// Ranges in a row.
pub const PORT_RANGES: usize = 8;

/// A range of ports and the service behind it; zero: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PortRange {
    /// Both belong to it.
    pub first: Port,
    pub last: Port,
    /// IANA number.
    pub protocol: u8,
    pub pad: u8,
    /// As in a [`Frontend`](crate::Frontend).
    pub flags: u16,
    /// Index of the [`Service`](crate::Service) row.
    pub service: u32,
}

impl PortRange {
    pub const NONE: PortRange =
        PortRange { first: Port::NONE, last: Port::NONE, protocol: 0, pad: 0, flags: 0, service: 0 };
    /// Every port there is: the whole address, of one protocol.
    pub const WHOLE: (Port, Port) = (Port::new(1), Port::new(u16::MAX));

    #[inline(always)]
    pub fn holds(&self, port: Port, protocol: u8) -> bool {
        let port = port.get();
        self.protocol == protocol && self.first.get() <= port && port <= self.last.get()
    }

    /// How far into the range `port` lies: what a backend's port rises by.
    #[inline(always)]
    pub fn offset(&self, port: Port) -> u16 {
        port.get().wrapping_sub(self.first.get())
    }

    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        (self.first, self.last) == Self::WHOLE
    }
}

/// The ranges of an address: first those of some ports, which do not overlap,
/// then those of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct PortRanges(pub [PortRange; PORT_RANGES]);

impl PortRanges {
    pub const NONE: PortRanges = PortRanges([PortRange::NONE; PORT_RANGES]);

    /// The first that holds a port.
    #[inline(always)]
    pub fn find(&self, port: Port, protocol: u8) -> Option<&PortRange> {
        self.0.iter().find(|range| range.holds(port, protocol))
    }

    /// The ranges that there are.
    pub fn iter(&self) -> impl Iterator<Item = &PortRange> {
        self.0.iter().filter(|range| **range != PortRange::NONE)
    }

    /// A row of at most [`PORT_RANGES`] ranges, in the order that it must have.
    pub fn of(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut row = Self::NONE;
        row.0.iter_mut().zip(ranges).for_each(|(place, range)| *place = range);
        let order = |range: &PortRange| {
            (*range == PortRange::NONE, range.is_whole(), range.protocol, range.first, range.last)
        };
        row.0.sort_unstable_by_key(order);
        row
    }
}

const _: () = {
    assert!(size_of::<PortRange>() == 12 && align_of::<PortRange>() == 4);
    assert!(size_of::<PortRanges>() == 96);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{TCP, UDP};

    fn range(first: u16, last: u16, protocol: u8, service: u32) -> PortRange {
        let (first, last) = (Port::new(first), Port::new(last));
        PortRange { first, last, protocol, service, ..PortRange::NONE }
    }

    #[test]
    fn some_ports_come_before_all() {
        let ranges = [range(1, 65_535, UDP, 1), range(300, 400, UDP, 2), range(256, 299, UDP, 3)];
        let row = PortRanges::of(ranges);
        let found = |port, protocol| row.find(Port::new(port), protocol).map(|range| range.service);
        for (port, service) in [(255, 1), (256, 3), (299, 3), (300, 2), (400, 2), (401, 1), (65_535, 1)] {
            assert_eq!(found(port, UDP), Some(service), "{port}");
            assert_eq!(found(port, TCP), None);
        }
        assert_eq!((found(0, UDP), found(0, TCP)), (None, None), "a place without a range");
        assert_eq!(row.iter().count(), 3);
        assert_eq!(row, PortRanges::of([ranges[2], ranges[0], ranges[1]]));
    }

    #[test]
    fn a_port_keeps_its_place_in_the_range() {
        let row = range(10_000, 60_000, UDP, 0);
        assert_eq!((row.offset(Port::new(10_000)), row.offset(Port::new(60_000))), (0, 50_000));
    }
}
