//! The kernel daemons that reclaim, compact and collapse memory: what they take.

use stallscope_ebpf::{
    Daemon, DaemonCell, WaitCell, daemon_cells, daemon_named, daemon_place,
    kernel::{self, Task, Typed},
    lengths,
};

use crate::DAEMONS;

/// The reclaim daemon a kernel thread is, with its NUMA node.
#[inline(always)]
pub(crate) fn daemon(kthread: Task<Typed>) -> Option<(Daemon, u32)> {
    daemon_named(|start| u64::from_le(kthread.comm(start)))
}

/// The cell of a daemon.
#[inline(always)]
fn daemon_cell((daemon, node): (Daemon, u32)) -> Option<*mut DaemonCell> {
    DAEMONS.get_ptr_mut(daemon_place(daemon, node, kernel::nodes())?)
}

/// Counts one preemption, if the kernel thread that comes is a daemon.
///
/// # Safety
/// `cell` is this CPU's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn count_preemption(cell: *mut WaitCell, next: Task<Typed>) {
    if let Some((daemon, _)) = daemon(next)
        // SAFETY: the caller's.
        && let Some(count) = unsafe { (*cell).preemptions.get_mut(daemon as usize) }
    {
        *count = count.wrapping_add(1);
    }
}

/// A daemon leaves its CPU.
#[cold]
#[inline(never)]
pub(crate) fn daemon_left(prev: Task<Typed>, on_cpu: u64, runnable: bool) {
    let Some(who) = daemon(prev) else { return };
    if let Some(cell) = daemon_cell(who) {
        // SAFETY: a daemon is one thread, so that it is on one CPU at a time.
        unsafe {
            (*cell).on_cpu_ns += on_cpu;
            (*cell).runnable = u64::from(runnable);
        }
    } else if let Some(cell) = DAEMONS.get_ptr_mut(daemon_cells(kernel::nodes()) - 1) {
        // SAFETY: a word of the map's value, to which other CPUs add as well.
        unsafe { lengths::add(&raw mut (*cell).wakeups, 1) }
    }
}

/// A daemon comes onto a CPU.
#[cold]
#[inline(never)]
pub(crate) fn daemon_came(next: Task<Typed>, wait: u64) {
    if let Some(cell) = daemon(next).and_then(daemon_cell) {
        // SAFETY: as above.
        unsafe {
            (*cell).wait_ns += wait;
            (*cell).wakeups += (*cell).runnable ^ 1;
            (*cell).runnable = 0;
        }
    }
}

/// A daemon that waits is moved to another CPU.
#[cold]
#[inline(never)]
pub(crate) fn daemon_moved(task: Task<Typed>, wait: u64) {
    if let Some(cell) = daemon(task).and_then(daemon_cell) {
        // SAFETY: as above; who waits is on no CPU.
        unsafe { (*cell).wait_ns += wait }
    }
}
