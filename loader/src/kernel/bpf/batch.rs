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
    each(rows.len(), |from| {
        if rows.len() - from < FEW {
            return (sys::map_update(map, &keys[from], &values[from]), 1);
        }
        let buffers = BatchBuffers {
            keys: keys[from..].as_ptr() as u64,
            values: values[from..].as_ptr() as u64,
            ..BatchBuffers::default()
        };
        // SAFETY: both buffers hold the rows from `from` on.
        unsafe { sys::map_batch(BatchCommand::Update, map, buffers, (rows.len() - from) as u32) }
    })
}

/// Deletes rows; deleting what is not there succeeds.
pub fn delete<K: Pod>(map: &impl AsFd, keys: &[K]) -> Vec<(usize, io::Error)> {
    each(keys.len(), |from| {
        if keys.len() - from < FEW {
            return (sys::map_delete(map, &keys[from]), 1);
        }
        let buffers = BatchBuffers { keys: keys[from..].as_ptr() as u64, ..BatchBuffers::default() };
        // SAFETY: the buffer holds the keys from `from` on.
        let (result, done) =
            unsafe { sys::map_batch(BatchCommand::Delete, map, buffers, (keys.len() - from) as u32) };
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => (Ok(()), done + 1),
            result => (result, done),
        }
    })
}

/// Runs `batch(from)` until all are done, going on behind each that fails.
/// On failure the count is of the rows that went before the failing one.
fn each(length: usize, mut batch: impl FnMut(usize) -> (io::Result<()>, u32)) -> Vec<(usize, io::Error)> {
    let mut failed = Vec::new();
    let mut from = 0;
    while from < length {
        let (result, done) = batch(from);
        match result {
            Ok(()) => from += (done as usize).max(1),
            Err(error) => {
                // A single call counts itself; a refused batch may count all.
                let before = if length - from < FEW { 0 } else { (done as usize).min(length - from - 1) };
                failed.push((from + before, error));
                from += before + 1;
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
    // The kernel's place in the table: for hash maps a bucket number, which it
    // keeps in as many bytes as a key has.
    let mut cursor = [0_u64; 8];
    let mut first = true;
    let mut chunk = CHUNK;
    let mut keys = vec![K::zeroed(); chunk];
    let mut values = vec![V::zeroed(); chunk];
    loop {
        let mut next = <[u64; 8]>::zeroed();
        let buffers = BatchBuffers {
            cursor_in: if first { 0 } else { cursor.as_ptr() as u64 },
            cursor_out: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
        };
        // SAFETY: both buffers have room for `chunk` rows, the cursors for a key.
        let (result, count) = unsafe { sys::map_batch(BatchCommand::Lookup, map, buffers, chunk as u32) };
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                // One bucket holds more than the room that was left.
                chunk *= 2;
                keys.resize(chunk, K::zeroed());
                values.resize(chunk, V::zeroed());
                continue;
            }
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            result => {
                let count = count as usize;
                rows.extend(keys[..count].iter().copied().zip(values[..count].iter().copied()));
                if result.is_err() {
                    return Ok(rows);
                }
            }
        }
        cursor = next;
        first = false;
    }
}
