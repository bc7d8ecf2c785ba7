//! The part of a wait during which the task's group had used up its CPU quota.
//!
//! Every CFS run queue keeps the total time it was throttled, by the quota of whichever ancestor. A
//! cell remembers the last total it saw and the last throttle. A task remembers the total at its
//! preemption.

use stallscope_ebpf::{
    Cause, Occupant, THROTTLE_UNKNOWN, TaskEntry, WaitCell,
    cells::CLOSED,
    kernel::{MAX_RT_PRIO, Task, Typed},
};

use crate::{add, split, task_entry};

/// Returns the total up to which `cell` has accounted the run queue's throttled time. Throttles before
/// the program saw the group for the first time are no part of this wait, unless the task remembers
/// the total at its preemption.
///
/// # Safety
/// `cell` belongs to the CPU whose run-queue lock is held.
#[inline(always)]
unsafe fn seen(cell: *const WaitCell, entry: *const TaskEntry, total: u64) -> u64 {
    // SAFETY: both point into maps' values, and no program writes the cell while its CPU's run-queue
    // lock is held.
    unsafe {
        let seen = (*cell).throttled_seen_ns;
        if (*cell).serial == CLOSED {
            // Slot 0 takes what lies beyond the capacity, so its cell has no run queue of its own.
            return total;
        }
        if seen != THROTTLE_UNKNOWN {
            return seen;
        }
        let remembered = (*entry).throttled_ns;
        if remembered < total {
            remembered
        } else {
            total
        }
    }
}

/// Time that a group spent throttled on one CPU, inside a longer wait.
#[derive(Clone, Copy)]
pub(crate) struct Throttled {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Time throttled before `start` as well, in nanoseconds.
    pub(crate) earlier: u64,
}

/// Splits the wait `[from, to]` by cause, around its throttled part `hole`.
///
/// # Safety
/// `cell` is this CPU's, at `place`; the run-queue lock of the ring's CPU is held.
#[inline(always)]
pub(crate) unsafe fn split_around(
    ring: u32,
    cell: *mut WaitCell,
    place: u32,
    waiting: Occupant,
    from: u64,
    to: u64,
    hole: Throttled,
) {
    // SAFETY: `cell` is this CPU's, as `add` demands, and the caller holds the run-queue lock that
    // `split` relies on.
    unsafe {
        add(
            cell,
            Cause::Throttled as u32,
            hole.end - hole.start + hole.earlier,
        );
        if hole.end < to {
            split(ring, place, waiting.0, hole.end, to);
        }
        let from = from + hole.earlier;
        if from < hole.start {
            split(ring, place, waiting.0, from, hole.start);
        }
    }
}

/// Returns the part of a wait since `from` that the task's group spent throttled, by what `cell` knows
/// of the run queue and what the task remembers in `entry`.
///
/// # Safety
/// `cell` belongs to the CPU of `cfs_rq`, whose run-queue lock is held.
#[inline(always)]
pub(crate) unsafe fn throttled(
    task: Task<Typed>,
    cell: *const WaitCell,
    entry: *const TaskEntry,
    total: u64,
    from: u64,
    now: u64,
    idle: bool,
) -> Throttled {
    // SAFETY: both point into maps' values, and no program writes the cell while its CPU's run-queue
    // lock is held.
    unsafe {
        let none = Throttled {
            start: from,
            end: from,
            earlier: 0,
        };
        let remembered = (*entry).throttled_ns;
        let parks = task.parked();
        if parks == Some(true) {
            return Throttled {
                start: from,
                end: now,
                earlier: 0,
            };
        }
        if parks.is_some() && remembered == THROTTLE_UNKNOWN {
            // The task was not parked: it waited for others, even if the rest of its group was
            // throttled.
            return none;
        }
        let cfs_rq = task.cfs_rq();
        let grown = total - seen(cell, entry, total);
        let (mut start, mut end) = ((*cell).throttle_start_ns, (*cell).throttle_end_ns);
        if end == 0 && start != 0 {
            // The program saw it begin. It is over if the total has grown, and goes on otherwise.
            end = if grown != 0 { start + grown } else { now };
        } else if grown != 0 {
            // It began while none of the group's tasks was on this CPU: as one of them was queued. It
            // ended just now if nobody else had the CPU.
            start = if idle { now - grown } else { from };
            end = start + grown;
        } else if parks.is_none() && cfs_rq.throttle_count() != 0 {
            (start, end) = (from, now);
        }
        let length = end - start;
        if start < from {
            start = from;
        }
        if end > now {
            end = now;
        }
        if end < start {
            (start, end) = (from, from);
        }
        if remembered == THROTTLE_UNKNOWN {
            return Throttled {
                start,
                end,
                earlier: 0,
            };
        }
        // A preempted task may have waited through several throttles. The total has them all, and the
        // first began with the wait.
        let all = total - remembered;
        if parks.is_some() {
            if all <= length {
                return Throttled {
                    start,
                    end,
                    earlier: 0,
                };
            }
            // Unparked after the first throttle, the task was queued through the others.
            let first = from + (all - length);
            return Throttled {
                start: from,
                end: if first < now { first } else { now },
                earlier: 0,
            };
        }
        let mut earlier = 0;
        if all > end - start {
            earlier = all - (end - start);
            let room = start - from;
            if earlier > room {
                earlier = room;
            }
        }
        Throttled {
            start,
            end,
            earlier,
        }
    }
}

