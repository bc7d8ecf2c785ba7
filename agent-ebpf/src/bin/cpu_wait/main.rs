//! Attribution of a runnable task's time: time on CPUs, and the wait on run queues split by cause.
//!
//! At `sched_switch` the kernel adds `rq->clock - last_queued` to `run_delay` of the incoming task (`next`).
//! The program computes the same number and cuts it along a ring of this CPU's last occupants. A waiting
//! task that is moved leaves a part of its wait in `run_delay` without a switch. A table by pid makes that
//! part visible at `sched_migrate_task`, where the program cuts it along the source CPU's ring. The parts
//! therefore sum to `run_delay`.
#![no_std]
#![no_main]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya passes contexts by value"
)]
#![allow(missing_docs, reason = "aya's macros make public functions")]

mod daemons;
mod moved;
mod phantom;
mod throttle;

use core::mem::offset_of;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use stallscope_ebpf::{
    Cause, Daemon, DaemonCell, GROUP_UNKNOWN, Occupant, RING_LENGTH, Ring, STAMPED_ASLEEP, Segment,
    SlotOwner, THROTTLE_UNKNOWN, TaskEntry, WaitCell,
    kernel::{self, PF_KTHREAD, TASK_DEAD, Task, Typed},
    slot::{self, Seat},
    wait_bucket,
};

use daemons::{count_preemption, daemon, daemon_came, daemon_left};
use throttle::{Arrival, arrive_throttled, remember_throttle};

stallscope_ebpf::cells!(WaitCell);
/// Owners of the slots: the cgroups that the programs saw, and the agent's answers.
#[map]
static OWNERS: Array<SlotOwner> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Last occupants of each CPU. Written under that CPU's run-queue lock.
#[map]
pub(crate) static RINGS: Array<Ring> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// State of tasks, by the low bits of a pid.
#[map]
static TASKS: Array<TaskEntry> = Array::with_max_entries(1, 0);
/// Cells of the memory daemons, by daemon and NUMA node.
#[map]
pub(crate) static DAEMONS: Array<DaemonCell> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Bits of a [`TaskEntry`] that hold `run_delay`.
const DELAY_MASK: u64 = STAMPED_ASLEEP - 1;

/// Returns the occupant that a task is to those who wait while it runs. (The idle task is told apart by its
/// pid, 0.)
///
/// # Safety
/// `cell` is the one of `seat` on this CPU.
#[inline(always)]
pub(crate) unsafe fn occupant(
    task: Task<Typed>,
    seat: Seat<Typed>,
    cell: *mut WaitCell,
) -> Occupant {
    if task.flags() & PF_KTHREAD != 0 {
        return Occupant::other(match daemon(task) {
            Some((Daemon::Kswapd, _)) => Cause::Kswapd,
            Some((Daemon::Kcompactd, _)) => Cause::Kcompactd,
            Some((Daemon::Khugepaged, _)) => Cause::Khugepaged,
            None => Cause::Kernel,
        });
    }
    // SAFETY: `cell` is this CPU's, which no other CPU writes, and interrupts are off. `owner` points into
    // the map's value, and programs and agent read and write its words whole.
    unsafe {
        let answered = (*cell).cgroup << 32;
        if (*cell).answer & !0xffff_ffff != answered || answered == 0 {
            let Some(owner) = OWNERS.get_ptr_mut(seat.index) else {
                return Occupant::user(seat.index, GROUP_UNKNOWN);
            };
            let answer = (*owner).answer;
            if answer & !0xffff_ffff != answered {
                (*owner).cgroup = (*cell).cgroup;
                return Occupant::user(seat.index, GROUP_UNKNOWN);
            }
            (*cell).answer = answer;
        }
        Occupant::user(seat.index, (*cell).answer as u32)
    }
}

/// Cuts the wait `[from, to]` of `waiting` along the ring of CPU `ring`, and adds the parts to this CPU's
/// cell at `cell`. The caller holds the run-queue lock of the ring's CPU.
///
/// A global function of plain numbers: the verifier checks it once, not at each of its calls, which makes a
/// long ring affordable. It branches as little as it can, because the verifier follows every path of every
/// round.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn split(ring: u32, cell: u32, waiting: u64, from: u64, to: u64) -> u32 {
    let waiting = Occupant(waiting);
    let (Some(ring), Some(cell)) = (RINGS.get_ptr(ring), CELLS.get_ptr_mut(cell)) else {
        return 1;
    };
    // SAFETY: the lookups gave pointers into the maps' values. The cell is this CPU's, and the ring stays as
    // it is while the caller holds the run-queue lock of its CPU.
    unsafe {
        let mut end = to;
        let since = (*ring).current_since_ns;
        if since < end {
            let start = if since > from { since } else { from };
            add(cell, (*ring).current.cause_to(waiting), end - start);
            end = start;
        }
        if from >= end {
            return 0;
        }
        let mut at = (*ring).head as usize - 1;
        for _ in 0..RING_LENGTH - 1 {
            let occupant = (*ring).segments[at % RING_LENGTH].occupant;
            at = at.wrapping_sub(1);
            let start = (*ring).segments[at % RING_LENGTH].end_ns;
            if start <= from {
                add(cell, occupant.cause_to(waiting), end - from);
                return 0;
            }
            if start < end {
                add(cell, occupant.cause_to(waiting), end - start);
                end = start;
            }
        }
        add(cell, Cause::Unattributed as u32, end - from);
    }
    0
}

