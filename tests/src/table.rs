//! A BPF map whose sizes are known only when it is there.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData};

/// Keys and values as bytes, of the sizes that the map has.
pub struct Table<'a> {
    map: BorrowedFd<'a>,
    key: usize,
    value: usize,
    rows: u32,
}

/// Commands of bpf(2), and the attributes of those that touch an element.
const LOOKUP: libc::c_int = 1;
const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;
const NEXT_KEY: libc::c_int = 4;
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;

#[repr(C)]
struct Element {
    map: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl<'a> Table<'a> {
    pub fn of(map: &'a Map) -> Self {
        let data: &MapData = match map {
            Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data) | Map::LpmTrie(data) => data,
            Map::PerCpuArray(data) => data,
            other => panic!("neither hash map, trie nor array: {other:?}"),
        };
        let info = data.info().expect("the kernel describes its map");
        let copies = match map {
            Map::PerCpuArray(_) => aya::util::nr_cpus().expect("the kernel counts its CPUs"),
            _ => 1,
        };
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        Self { map: data.fd().as_fd(), key, value: value * copies, rows: info.max_entries() }
    }

    /// All rows of an array, one behind the other; those of each CPU, if each
    /// has its own.
    pub fn rows(&self) -> Vec<u8> {
        let mut values = vec![0; self.value * self.rows as usize];
        assert!(self.batch(LOOKUP_BATCH, values.as_mut_ptr()), "read all: {}", error());
        values
    }

    /// Makes every row of an array zero.
    pub fn zero(&self) {
        let mut values = vec![0; self.value * self.rows as usize];
        assert!(self.batch(UPDATE_BATCH, values.as_mut_ptr()), "write all: {}", error());
    }

    fn batch(&self, command: libc::c_int, values: *mut u8) -> bool {
        let mut keys: Vec<u32> = (0..self.rows).collect();
        let mut end = 0_u32;
        let batch = Batch {
            from: 0,
            to: &raw mut end as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values as u64,
            count: self.rows,
            map: self.map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the buffers have room for every row, and the attributes are
        // those of a batch command.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const batch, size_of::<Batch>()) == 0 }
    }

    /// Length of a value in bytes.
    pub fn value(&self) -> usize {
        self.value
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key];
            let last = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            if !self.call(NEXT_KEY, last, next.as_mut_ptr()) {
                return keys;
            }
            keys.push(next);
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = vec![0; self.value];
        self.call(LOOKUP, key.as_ptr(), value.as_mut_ptr()).then_some(value)
    }

    pub fn put(&self, key: &[u8], value: &[u8]) {
        assert_eq!((key.len(), value.len()), (self.key, self.value), "sizes of the map");
        assert!(self.call(UPDATE, key.as_ptr(), value.as_ptr().cast_mut()), "update: {}", error());
    }

    pub fn remove(&self, key: &[u8]) {
        assert!(self.call(DELETE, key.as_ptr(), std::ptr::null_mut()), "delete: {}", error());
    }

    fn call(&self, command: libc::c_int, key: *const u8, value: *mut u8) -> bool {
        let map = self.map.as_raw_fd() as u32;
        let element = Element { map, key: key as u64, value: value as u64, flags: 0 };
        // SAFETY: the buffers have the map's sizes, and the attributes are those
        // of an element command.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<Element>()) == 0 }
    }
}

fn error() -> std::io::Error {
    std::io::Error::last_os_error()
}
