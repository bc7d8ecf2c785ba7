//! Phantom waits: sleep that the kernel counts as a wait.
//!
//! Since 6.12 a task that falls asleep may stay on its run queue until its turn would come
//! (`se.sched_delayed`). If the task is moved to another CPU meanwhile, `enqueue_task()` sets
//! `last_queued` although the task sleeps, and dequeueing it later does not clear that. At its next
//! wakeup the kernel adds all of the sleep since then to `run_delay`. At `sched_migrate_task` such a
//! task can be told; the moment at which it really woke cannot. But a waiting task keeps its CPU from
//! being idle, unless its group is throttled: its wait did not begin before its CPU was last idle.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use stallscope_ebpf::{
    Lengths, STAMPED_ASLEEP, TaskEntry, WaitCell,
    kernel::{MAX_RT_PRIO, Task, Typed},
    lengths,
};

/// Phantom waits by cgroup. They are rare: a task has to be moved after it fell asleep and before it
/// leaves its run queue.
#[map]
static PHANTOMS: HashMap<u64, Lengths> = HashMap::with_max_entries(1024, 0);
/// Phantom waits for which `PHANTOMS` has no room.
#[map]
static PHANTOMS_LOST: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Marks the task's entry if the task sleeps on its way to another run queue.
///
/// # Safety
/// `entry` is the one for the task's pid; the task's run queue is locked.
#[inline(always)]
pub(crate) unsafe fn remember_sleep(task: Task<Typed>, entry: *mut TaskEntry, tagged: u64) {
    if task.sleeps_on_queue() {
        // SAFETY: `entry` points into the map's value (see `task_entry`). The word is stored whole,
        // so a task of another CPU that shares the entry can replace it but not mix with it.
        unsafe { (*entry).tagged_delay = tagged | STAMPED_ASLEEP }
    }
}

/// Returns how much of the wait `[from, to]` was a phantom, because the CPU was idle until `until`,
/// and counts that. `cell` is the one of the task's cgroup on that CPU.
///
/// # Safety
/// The run queue of the cell's CPU is locked, so that the cell stays as it is.
#[cold]
#[inline(never)]
pub(crate) unsafe fn refused(
    task: Task<Typed>,
    cell: *const WaitCell,
    until: u64,
    from: u64,
    to: u64,
) -> u64 {
    if from == 0 || until <= from || until > to {
        return 0;
    }
    let total = task.cfs_rq().throttled_time();
    // SAFETY: `cell` points into the map's value, and no program writes it while its CPU's run queue
    // is locked.
    unsafe {
        if total != 0 && task.prio() >= MAX_RT_PRIO {
            let lasts = (*cell).throttle_start_ns != 0 && (*cell).throttle_end_ns == 0;
            // A throttled task may have waited while the CPU was idle.
            if lasts || total != (*cell).throttled_seen_ns || (*cell).throttle_end_ns > until {
                return 0;
            }
        }
        count((*cell).cgroup, until - from);
    }
    until - from
}

/// Counts a phantom wait of `ns` nanoseconds.
#[inline(always)]
pub(crate) fn count(cgroup: u64, ns: u64) {
    if !lengths::record(&PHANTOMS, &cgroup, ns) {
        lengths::lost(&PHANTOMS_LOST, 0);
    }
}