/// Adds `ns` to one cause.
///
/// # Safety
/// `cell` is this CPU's.
#[inline(always)]
pub(crate) unsafe fn add(cell: *mut WaitCell, cause: u32, ns: u64) {
    const { assert!(offset_of!(WaitCell, wait_ns) + 16 * size_of::<u64>() <= size_of::<WaitCell>()) };
    // SAFETY: `cell` is this CPU's, which no other CPU writes. No cause is above 9; the mask tells the
    // verifier that the word lies in the cell (asserted above), which a comparison does not once the
    // compiler has moved it.
    unsafe {
        let sums = (&raw mut (*cell).wait_ns).cast::<u64>();
        *sums.add(cause as usize & 15) += ns;
    }
}

/// Forgets a task that has ended: its pid may be given again.
#[cold]
#[inline(never)]
fn forget(pid: u32) {
    if let Some((entry, _, true)) = task_entry(pid) {
        // SAFETY: `task_entry` gave a pointer into the map's value; the word is stored whole.
        unsafe { (*entry).tagged_delay = 0 }
    }
}

/// Counts one stay of `ns` on a run queue.
///
/// # Safety
/// `cell` is this CPU's.
#[inline(always)]
pub(crate) unsafe fn count_stay(cell: *mut WaitCell, ns: u64) {
    // SAFETY: `cell` is this CPU's, which no other CPU writes; the bucket is in range by construction of
    // `wait_bucket`.
    unsafe {
        let bucket = &mut (*cell).wait_buckets[wait_bucket(ns)];
        *bucket = bucket.wrapping_add(1);
    }
}

/// Returns the entry for a pid, the pid's tag, and whether the entry is this task's.
#[inline(always)]
pub(crate) fn task_entry(pid: u32) -> Option<(*mut TaskEntry, u64, bool)> {
    let tag = (u64::from(pid >> kernel::task_bits()) + 1) << 56;
    let entry = TASKS.get_ptr_mut(pid & kernel::task_mask())?;
    // SAFETY: the lookup gave a pointer into the map's value; the word is read whole.
    let mine = unsafe { (*entry).tagged_delay } & !(STAMPED_ASLEEP | DELAY_MASK) == tag;
    Some((entry, tag, mine))
}

/// Makes `who` the occupant of the CPU from `now` on.
///
/// # Safety
/// `ring` is this CPU's, under its run-queue lock.
#[inline(always)]
unsafe fn hand_over(ring: *mut Ring, who: Occupant, now: u64) {
    // SAFETY: `ring` is this CPU's. Its run-queue lock is held, under which alone programs read and write
    // the ring, and the index is within the length.
    unsafe {
        (*ring).switched_ns = now;
        if (*ring).current != who {
            let at = (*ring).head as usize % RING_LENGTH;
            (*ring).segments[at] = Segment {
                end_ns: now,
                occupant: (*ring).current,
            };
            (*ring).head += 1;
            (*ring).current = who;
            (*ring).current_since_ns = now;
        }
    }
}

