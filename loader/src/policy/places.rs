//! Which protocols and ports does a rule speak of? Ranges in the order of steps.

use causeway_schema::policy::place;
use causeway_schema::{Port, protocol};

use crate::event::policy::Transport;

/// Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Places {
    pub first: u32,
    pub last: u32,
}

/// Every protocol, with ports or without.
pub const EVERYWHERE: Places = Places { first: 0, last: (1 << 24) - 1 };

/// These ports of a protocol; both of the numbers that ICMP has.
pub fn of(transport: Transport, first: u16, last: u16) -> impl Iterator<Item = Places> {
    let numbers = match transport {
        Transport::Icmp => [Some(protocol::ICMP), Some(protocol::ICMPV6)],
        other => [Some(other.number(false)), None],
    };
    numbers.into_iter().flatten().map(move |number| Places {
        first: place(number, Port::new(first)),
        last: place(number, Port::new(last)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_is_both_families() {
        let places: Vec<Places> = of(Transport::Icmp, 0, u16::MAX).collect();
        assert_eq!(places.iter().map(|places| places.first >> 16).collect::<Vec<_>>(), [1, 58]);
        assert!(places.iter().all(|places| places.first & 0xffff == 0 && places.last & 0xffff == 0xffff));
        assert_eq!(
            of(Transport::Tcp, 80, 81).collect::<Vec<_>>(),
            [Places { first: 6 << 16 | 80, last: 6 << 16 | 81 }]
        );
    }
}
