//! Accounts the kernel daemons that reclaim, compact and collapse memory.

use stallscope_ebpf::{
    Daemon, DaemonCell, WaitCell, daemon_cells, daemon_named, daemon_place,
    kernel::{self, Task, Typed},
    lengths,
};

use crate::DAEMONS;

/// Returns which memory daemon a kernel thread is, with its NUMA node; `None` if it is none.
#[inline(always)]
pub(crate) fn daemon(kthread: Task<Typed>) -> Option<(Daemon, u32)> {
    daemon_named(|start| u64::from_le(kthread.comm(start)))
}

/// The cell of a daemon.
#[inline(always)]
fn daemon_cell((daemon, node): (Daemon, u32)) -> Option<*mut DaemonCell> {
    DAEMONS.get_ptr_mut(daemon_place(daemon, node, kernel::nodes())?)
}

/// Counts one preemption if the incoming kernel thread (`next`) is a memory daemon.
///
/// # Safety
/// `cell` is this CPU's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn count_preemption(cell: *mut WaitCell, next: Task<Typed>) {
    if let Some((daemon, _)) = daemon(next)
        // SAFETY: `cell` is this CPU's, which no other CPU writes; `sched_switch` fires
        // under the run-queue lock, with interrupts off.
        && let Some(count) = unsafe { (*cell).preemptions.get_mut(daemon as usize) }
    {
        *count = count.wrapping_add(1);
    }
}

/// Accounts the outgoing daemon (`prev`): its time on the CPU, and whether it is still runnable.
#[cold]
#[inline(never)]
pub(crate) fn daemon_left(prev: Task<Typed>, on_cpu: u64, runnable: bool) {
    let Some(who) = daemon(prev) else { return };
    if let Some(cell) = daemon_cell(who) {
        // SAFETY: a pointer into the map's value. A daemon is one thread, so that only the CPU it
        // is on writes its cell.
        unsafe {
            (*cell).on_cpu_ns += on_cpu;
            (*cell).runnable = u64::from(runnable);
        }
    } else if let Some(cell) = DAEMONS.get_ptr_mut(daemon_cells(kernel::nodes()) - 1) {
        // SAFETY: a word of the map's value, to which `lengths::add` adds atomically because other
        // CPUs add as well.
        unsafe { lengths::add(&raw mut (*cell).wakeups, 1) }
    }
}

/// Accounts the incoming daemon (`next`): its wait, and a wakeup if it slept.
#[cold]
#[inline(never)]
pub(crate) fn daemon_came(next: Task<Typed>, wait: u64) {
    if let Some(cell) = daemon(next).and_then(daemon_cell) {
        // SAFETY: a pointer into the map's value. A daemon is one thread, so that only the CPU it
        // is on writes its cell.
        unsafe {
            (*cell).wait_ns += wait;
            (*cell).wakeups += (*cell).runnable ^ 1;
            (*cell).runnable = 0;
        }
    }
}

/// Accounts the wait that a daemon leaves behind when it is moved to another CPU while it waits.
#[cold]
#[inline(never)]
pub(crate) fn daemon_moved(task: Task<Typed>, wait: u64) {
    if let Some(cell) = daemon(task).and_then(daemon_cell) {
        // SAFETY: a pointer into the map's value. The daemon waits with its run queue locked: no
        // CPU switches it meanwhile.
        unsafe { (*cell).wait_ns += wait }
    }
}
