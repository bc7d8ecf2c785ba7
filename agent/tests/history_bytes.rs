//! The history's own count of its memory, compared with a counting allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use stallscope::{
    attribution::owners::OwnerIndex,
    exposition::OwnerLabels,
    ledger::history::{History, Limits, Quantity, Subject},
};

/// Bytes currently allocated.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged, and counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system allocator's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took the block from the system allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const INTO: OwnerIndex = OwnerIndex(1);

/// Totals of a host with two NUMA nodes.
fn totals(us: u64) -> impl Iterator<Item = (Quantity, u64)> {
    let nodes = [Quantity::Cpu(Some(0)), Quantity::Cpu(Some(1))];
    let waits = (0..12).map(Quantity::Wait);
    let all = nodes.into_iter().chain(waits);
    all.map(move |quantity| (quantity, us * 1000))
}

/// Returns the bytes allocated since `before`.
fn taken(before: usize) -> usize {
    TAKEN.load(Ordering::Relaxed) - before
}

/// Records a hundred thousand cgroups with a lifetime of a second each, and one that lives on. Returns the peak of the
/// allocated bytes after any of them.
fn flood(bytes: usize) -> (usize, History) {
    let limits = Limits {
        bytes,
        ..Limits::default()
    };
    let before = TAKEN.load(Ordering::Relaxed);
    let mut history = History::new(limits, Instant::now());
    let (live, mut most) = (OwnerLabels::new("", "", "", "/live"), 0);
    for index in 0..100_000_u32 {
        if index % 40 == 0 {
            let second = history.recorded().map_or(1 << 20, |(_, end)| end);
            history.begin_second(second);
            let us = u64::from(index + 1) * 1000;
            history.record(Subject::Owner(OwnerIndex(2)), Some(&live), totals(us));
        }
        let cgroup = format!("/system.slice/containerd.service/short-lived-{index}");
        let labels = OwnerLabels::new("", "", "", &cgroup);
        let owner = OwnerIndex(3 + index);
        history.record(Subject::Owner(owner), Some(&labels), totals(5000));
        drop((cgroup, labels));
        history.fold(owner, INTO);
        most = most.max(taken(before));
        assert!(history.bytes() <= bytes, "{} at {index}", history.bytes());
    }
    let said = history.bytes();
    assert!(
        (said..2 * said).contains(&(taken(before) + said / 2)),
        "the history counts {said} bytes, the allocator {}",
        taken(before)
    );
    (most, history)
}

/// The only test here, because the allocator counts concurrent tests as well.
#[test]
fn a_hundred_thousand_short_lived_cgroups_take_no_more_than_they_may() {
    for mib in [1, 4] {
        let (most, history) = flood(mib << 20);
        println!(
            "{mib} MiB: {most} bytes at most, {} counted",
            history.bytes()
        );
        assert!(most <= mib << 20, "{most} bytes of {mib} MiB");
        assert!(history.ended() > 1000);
    }
}
