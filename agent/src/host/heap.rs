//! This process's heap.

/// Returns heap memory to the system: reading the kernel's types takes much of it for a moment.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
