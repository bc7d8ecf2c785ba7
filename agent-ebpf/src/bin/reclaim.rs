//! Time that tasks spend reclaiming memory themselves, by cgroup and kind.
//!
//! One kind may run inside another; the outermost gets the time. The time is what passed less the
//! task's wait for a CPU meanwhile, so that no time counts here and as run-queue wait too.
#![no_std]
#![no_main]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya passes contexts by value"
)]
#![allow(missing_docs, reason = "aya's macros make public functions")]

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE},
    helpers::{bpf_get_current_task, bpf_get_current_task_btf, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};
use stallscope_ebpf::{
    Lengths, Reclaim, ReclaimKey, Reclaiming,
    kernel::{Access, PF_KTHREAD, Probed, Task, Typed},
    lengths, reclaim_lost as reason,
};

/// Tasks that reclaim at this moment, by thread id. A hash, because these are few and short: a table
/// by pid would take megabytes, and a collision in it would be a wrong number.
#[map]
static TASKS: HashMap<u32, Reclaiming> = HashMap::with_max_entries(4096, 0);
/// Lengths by cgroup and kind. A hash, because most cgroups never reclaim.
#[map]
static LENGTHS: HashMap<ReclaimKey, Lengths> = HashMap::with_max_entries(8192, 0);
/// Events that could not be counted, by reason.
#[map]
static LOST: Array<u64> = Array::with_max_entries(reason::REASONS.len() as u32, BPF_F_MMAPABLE);

/// The current task. The helper came with 5.11.
#[inline(always)]
fn typed() -> Task<Typed> {
    // SAFETY: the helper gives a BTF-typed pointer to the current task.
    unsafe { Task::new(bpf_get_current_task_btf().cast()) }
}

/// The current task on any kernel.
#[inline(always)]
fn probed() -> Task<Probed> {
    // SAFETY: the helper gives the address of the current task.
    unsafe { Task::new(bpf_get_current_task() as *const u8) }
}

#[inline(always)]
fn begin<A: Access>(task: Task<A>, kind: Reclaim) {
    if task.flags() & PF_KTHREAD != 0 {
        return;
    }
    let tid = task.pid();
    let bit = 1 << kind as u32;
    if let Some(entry) = TASKS.get_ptr_mut(tid) {
        // SAFETY: a pointer into the map's value. The key is the current task's, so that no other
        // task uses it.
        unsafe {
            if (*entry).kinds & bit == 0 {
                (*entry).kinds |= bit;
                return;
            }
        }
        // No kind runs inside itself: the program missed the end of the one before.
        lengths::lost(&LOST, reason::END);
    }
    let entry = Reclaiming {
        // SAFETY: the helper has no preconditions.
        start_ns: unsafe { bpf_ktime_get_ns() },
        run_delay_ns: task.run_delay(),
        kinds: bit,
        outermost: kind as u32,
    };
    if TASKS.insert(tid, entry, BPF_ANY.into()).is_err() {
        lengths::lost(&LOST, reason::TASKS);
    }
}

#[inline(always)]
fn end<A: Access>(task: Task<A>, kind: Reclaim) {
    if task.flags() & PF_KTHREAD != 0 {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let tid = task.pid();
    let bit = 1 << kind as u32;
    let Some(entry) = TASKS.get_ptr_mut(tid) else {
        lengths::lost(&LOST, reason::BEGIN);
        return;
    };
    // SAFETY: a pointer into the map's value. The key is the current task's, so that no other task
    // uses it.
    let began = unsafe {
        if (*entry).kinds & bit == 0 {
            lengths::lost(&LOST, reason::BEGIN);
            return;
        }
        (*entry).kinds &= !bit;
        *entry
    };
    if began.outermost != kind as u32 {
        return;
    }
    // The entry is there, so its removal cannot fail.
    let _ = TASKS.remove(tid);
    // Differences of two clocks of one unit: both are nanoseconds of this task's time.
    let passed = now - began.start_ns;
    let waited = task.run_delay() - began.run_delay_ns;
    let key = ReclaimKey {
        cgroup: task.cgroups().css().cgroup().kn().id(),
        kind: kind as u64,
    };
    if !lengths::record(&LENGTHS, &key, passed.saturating_sub(waited)) {
        lengths::lost(&LOST, reason::CGROUPS);
    }
}

/// Defines both programs of a kind, once for each way to the current task.
macro_rules! pair {
    ($kind:ident: $begin:ident $begin_probed:ident $begin_tp:literal, $end:ident $end_probed:ident $end_tp:literal) => {
        /// Notes that the task begins to reclaim.
        #[btf_tracepoint(function = $begin_tp)]
        pub fn $begin(_ctx: BtfTracePointContext) -> i32 {
            begin(typed(), Reclaim::$kind);
            0
        }

        /// Notes that the task begins to reclaim, on 5.10.
        #[btf_tracepoint(function = $begin_tp)]
        pub fn $begin_probed(_ctx: BtfTracePointContext) -> i32 {
            begin(probed(), Reclaim::$kind);
            0
        }

        /// Counts the reclaim that ends.
        #[btf_tracepoint(function = $end_tp)]
        pub fn $end(_ctx: BtfTracePointContext) -> i32 {
            end(typed(), Reclaim::$kind);
            0
        }

        /// Counts the reclaim that ends, on 5.10.
        #[btf_tracepoint(function = $end_tp)]
        pub fn $end_probed(_ctx: BtfTracePointContext) -> i32 {
            end(probed(), Reclaim::$kind);
            0
        }
    };
}

// No program reads its arguments: they changed places in 7.2.
pair!(Direct:
    mm_vmscan_direct_reclaim_begin mm_vmscan_direct_reclaim_begin_probed "mm_vmscan_direct_reclaim_begin",
    mm_vmscan_direct_reclaim_end mm_vmscan_direct_reclaim_end_probed "mm_vmscan_direct_reclaim_end");
pair!(Memcg:
    mm_vmscan_memcg_reclaim_begin mm_vmscan_memcg_reclaim_begin_probed "mm_vmscan_memcg_reclaim_begin",
    mm_vmscan_memcg_reclaim_end mm_vmscan_memcg_reclaim_end_probed "mm_vmscan_memcg_reclaim_end");
pair!(Compaction:
    mm_compaction_begin mm_compaction_begin_probed "mm_compaction_begin",
    mm_compaction_end mm_compaction_end_probed "mm_compaction_end");

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence that the kernel checks as it loads the programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
