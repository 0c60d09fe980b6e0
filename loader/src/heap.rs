//! How does the agent stay small? By glibc's settings for its allocator, and by
//! giving back what a large batch needed for a moment.

use std::ffi::c_int;

/// Blocks from this size on are mapped, and unmapped when freed.
const MAPPED_FROM: c_int = 128 << 10;
/// As much is asked of the kernel at a time.
const STEP: c_int = 64 << 10;

/// To be called before the first thread starts.
pub fn keep_small() {
    let settings = [
        // A heap for each thread would keep what its thread needed once. Two:
        // with one, the threads that read manifests wait for each other.
        (libc::M_ARENA_MAX, 2),
        // Said so, or glibc would raise it with the first large block freed.
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TOP_PAD, STEP),
    ];
    for (setting, value) in settings {
        // SAFETY: glibc's own function, called before there are other threads.
        // It fails on values out of range only, which these are not.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Hands free pages back to the kernel: documents and their parsed forms take
/// several times the room of what is kept of them, and the allocator would hold
/// on to it for the life of the agent.
pub fn give_back() {
    // SAFETY: glibc's own function, safe to call from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}