/// Accounts the outgoing task (`prev`): its time on the CPU, its preemption by a daemon, and what its next
/// wait has to know.
#[inline(always)]
fn leave(prev: Task<Typed>, next: Task<Typed>, preempt: bool, ring: *mut Ring, cpu: u32, now: u64) {
    let pid = prev.pid();
    // SAFETY: `ring` and `cell` are this CPU's, and `sched_switch` fires under its run-queue lock: nothing
    // else writes them.
    unsafe {
        // Normally a task arrived when the one before it left. If it came later, the program did not see a
        // switch: the first of a CPU, or one the kernel hides.
        if pid == 0 {
            if (*ring).switched_ns == 0 {
                (*ring).current = Occupant::other(Cause::Unattributed);
                hand_over(ring, Occupant::other(Cause::Idle), now);
            }
            (*ring).idle_until_ns = now;
            return;
        }
        if prev.last_arrival() > (*ring).switched_ns {
            came_unseen(prev, ring, cpu);
        }
        let Some(cell) = CELLS.get_ptr_mut((*ring).current_place) else {
            return;
        };
        let on_cpu = now - (*ring).switched_ns;
        if (*cell).serial != (*ring).current_serial && !stayed(prev, ring, cpu) {
            // Its cgroup has ended since this task arrived, and another has taken the slot over.
            if let Some(retired) = RETIRED.get_ptr_mut(cpu) {
                (*retired).on_cpu_ns += on_cpu;
            }
            return;
        }
        (*cell).on_cpu_ns += on_cpu;
        let state = prev.state();
        let runnable = state == 0 || preempt;
        if next.flags() & PF_KTHREAD != 0 && runnable {
            count_preemption(cell, next);
        }
        if (*ring).current.is_daemon() {
            daemon_left(prev, on_cpu, runnable);
        }
        if state & TASK_DEAD != 0 {
            forget(pid);
        } else if (*cell).throttled_seen_ns != 0 || prev.parked() == Some(true) {
            remember_throttle(prev, cell, runnable, now);
        }
    }
}

/// Returns whether the outgoing task (`prev`) came onto its CPU in the same css, before these tables were
/// there; its cell then begins.
///
/// # Safety
/// `ring` is this CPU's, under its run-queue lock.
#[cold]
#[inline(never)]
unsafe fn stayed(prev: Task<Typed>, ring: *const Ring, cpu: u32) -> bool {
    let seat = Seat::of_task(prev, cells());
    // SAFETY: `ring` is this CPU's, and its run-queue lock is held. The place is the same in tables of all
    // sizes, and the cell there is now its own.
    let same = unsafe {
        seat.serial == (*ring).current_serial && seat.place(cpu) == (*ring).current_place
    };
    same && seat.cell(cells(), cpu).is_some()
}

/// Accounts a task (`prev`) that was put on this CPU by a switch that the program did not see.
///
/// # Safety
/// `ring` is this CPU's, under its run-queue lock.
#[cold]
#[inline(never)]
unsafe fn came_unseen(prev: Task<Typed>, ring: *mut Ring, cpu: u32) {
    let seat = Seat::of_task(prev, cells());
    let place = seat.place(cpu);
    let arrival = prev.last_arrival();
    let Some(cell) = seat.cell(cells(), cpu) else {
        return;
    };
    // SAFETY: `ring` and `cell` are this CPU's, and its run-queue lock is held: nothing else writes them.
    // `task_entry` gave a pointer into the map's value, of this task's entry.
    unsafe {
        let who = occupant(prev, seat, cell);
        let first = (*ring).switched_ns == 0;
        if first {
            (*ring).current = Occupant::other(Cause::Unattributed);
        } else {
            (*ring).hidden += 1;
        }
        hand_over(ring, who, arrival);
        (*ring).current_place = place;
        (*ring).current_serial = seat.serial;
        let Some((entry, tag, true)) = task_entry(prev.pid()) else {
            return;
        };
        let (delay, known) = (prev.run_delay(), (*entry).tagged_delay);
        let mut unseen = delay.wrapping_sub(known) & DELAY_MASK;
        (*entry).tagged_delay = tag | (delay & DELAY_MASK);
        if known & STAMPED_ASLEEP != 0 && unseen < arrival {
            let until = (*ring).idle_until_ns;
            unseen -= phantom::refused(prev, cell, until, arrival - unseen, arrival);
        }
        if unseen != 0 && unseen < arrival && !first {
            split(cpu, place, who.0, arrival - unseen, arrival);
            count_stay(cell, unseen);
        }
    }
}

/// Accounts the incoming task (`next`): its wait, split by cause.
#[inline(always)]
fn arrive(next: Task<Typed>, idle: bool, ring: *mut Ring, cpu: u32, now: u64) {
    let seat = Seat::of_task(next, cells());
    let place = seat.place(cpu);
    let Some(cell) = seat.cell(cells(), cpu) else {
        return;
    };
    let Some((entry, tag, mine)) = task_entry(next.pid()) else {
        return;
    };
    // SAFETY: `ring` and `cell` are this CPU's, and `sched_switch` fires under its run-queue lock: nothing
    // else writes them. `task_entry` gave a pointer into the map's value.
    unsafe {
        let who = occupant(next, seat, cell);
        (*ring).current_place = place;
        (*ring).current_serial = seat.serial;
        let mut queued = next.last_queued();
        let mut wait = if queued != 0 && queued < now {
            now - queued
        } else {
            0
        };
        let delay = next.run_delay();
        let known = (*entry).tagged_delay;
        (*entry).tagged_delay = tag | (delay.wrapping_add(wait) & DELAY_MASK);
        if known ^ tag != delay & DELAY_MASK {
            if mine && known & STAMPED_ASLEEP != 0 {
                let until = (*ring).idle_until_ns;
                let refused = phantom::refused(next, cell, until, queued, now);
                queued += refused;
                wait -= refused;
            }
            not_as_left(ring, cell, entry, known, if mine { delay } else { known });
        }
        let cfs_rq = next.cfs_rq();
        let total = cfs_rq.throttled_time();
        if total != 0 {
            let arrival = Arrival {
                cpu,
                place,
                who,
                total,
                queued,
                now,
                idle,
            };
            arrive_throttled(next, cell, entry, &arrival);
        } else if wait != 0 {
            if queued >= (*ring).current_since_ns {
                // The common case: it waited for the outgoing task, or for the equals of that task.
                add(cell, (*ring).current.cause_to(who), wait);
            } else {
                split(cpu, place, who.0, queued, now);
            }
        }
        if wait != 0 {
            count_stay(cell, wait);
        }
        if who.is_daemon() {
            daemon_came(next, wait);
        }
        hand_over(ring, who, now);
    }
}

