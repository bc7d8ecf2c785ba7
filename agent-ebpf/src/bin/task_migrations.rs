//! Tasks moved between CPUs, by the farthest boundary they crossed.
//!
//! The program runs on nearly every wakeup on another CPU, so it does little: two places, the cell
//! of the task's cgroup, two additions. Only a move between NUMA nodes pays for more.
#![no_std]
#![no_main]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya passes contexts by value"
)]
#![allow(missing_docs, reason = "aya's macros make public functions")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};
use stallscope_ebpf::{
    Boundary, CpuPlace, MigrationCell, NodePair, distance_place,
    kernel::{self, Task, Typed},
    lengths,
    slot::{self, Seat},
};

// The CPU that moves a task counts the move. The task may come from another CPU and go to a third.
stallscope_ebpf::cells!(MigrationCell);
/// Place of each CPU.
#[map]
static PLACES: Array<CpuPlace> = Array::with_max_entries(1, 0);
/// NUMA distances at [`distance_place`]; 0 where the firmware gives none.
#[map]
static DISTANCES: Array<u32> = Array::with_max_entries(1, 0);
/// Migrations by cgroup, source and destination node. A hash, because such moves are the rare ones
/// and most pairs of most cgroups never occur. An array of all would need nodes * (nodes - 1)
/// counters a slot, and those cannot be per CPU within any budget; CPUs sharing a counter could not
/// reset it for the next cgroup of the slot without a compare-and-exchange, which 5.10 lacks. Under
/// its kernfs id a cgroup never meets another's counts.
#[map]
static NODE_PAIRS: HashMap<NodePair, u64> = HashMap::with_max_entries(1, 0);
/// Moves between nodes for which the table of pairs had no room, by CPU.
#[map]
static UNPAIRED: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Counts one move between nodes.
///
/// # Safety
/// `cell` is this CPU's.
#[inline(always)]
unsafe fn between_nodes(cell: *mut MigrationCell, from: CpuPlace, to: CpuPlace, cpu: u32) {
    let place = distance_place(from.node, to.node, kernel::nodes());
    if let Some(distance) = DISTANCES.get(place) {
        // SAFETY: `cell` is this CPU's, which no other CPU writes; interrupts are off at the hook.
        unsafe { (*cell).distance += u64::from(*distance) };
    }
    let pair = NodePair {
        // SAFETY: `cell` is this CPU's, which no other CPU writes; interrupts are off at the hook.
        cgroup: unsafe { (*cell).cgroup },
        from: from.node,
        to: to.node,
        reserved: 0,
    };
    let mut count = NODE_PAIRS.get_ptr_mut(pair);
    if count.is_none() {
        // Another CPU may come first: its entry is found below then.
        let _ = NODE_PAIRS.insert(pair, 0, u64::from(BPF_NOEXIST));
        count = NODE_PAIRS.get_ptr_mut(pair);
    }
    match count {
        // SAFETY: an aligned word of the map's value, to which all CPUs add atomically.
        Some(count) => unsafe { lengths::add(count, 1) },
        None => {
            if let Some(unpaired) = UNPAIRED.get_ptr_mut(cpu) {
                // SAFETY: this CPU's word of the map's value, which no other CPU writes.
                unsafe { *unpaired += 1 };
            }
        }
    }
}

/// Counts a move. The tracepoint fires before the task's CPU changes, under the task's `pi_lock` or
/// the lock of its run queue with interrupts off, so nothing on this CPU comes in between.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: `sched_migrate_task` passes (p, dest_cpu) on every kernel.
    let task = unsafe { Task::<Typed>::new(ctx.arg(0)) };
    let to = ctx.arg::<u64>(1) as u32;
    let from = task.cpu();
    // As the kernel counts in `se.nr_migrations`: setting the CPU it already has is no move.
    if from == to {
        return 0;
    }
    let (Some(from), Some(to)) = (PLACES.get(from), PLACES.get(to)) else {
        return 0;
    };
    let boundary = from.boundary(*to);
    let cpu = slot::this_cpu();
    if !cells().have_turn(cpu) {
        return 0;
    }
    let Some(cell) = Seat::of_task(task, cells()).cell(cells(), cpu) else {
        return 0;
    };
    // SAFETY: the lookup gave this CPU's cell, which no other CPU writes; interrupts are off at the
    // hook.
    unsafe {
        (*cell).migrations += 1;
        let count = &mut (*cell).boundaries[boundary as usize & 7];
        *count = count.wrapping_add(1);
        // On a host with one node the verifier knows that this cannot be, and leaves it out.
        if kernel::nodes() > 1 && boundary >= Boundary::Node && from.between_nodes(*to) {
            between_nodes(cell, *from, *to, cpu);
        }
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
