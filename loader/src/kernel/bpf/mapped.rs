//! How are arrays written without a system call? Through a shared mapping of
//! the map's own memory (`BPF_F_MMAPABLE`, Linux 5.5).

use std::{
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The rows of an array map. Rows are a multiple of 8 bytes, as the kernel
/// spaces them.
pub struct Mapped<T> {
    rows: NonNull<T>,
    count: usize,
    bytes: NonZeroUsize,
    kind: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value; writes go through `&mut self`.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8), "rows of a mapped array are whole words");
        size_of::<T>() / 8
    };

    /// Maps the array with `count` rows.
    ///
    /// # Errors
    /// When the map was not made to be mapped.
    pub fn new(map: &impl AsFd, count: u32) -> io::Result<Self> {
        let count = count as usize;
        // The kernel rounds up to its page size, here and in the map.
        let bytes = count * Self::WORDS * 8;
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses.
        let rows = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { rows: rows.cast(), count, bytes, kind: PhantomData })
    }

    pub fn rows(&self) -> &[T] {
        // SAFETY: `count` rows are mapped for as long as `self`; T is plain
        // data, so whatever a foreign hand writes there is a value of it.
        unsafe { std::slice::from_raw_parts(self.rows.as_ptr(), self.count) }
    }

    /// Writes one row, word by word in ascending order: a program sees each
    /// 8-byte word either old or new, and the first word first.
    ///
    /// # Errors
    /// `E2BIG`, as from a full hash map, when there is no such row.
    pub fn store(&mut self, index: u32, row: &T) -> io::Result<()> {
        self.store_run(index, std::slice::from_ref(row))
    }

    /// As [`Mapped::store`], for rows that follow one another.
    ///
    /// # Errors
    /// As [`Mapped::store`]; then nothing was written.
    pub fn store_run(&mut self, index: u32, rows: &[T]) -> io::Result<()> {
        let index = index as usize;
        if index + rows.len() > self.count {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        // SAFETY: the row is inside the mapping, which is aligned to a page,
        // and rows are whole words.
        let first = unsafe { self.rows.as_ptr().add(index).cast::<AtomicU64>() };
        for (at, word) in bytemuck::cast_slice::<T, u64>(rows).iter().enumerate() {
            // SAFETY: as above.
            unsafe { (*first.add(at)).store(*word, Ordering::Release) };
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nobody holds a row.
        let _ = unsafe { munmap(self.rows.cast(), self.bytes.get()) };
    }
}