/// Accounts a task whose `run_delay` is not what it was when the task left its CPU: the program sees the
/// task for the first time, the task shares its entry, or it waited without any event. `delay` is the
/// present value, or `known` for a task that the entry is not about.
///
/// # Safety
/// `cell`, `ring` and `entry` are this CPU's, under its run-queue lock.
#[cold]
#[inline(never)]
unsafe fn not_as_left(
    ring: *mut Ring,
    cell: *mut WaitCell,
    entry: *mut TaskEntry,
    known: u64,
    delay: u64,
) {
    // SAFETY: `ring` and `cell` are this CPU's, and its run-queue lock is held: nothing else writes them.
    // `entry` points into the map's value.
    unsafe {
        if delay == known {
            if known != 0 {
                (*ring).collisions += 1;
            }
            (*entry).throttled_ns = THROTTLE_UNKNOWN;
            return;
        }
        let unseen = delay.wrapping_sub(known) & DELAY_MASK;
        if unseen != 0 && known & STAMPED_ASLEEP != 0 {
            // The task was taken off its queue for good while it slept, as a change of its class does.
            phantom::count((*cell).cgroup, unseen);
        } else if unseen != 0 {
            add(cell, Cause::Unattributed as u32, unseen);
            count_stay(cell, unseen);
        }
    }
}

/// Attributes the wait of the incoming task, and the time of the outgoing one.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: `sched_switch` passes (preempt, prev, next) on every kernel.
    let (prev, next) = unsafe {
        (
            Task::<Typed>::new(ctx.arg(1)),
            Task::<Typed>::new(ctx.arg(2)),
        )
    };
    let preempt = ctx.arg::<u64>(0) as u8 != 0;
    let now = next.cfs_rq().rq().clock();
    let cpu = slot::this_cpu();
    if !cells().have_turn(cpu) {
        return 0;
    }
    let Some(ring) = RINGS.get_ptr_mut(cpu) else {
        return 0;
    };
    leave(prev, next, preempt, ring, cpu, now);
    if next.pid() != 0 {
        arrive(next, prev.pid() == 0, ring, cpu, now);
    } else {
        // SAFETY: the lookup gave this CPU's ring, and `sched_switch` fires under its run-queue lock.
        unsafe { hand_over(ring, Occupant::other(Cause::Idle), now) }
    }
    0
}

/// Attributes the wait that a task leaves behind when it is moved to another CPU.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: `sched_migrate_task` passes (p, dest_cpu) on every kernel.
    let task = unsafe { Task::<Typed>::new(ctx.arg(0)) };
    if !cells().have_turn(slot::this_cpu()) {
        return 0;
    }
    let Some((entry, tag, mine)) = task_entry(task.pid()) else {
        return 0;
    };
    let delay = task.run_delay();
    // SAFETY: a waiting task is moved with its run-queue lock held, so the source CPU's ring and
    // cells stay as they are; what is written is this CPU's.
    unsafe {
        let known = (*entry).tagged_delay;
        let left = if mine {
            delay.wrapping_sub(known) & DELAY_MASK
        } else if task.pcount() == 0 {
            delay
        } else {
            0
        };
        (*entry).throttled_ns = if mine {
            (*entry).throttled_ns
        } else {
            THROTTLE_UNKNOWN
        };
        if left != 0 {
            (*entry).tagged_delay = tag | (delay & DELAY_MASK);
            moved::attribute_left(&ctx, task, entry, left, mine && known & STAMPED_ASLEEP != 0);
        }
        phantom::remember_sleep(task, entry, tag | (delay & DELAY_MASK));
        (*entry).throttled_ns = THROTTLE_UNKNOWN;
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence that the kernel checks as it loads the programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
