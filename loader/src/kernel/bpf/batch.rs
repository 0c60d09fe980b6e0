//! How are hash maps read and written many rows at a time? By the batch
//! commands (Linux 5.6), three times cheaper than a call for each row.

use std::{io, os::fd::AsFd};

use bytemuck::{Pod, Zeroable};

use super::sys::{self, BatchBuffers, BatchCommand};

/// Below this a plain call for each row is as good.
const FEW: usize = 4;
/// Rows read in one call.
const CHUNK: usize = 4096;

/// Writes rows; returns the index and cause of each that failed.
pub fn update<K: Pod, V: Pod>(map: &impl AsFd, rows: &[(K, V)]) -> Vec<(usize, io::Error)> {
    let keys: Vec<K> = rows.iter().map(|row| row.0).collect();
    let values: Vec<V> = rows.iter().map(|row| row.1).collect();
    each(rows.len(), |from, count| {
        if count < FEW {
            return one(sys::map_update(map, &keys[from], &values[from]));
        }
        let buffers = BatchBuffers {
            keys: keys[from..].as_ptr() as u64,
            values: values[from..].as_ptr() as u64,
            ..BatchBuffers::default()
        };
        // SAFETY: both buffers hold `count` rows from `from` on.
        let (result, done) = unsafe { sys::map_batch(BatchCommand::Update, map, buffers, count as u32) };
        outcome(result, done as usize, count)
    })
}

/// Deletes rows; deleting what is not there succeeds.
pub fn delete<K: Pod>(map: &impl AsFd, keys: &[K]) -> Vec<(usize, io::Error)> {
    each(keys.len(), |from, count| {
        if count < FEW {
            return one(sys::map_delete(map, &keys[from]));
        }
        let buffers = BatchBuffers { keys: keys[from..].as_ptr() as u64, ..BatchBuffers::default() };
        // SAFETY: the buffer holds `count` keys from `from` on.
        let (result, done) = unsafe { sys::map_batch(BatchCommand::Delete, map, buffers, count as u32) };
        match outcome(result, done as usize, count) {
            Outcome::Stopped { before, error } if error.raw_os_error() == Some(libc::ENOENT) => {
                Outcome::Done(before + 1)
            }
            other => other,
        }
    })
}

/// What one call did of the rows it was given.
enum Outcome {
    /// This many, and none failed.
    Done(usize),
    /// The row after `before` good ones failed; the rest was not tried.
    Stopped { before: usize, error: io::Error },
    /// The kernel would not have the call at all.
    Refused(io::Error),
}

fn one(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done(1),
        Err(error) => Outcome::Stopped { before: 0, error },
    }
}

/// A refused call leaves the count as it was given; one that got to the rows
/// counts those before the failing one.
fn outcome(result: io::Result<()>, done: usize, count: usize) -> Outcome {
    match result {
        Ok(()) => Outcome::Done(count),
        Err(error) if done >= count => Outcome::Refused(error),
        Err(error) => Outcome::Stopped { before: done, error },
    }
}

/// Calls `batch(from, count)` until all rows are done, going on behind each
/// that fails.
fn each(length: usize, mut batch: impl FnMut(usize, usize) -> Outcome) -> Vec<(usize, io::Error)> {
    let mut failed = Vec::new();
    let mut from = 0;
    while from < length {
        match batch(from, length - from) {
            Outcome::Done(count) => from += count,
            Outcome::Stopped { before, error } => {
                failed.push((from + before, error));
                from += before + 1;
            }
            Outcome::Refused(error) => {
                // `io::Error` cannot be copied; its number can.
                let again =
                    || error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                failed.extend((from..length).map(|index| (index, again())));
                from = length;
            }
        }
    }
    failed
}

/// All rows of a hash map.
///
/// # Errors
/// When the kernel refuses; a row added or removed meanwhile is no error.
pub fn read<K: Pod, V: Pod>(map: &impl AsFd) -> io::Result<Vec<(K, V)>> {
    let mut rows = Vec::new();
    scan(map, |key, value| rows.push((*key, *value)))?;
    Ok(rows)
}

/// Shows every row to `visit`, without keeping more than a chunk of them.
///
/// # Errors
/// As [`read`].
pub fn scan<K: Pod, V: Pod>(map: &impl AsFd, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
    let (mut place, mut buffers) = (Place::default(), Buffers::new(CHUNK));
    while !chunk(map, &mut place, &mut buffers, &mut visit)? {}
    Ok(())
}

/// Shows some `rows` that follow on a place, and goes there; true when there are no more.
///
/// Of a hash map, a row that stays while others come and go is seen once at least. Of a
/// trie, most are: when the row of the place has gone, the kernel begins anew.
///
/// # Errors
/// As [`read`].
pub fn scan_some<K: Pod, V: Pod>(
    map: &impl AsFd,
    place: &mut Place,
    rows: usize,
    visit: impl FnMut(&K, &V),
) -> io::Result<bool> {
    chunk(map, place, &mut Buffers::new(rows), visit)
}

/// How far a map has been read, as the kernel says it: a bucket's number for hash
/// maps, the last key for tries. It takes as many bytes as a key has.
#[derive(Clone, Copy, Default)]
pub struct Place(Option<[u64; 8]>);

impl Place {
    pub fn is_start(&self) -> bool {
        self.0.is_none()
    }
}

struct Buffers<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Buffers<K, V> {
    fn new(rows: usize) -> Self {
        Self { keys: vec![K::zeroed(); rows], values: vec![V::zeroed(); rows] }
    }
}

/// True when there are no more rows.
fn chunk<K: Pod, V: Pod>(
    map: &impl AsFd,
    place: &mut Place,
    rows: &mut Buffers<K, V>,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<bool> {
    loop {
        let mut next = <[u64; 8]>::zeroed();
        let room = rows.keys.len();
        let buffers = BatchBuffers {
            cursor_in: place.0.as_ref().map_or(0, |place| place.as_ptr() as u64),
            cursor_out: next.as_mut_ptr() as u64,
            keys: rows.keys.as_mut_ptr() as u64,
            values: rows.values.as_mut_ptr() as u64,
        };
        // SAFETY: both buffers have room for that many rows, the cursors for a key.
        let (result, count) = unsafe { sys::map_batch(BatchCommand::Lookup, map, buffers, room as u32) };
        match result {
            // One bucket holds more than the room that was left.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => *rows = Buffers::new(room * 2),
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            result => {
                let count = count as usize;
                rows.keys[..count]
                    .iter()
                    .zip(&rows.values[..count])
                    .for_each(|(key, value)| visit(key, value));
                *place = Place(Some(next));
                return Ok(result.is_err());
            }
        }
    }
}
