//! The wait that a task leaves behind when it is moved to another CPU.

use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use stallscope_ebpf::{
    TaskEntry,
    kernel::{MAX_RT_PRIO, Task, Typed},
    slot::{self, Seat},
};

use crate::{
    CELLS, RINGS, cells, count_stay,
    daemons::daemon_moved,
    occupant, phantom, split,
    throttle::{split_around, throttled},
};

/// Attributes the last `left` nanoseconds on the source CPU's run queue. `stamped_asleep` says that
/// the task slept when the kernel took it for waiting.
///
/// # Safety
/// The source CPU's run-queue lock is held.
#[inline(always)]
pub(crate) unsafe fn attribute_left(
    ctx: &BtfTracePointContext,
    task: Task<Typed>,
    entry: *const TaskEntry,
    mut left: u64,
    stamped_asleep: bool,
) {
    let cfs_rq = task.cfs_rq();
    let rq = cfs_rq.rq();
    let (now, source) = (rq.clock(), rq.cpu());
    let seat = Seat::of_task(task, cells());
    let cpu = slot::this_cpu();
    let place = seat.place(cpu);
    let Some(cell) = seat.cell(cells(), cpu) else {
        return;
    };
    let Some(there) = CELLS.get_ptr_mut(seat.place(source)) else {
        return;
    };
    // SAFETY: `cell` is this CPU's. The caller holds the source CPU's run-queue lock, so that its
    // cell `there` and its ring stay as they are.
    unsafe {
        let its_own = (*there).serial == seat.serial;
        if stamped_asleep {
            if task.sleeps_on_queue() {
                // The task is moved once more before it woke: none of it was a wait.
                phantom::count((*cell).cgroup, left);
                return;
            }
            if its_own && let Some(ring) = RINGS.get_ptr(source) {
                left -= phantom::refused(task, there, (*ring).idle_until_ns, now - left, now);
                if left == 0 {
                    return;
                }
            }
        }
        let from = now - left;
        let waiting = occupant(task, seat, cell);
        count_stay(cell, left);
        if waiting.is_daemon() {
            daemon_moved(task, left);
        }
        let total = cfs_rq.throttled_time();
        if (total != 0 || cfs_rq.throttle_count() != 0) && task.prio() >= MAX_RT_PRIO && its_own {
            let hole = throttled(task, there, entry, total, from, now, false);
            split_around(source, cell, place, waiting, from, now, hole);
        } else {
            split(source, place, waiting.0, from, now);
        }
    }
    debug!(ctx, "a wait of {} ns moved away from CPU {}", left, source);
}
