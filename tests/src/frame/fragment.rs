//! Datagrams in pieces, and back.

use anyhow::{Context, Result, ensure};

use super::{
    body::Body,
    datagram::{Datagram, Header},
    extension::{self, Extension, Piece},
};

/// The fragments of `packet`, none longer than `mtu`; a packet that fits stays
/// as it is.
pub fn fragment(packet: &Datagram, mtu: usize, id: u32) -> Vec<Datagram> {
    if packet.bytes().len() <= mtu {
        return vec![packet.clone()];
    }
    // What each fragment repeats (RFC 8200, 4.5) ends with the last of these.
    let repeated = |chain: &[Extension]| {
        let by_the_way =
            |header: &Extension| matches!(header, Extension::HopByHop(_) | Extension::Routing(_));
        chain.iter().rposition(by_the_way).map_or(0, |last| last + 1)
    };
    let (front, kind, bytes) = split(packet, repeated);
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let header = front_bytes(&front, offset);
        let room = mtu.checked_sub(header).map_or(0, |room| room / 8 * 8);
        assert!(room > 0, "no room for data in {mtu} bytes behind a header of {header}");
        // The last piece may fill what is no multiple of eight.
        let left = bytes.len() - offset;
        let length = if left <= mtu - header { left } else { room };
        let piece = Piece { id, offset, more: length < left };
        pieces.push(make(&front, piece, kind, &bytes[offset..offset + length]));
        offset += length;
    }
    pieces
}

/// What the fragments, in any order, are pieces of.
pub fn reassemble(fragments: &[Datagram]) -> Result<Datagram> {
    let mut fragments: Vec<_> = fragments
        .iter()
        .map(|packet| {
            packet.piece().map(|piece| (piece, packet)).with_context(|| format!("no fragment: {packet}"))
        })
        .collect::<Result<_>>()?;
    fragments.sort_by_key(|(piece, _)| piece.offset);
    let (first, last) =
        (fragments.first().context("no fragments")?, fragments.last().context("no fragments")?);
    ensure!(!last.0.more, "the last fragment is missing behind {}", last.0.offset);
    let up_to_fragment = |chain: &[Extension]| {
        chain.iter().position(|header| matches!(header, Extension::Fragment(_))).unwrap_or(chain.len())
    };
    let (mut packet, kind, _) = split(first.1, up_to_fragment);
    let mut whole = Vec::new();
    for (piece, fragment) in &fragments {
        ensure!(piece.id == first.0.id, "fragments of {:#x} and {:#x}", first.0.id, piece.id);
        ensure!(piece.offset == whole.len(), "a fragment at {} where {} is next", piece.offset, whole.len());
        whole.extend(split(fragment, up_to_fragment).2);
    }
    packet.body = Body::raw(kind, &whole);
    Ok(Datagram::read(&packet.bytes())?.0)
}

/// The packet without what is cut up, the number of that, and its bytes.
/// Of IPv6, `keep` says how many extension headers stay; a fragment header
/// right behind them is neither here nor there.
fn split(packet: &Datagram, keep: impl Fn(&[Extension]) -> usize) -> (Datagram, u8, Vec<u8>) {
    let mut front = packet.clone();
    let body = packet.body.bytes(&packet.cover(true));
    let (kind, bytes) = match &mut front.header {
        Header::V4(header) => {
            (header.offset, header.more_fragments) = (0, false);
            (packet.protocol(), body)
        }
        Header::V6(header) => {
            let mut moving = header.extensions.split_off(keep(&header.extensions));
            if matches!(moving.first(), Some(Extension::Fragment(_))) {
                moving.remove(0);
            }
            let (kind, chain) = extension::write(&moving, packet.protocol());
            (kind, [chain, body].concat())
        }
    };
    front.body = Body::raw(kind, &[]);
    (front, kind, bytes)
}

fn make(front: &Datagram, piece: Piece, kind: u8, bytes: &[u8]) -> Datagram {
    let mut packet = front.clone();
    match &mut packet.header {
        Header::V4(header) => {
            (header.id, header.offset, header.more_fragments) = (piece.id as u16, piece.offset, piece.more);
            if piece.offset > 0 {
                header.options = copied(&header.options);
            }
        }
        Header::V6(header) => header.extensions.push(Extension::Fragment(piece)),
    }
    packet.body = Body::raw(kind, bytes);
    // Read, so that a first fragment shows the headers in it.
    Datagram::read(&packet.bytes()).unwrap_or_else(|error| panic!("fragment of {front}: {error:#}")).0
}

/// Length of the headers of the fragment at `offset`.
fn front_bytes(front: &Datagram, offset: usize) -> usize {
    match &front.header {
        Header::V4(header) if offset > 0 => 20 + copied(&header.options).len(),
        Header::V4(header) => 20 + header.options.len(),
        Header::V6(_) => front.bytes().len() + 8,
    }
}

/// The options that later fragments repeat (RFC 791: the top bit of the type).
fn copied(mut options: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let [kind, rest @ ..] = options {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(rest.first().copied().unwrap_or(2)).clamp(2, options.len().max(2)),
        };
        if kind & 0x80 != 0 {
            kept.extend(&options[..length.min(options.len())]);
        }
        options = &options[length.min(options.len())..];
    }
    kept.resize(kept.len().next_multiple_of(4), 0);
    kept
}
