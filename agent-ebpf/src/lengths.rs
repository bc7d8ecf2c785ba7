//! Lengths of rare events, in hashes.
//!
//! An event that comes a few times a second at most does not pay for a cell per slot and CPU. The
//! hashes are preallocated, because a program under a run-queue lock must not allocate. All CPUs
//! share them: a value per CPU would take megabytes on large machines for the same few events.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    maps::{Array, HashMap},
};

use crate::{Lengths, wait_bucket};

/// Counts an event of `ns` nanoseconds; false if the map has no room for its key.
#[inline(always)]
pub fn record<K>(map: &HashMap<K, Lengths>, key: &K, ns: u64) -> bool {
    let entry = if let Some(entry) = map.get_ptr_mut(key) {
        entry
    } else {
        // Fails where another CPU was first: its entry is there then.
        let _ = map.insert(key, Lengths::default(), BPF_NOEXIST.into());
        match map.get_ptr_mut(key) {
            Some(entry) => entry,
            None => return false,
        }
    };
    // SAFETY: a pointer into the map's value, whose words are only added to; the mask tells the
    // verifier that the word lies in it.
    unsafe {
        add(&raw mut (*entry).sum_ns, ns);
        let counts = (&raw mut (*entry).counts).cast::<u64>();
        add(counts.add(wait_bucket(ns) & 15), 1);
    }
    true
}

/// Counts an event that could not be attributed, by reason.
#[inline(always)]
pub fn lost(map: &Array<u64>, reason: u32) {
    if let Some(count) = map.get_ptr_mut(reason) {
        // SAFETY: the lookup gave a pointer to a word of the map's value, to which all CPUs only add.
        unsafe { add(count, 1) };
    }
}

/// Adds atomically: other CPUs may add at the same time.
///
/// In assembly, because Rust gives this target no atomic additions. This is the instruction that
/// every kernel has; the one that also returns the sum came with 5.12.
///
/// # Safety
/// `word` points into a map's value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, more: u64) {
    // SAFETY: `word` points into a map's value, which the kernel aligns to eight bytes, and the
    // addition is atomic.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {more}", word = in(reg) word, more = in(reg) more, options(nostack));
    }
}
