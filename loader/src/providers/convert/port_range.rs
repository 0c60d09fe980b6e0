//! Which ranges of ports does a service have beside those in its list? What
//! its annotations say: the API server drops fields that it does not know.

use super::{Names, Refusal, port, quoted, wire::ObjectMeta};
use crate::event::{Protocol, ServicePort};

/// `FIRST-LAST/PROTOCOL`, separated by commas.
const RANGES: &str = "causeway.io/port-ranges";
/// `true`: every port of both protocols.
const WHOLE_ADDRESS: &str = "causeway.io/whole-address";

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u16,
    pub last: u16,
    pub protocol: Protocol,
}

impl Range {
    pub fn of(port: &ServicePort) -> Self {
        Self { first: port.port, last: port.end_port, protocol: port.protocol }
    }

    /// The whole address, of one protocol.
    pub fn is_whole(&self) -> bool {
        (self.first, self.last) == (1, u16::MAX)
    }

    /// A port comes before a range, and a range before all ports: only two of a
    /// kind are in each other's way.
    pub fn collides(&self, other: &Self) -> bool {
        let kind = |range: &Self| (range.first == range.last, range.is_whole());
        let overlaps = self.first <= other.last && other.first <= self.last;
        self.protocol == other.protocol && overlaps && kind(self) == kind(other)
    }

    /// Whether the backends' ports go as far, the first of them being `target`.
    pub fn fits(&self, target: u16) -> bool {
        target.checked_add(self.last - self.first).is_some()
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}/{}", self.first, self.protocol),
            false => write!(f, "{}-{}/{}", self.first, self.last, self.protocol),
        }
    }
}

/// The ranges in the annotations; one that cannot be takes only itself away.
pub fn annotated(metadata: &ObjectMeta, refusals: &mut Vec<Refusal>) -> Vec<Range> {
    let note = |name| metadata.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
    let mut ranges: Vec<Range> = Vec::new();
    for text in note(RANGES).into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        match parse(text) {
            Ok(range) => match ranges.iter().find(|other| other.collides(&range)) {
                Some(other) => refusals.push(refused(format!("{range} overlaps {other}: make them one"))),
                None => ranges.push(range),
            },
            Err(refusal) => refusals.push(refusal),
        }
    }
    match note(WHOLE_ADDRESS) {
        Some("true") => {
            let whole =
                [Protocol::Tcp, Protocol::Udp].map(|protocol| Range { first: 1, last: u16::MAX, protocol });
            ranges.extend(whole.into_iter().filter(|range| !ranges.contains(range)).collect::<Vec<_>>());
        }
        None | Some("false") => {}
        Some(other) => {
            let message = format!("{} is neither true nor false", quoted(other));
            refusals.push(Refusal::new(format!("metadata.annotations[{WHOLE_ADDRESS}]"), message));
        }
    }
    ranges
}

/// A port that no slice lists: every endpoint serves it, at the port asked for.
pub fn unlisted(range: Range, names: &mut Names) -> ServicePort {
    ServicePort {
        // With a character that no listed port's name has.
        name: names.get(&range.to_string()),
        protocol: range.protocol,
        port: range.first,
        end_port: range.last,
        node_port: 0,
        unlisted: true,
    }
}

pub fn refused(message: String) -> Refusal {
    Refusal::new(format!("metadata.annotations[{RANGES}]"), message)
}

fn parse(text: &str) -> Result<Range, Refusal> {
    let wrong = || refused(format!("{} is no range: write it like 10000-60000/UDP", quoted(text)));
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol.trim())),
        None => (text, None),
    };
    let protocol = port::protocol(protocol, "").map_err(|refusal| refused(refusal.message))?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| {
        let number = text.trim().parse::<i32>().map_err(|_| wrong())?;
        port::number(Some(number), "").map_err(|refusal| refused(refusal.message))
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(refused(format!("{} ends before it begins: write {last}-{first}", quoted(text))));
    }
    Ok(Range { first, last, protocol })
}
