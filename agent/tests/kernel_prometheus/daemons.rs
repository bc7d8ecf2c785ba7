//! Work for khugepaged, at its normal pace.

use std::{fs, ptr::NonNull};

/// Memory of small pages that khugepaged may collapse into huge ones, until it is dropped.
pub struct Collapsible {
    start: NonNull<u8>,
}

impl Collapsible {
    const LENGTH: usize = 64 << 20;

    /// Maps the memory; none where this kernel has no huge pages or they are disabled.
    pub fn new() -> Option<Self> {
        let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
        if enabled.contains("[never]") {
            return None;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), Self::LENGTH, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let start = NonNull::new(start.cast()).expect("nothing is mapped at address 0");
        let memory = Self { start };
        memory.advise(libc::MADV_NOHUGEPAGE);
        for at in (0..Self::LENGTH).step_by(rustix::param::page_size()) {
            // SAFETY: inside the mapping.
            unsafe { memory.start.add(at).write_volatile(1) };
        }
        memory.advise(libc::MADV_HUGEPAGE);
        Some(memory)
    }

    fn advise(&self, advice: i32) {
        // SAFETY: the mapping is ours.
        let done = unsafe { libc::madvise(self.start.as_ptr().cast(), Self::LENGTH, advice) };
        assert_eq!(done, 0, "madvise: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Collapsible {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::LENGTH) };
    }
}
