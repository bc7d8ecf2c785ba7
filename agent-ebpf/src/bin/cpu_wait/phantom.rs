//! Waits that were none: the kernel takes a sleeping task for one that waits.
//!
//! Since 6.12 a task that falls asleep may stay on its run queue until it would be its turn
//! (`se.sched_delayed`). If it is moved to another CPU meanwhile, `enqueue_task()` notes the time in
//! `last_queued` although the task sleeps, and taking it off the queue later does not clear that. At
//! its next wake-up all of the sleep since counts as `run_delay`. At `sched_migrate_task` such a task
//! can be told; when it really woke cannot. But whoever waits keeps his CPU from being idle, unless
//! his group is throttled: he has not waited for longer than since his CPU was last idle.

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

/// What was refused, by cgroup: rare, because a task has to be moved in the moments between.
#[map]
static PHANTOMS: HashMap<u64, Lengths> = HashMap::with_max_entries(1024, 0);
/// Refused waits for which that has no room.
#[map]
static PHANTOMS_LOST: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Remembers that the task sleeps, if it does, on the way to another run queue.
///
/// # Safety
/// `entry` is the one for the task's pid; the task's run queue is locked.
#[inline(always)]
pub(crate) unsafe fn remember_sleep(task: Task<Typed>, entry: *mut TaskEntry, tagged: u64) {
    if task.sleeps_on_queue() {
        // SAFETY: the caller's.
        unsafe { (*entry).tagged_delay = tagged | STAMPED_ASLEEP }
    }
}

/// How much of the wait `[from, to]` was none, because the CPU was idle until `until`; it is counted.
/// `cell` is the one of the task's cgroup on that CPU.
///
/// # Safety
/// The cell stays as it is: the CPU's run queue is locked.
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
    // SAFETY: the caller's.
    unsafe {
        if total != 0 && task.prio() >= MAX_RT_PRIO {
            let lasts = (*cell).throttle_start_ns != 0 && (*cell).throttle_end_ns == 0;
            // Throttled, it may have waited for an idle CPU.
            if lasts || total != (*cell).throttled_seen_ns || (*cell).throttle_end_ns > until {
                return 0;
            }
        }
        count((*cell).cgroup, until - from);
    }
    until - from
}

/// Counts a wait of `ns` that was none.
#[inline(always)]
pub(crate) fn count(cgroup: u64, ns: u64) {
    if !lengths::record(&PHANTOMS, &cgroup, ns) {
        lengths::lost(&PHANTOMS_LOST, 0);
    }
}
