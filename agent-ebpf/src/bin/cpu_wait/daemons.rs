//! The kernel daemons that reclaim, compact and collapse memory: who they are, and what they take.

use stallscope_ebpf::{
    DAEMON_NODES, Daemon, DaemonCell, WaitCell,
    kernel::{Task, Typed},
};

use crate::DAEMONS;

/// The reclaim daemon a kernel thread is, with its NUMA node, by name: `PF_KCOMPACTD` exists only
/// since 6.12 and khugepaged never had a flag.
#[inline(always)]
pub(crate) fn daemon(kthread: Task<Typed>) -> Option<(Daemon, u32)> {
    const KSWAPD: u64 = u64::from_le_bytes(*b"kswapd\0\0");
    const KCOMPACT: u64 = u64::from_le_bytes(*b"kcompact");
    const KHUGEPAG: u64 = u64::from_le_bytes(*b"khugepag");
    let name = u64::from_le(kthread.comm(0));
    if name & 0xffff_ffff_ffff == KSWAPD {
        Some((Daemon::Kswapd, number(u64::from_le(kthread.comm(6)))))
    } else if name == KCOMPACT {
        Some((
            Daemon::Kcompactd,
            number(u64::from_le(kthread.comm(8)) >> 8),
        ))
    } else if name == KHUGEPAG {
        Some((Daemon::Khugepaged, 0))
    } else {
        None
    }
}

/// The number that `digits` begins with, at most two of them: [`DAEMON_NODES`] is 64.
#[inline(always)]
pub(crate) fn number(digits: u64) -> u32 {
    let tens = u32::from((digits as u8).wrapping_sub(b'0'));
    let ones = u32::from(((digits >> 8) as u8).wrapping_sub(b'0'));
    if ones < 10 { tens * 10 + ones } else { tens }
}

/// The cell of a daemon.
#[inline(always)]
pub(crate) fn daemon_cell((daemon, node): (Daemon, u32)) -> Option<*mut DaemonCell> {
    let last = DAEMON_NODES as u32 - 1;
    let node = if node < last { node } else { last };
    DAEMONS.get_ptr_mut(daemon as u32 * DAEMON_NODES as u32 + node)
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
    if let Some(cell) = daemon(prev).and_then(daemon_cell) {
        // SAFETY: a daemon is one thread, so that it is on one CPU at a time.
        unsafe {
            (*cell).on_cpu_ns += on_cpu;
            (*cell).runnable = u64::from(runnable);
        }
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
