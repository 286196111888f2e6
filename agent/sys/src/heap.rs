//! Giving memory that was freed back to the kernel.

/// Returns pages that the allocator keeps for later, of all threads. Without glibc there is nothing to do: its
/// allocator alone keeps what lies between blocks that are still in use.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` may be called by any thread at any time; it takes the allocator's locks and moves no
    // block that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