/// Notes the state of throttling for a wait of `prev` that may begin now.
///
/// # Safety
/// `cell` is this CPU's, under its run-queue lock.
#[cold]
#[inline(never)]
pub(crate) unsafe fn remember_throttle(
    prev: Task<Typed>,
    cell: *mut WaitCell,
    runnable: bool,
    now: u64,
) {
    let cfs_rq = prev.cfs_rq();
    // SAFETY: `cell` is this CPU's, and its run-queue lock is held: nothing else writes it.
    // `task_entry` gives a pointer into the map's value and says that the entry is this task's.
    unsafe {
        let parks = prev.parked();
        let throttled = parks.unwrap_or_else(|| cfs_rq.throttle_count() != 0);
        if throttled && ((*cell).throttle_end_ns != 0 || (*cell).throttle_start_ns == 0) {
            (*cell).throttle_start_ns = now;
            (*cell).throttle_end_ns = 0;
        }
        if (*cell).throttled_seen_ns == THROTTLE_UNKNOWN {
            (*cell).throttled_seen_ns = cfs_rq.throttled_time();
        }
        if let Some((entry, _, true)) = task_entry(prev.pid()) {
            let remember = parks.unwrap_or(runnable);
            (*entry).throttled_ns = if remember {
                cfs_rq.throttled_time()
            } else {
                THROTTLE_UNKNOWN
            };
        }
    }
}

/// Arguments of [`arrive_throttled`].
pub(crate) struct Arrival {
    pub(crate) cpu: u32,
    pub(crate) place: u32,
    pub(crate) who: Occupant,
    pub(crate) total: u64,
    pub(crate) queued: u64,
    pub(crate) now: u64,
    pub(crate) idle: bool,
}

/// Attributes the wait of an incoming task whose group has been throttled at some time.
///
/// # Safety
/// `cell` is this CPU's, under its run-queue lock; `entry` is the task's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn arrive_throttled(
    next: Task<Typed>,
    cell: *mut WaitCell,
    entry: *const TaskEntry,
    arrival: &Arrival,
) {
    let Arrival {
        cpu,
        place,
        who,
        total,
        queued,
        now,
        idle,
    } = *arrival;
    // SAFETY: `cell` is this CPU's, under its run-queue lock, and `entry` is the task's, as all three
    // functions demand.
    unsafe {
        if queued != 0 && queued < now {
            if next.prio() >= MAX_RT_PRIO {
                let hole = throttled(next, cell, entry, total, queued, now, idle);
                split_around(cpu, cell, place, who, queued, now, hole);
            } else {
                split(cpu, place, who.0, queued, now);
            }
        }
        close_throttle(cell, entry, total, queued, now, idle);
    }
}

/// Keeps the last throttle in `cell` for the tasks of the group that still wait.
///
/// # Safety
/// `cell` is this CPU's, under its run-queue lock; `entry` is that of the incoming task.
#[inline(always)]
pub(crate) unsafe fn close_throttle(
    cell: *mut WaitCell,
    entry: *const TaskEntry,
    total: u64,
    queued: u64,
    now: u64,
    idle: bool,
) {
    // SAFETY: `cell` is this CPU's, and its run-queue lock is held: nothing else writes it.
    unsafe {
        let grown = total - seen(cell, entry, total);
        (*cell).throttled_seen_ns = total;
        if grown == 0 {
            return;
        }
        if (*cell).throttle_end_ns != 0 || (*cell).throttle_start_ns == 0 {
            (*cell).throttle_start_ns = if idle { now - grown } else { queued };
        }
        (*cell).throttle_end_ns = (*cell).throttle_start_ns + grown;
    }
}
