//! The contract between the kernel side and the agent: every type that crosses the boundary.
//!
//! The kernel side aggregates into flat arrays that the agent maps into its own memory. A *slot* is the small, dense
//! `css.id` of a task's cgroup in one chosen controller. A *cell* holds the counts of one CPU for one slot, at
//! [`cell_place`]; only that CPU writes it. Each cell carries the cgroup's kernfs id. A program that finds another
//! cgroup's cell there adds it to its CPU's *retired* cell and starts it afresh, so no count is lost or given to the
//! wrong cgroup: see [`cells`].
//!
//! Slots at the end are reserved for cgroups of pods whose `css.id` is beyond the others: see [`Host::direct_slots`].
//! Slot 0, which the kernel never hands out, takes what lies beyond the capacity.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

use core::mem::offset_of;

pub mod cells;
mod daemon;
mod fault;
mod index;
pub mod kernel;
#[cfg(target_arch = "bpf")]
pub mod lengths;
mod migration;
mod page;
mod place;
mod rare;
#[cfg(target_arch = "bpf")]
pub mod slot;
pub mod turn;

pub use daemon::{DAEMONS, Daemon, DaemonCell, daemon_cells, daemon_named, daemon_place};
pub use fault::{FAULT_COUNTS, FaultCell, FaultCount, HINTED_CGROUPS, Hints, fault_lost};
pub use index::{
    MAX_CPUS, MAX_NODES, OCCUPANT_SLOTS, cell_place, cpu_of_cell, distance_place, is_beyond_slots,
};
pub use kernel::Layout;
pub use migration::{MigrationCell, NODE_PAIRS, NodePair};
pub use page::{file_page, is_among, page_node, pages_of_order};
pub use place::{Boundary, CpuPlace};
pub use rare::{
    Lengths, RECLAIMS, Reclaim, ReclaimKey, Reclaiming, Unthrottling, reclaim_lost, throttle_lost,
};

/// Constants of this host for the programs, fixed while they are loaded (read-only data).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Possible CPUs: highest CPU id + 1.
    pub cpus: u32,
    /// Slots per CPU, slot 0 included.
    pub slots: u32,
    /// Entries of [`TaskEntry`] table minus 1; a power of two minus 1.
    pub task_mask: u32,
    /// log2 of the entries of the [`TaskEntry`] table.
    pub task_bits: u32,
    /// Bits by which the flags word of `struct page` is shifted right to leave the NUMA node; 64
    /// where it holds none because the kernel knows one node only (`CONFIG_NUMA=n`).
    pub page_node_shift: u32,
    /// NUMA nodes the tables are sized for: highest node id + 1.
    pub nodes: u32,
    /// The bit of `task_struct.in_user_fault` in the four bytes that hold it.
    pub in_user_fault_bit: u32,
    /// log2 of the size of a page.
    pub page_shift: u32,
    /// The bit of `struct page`'s flags word that says it is the first page of a compound one
    /// (`PG_head`); [`kernel::ABSENT`] where this is not known.
    pub page_head_bit: u32,
    /// Difference between the slots of file mappings and those of first touches: 0 where both share a
    /// cell, [`Host::slots`] where either can be preempted by the other (`PREEMPT_RT`).
    pub file_slots: u32,
    /// Generation of these programs among those that follow each other: see [`turn`].
    pub generation: u32,
    /// Number of slots that are given by `css.id`. The slots from there up to [`Host::slots`] are reserved: the agent
    /// gives them to cgroups whose `css.id` is higher. A cgroup that got none is counted in slot 0.
    pub direct_slots: u32,
}

impl Host {
    /// Number of reserved slots, which the agent gives.
    #[must_use]
    pub const fn reserved_slots(&self) -> u32 {
        self.slots - self.direct_slots
    }
}

/// Counts of one CPU for one slot. The first two words are the cgroup's kernfs id and the serial
/// number of its css, by which a cell passes from one to another as [`cells`] says.
///
/// # Safety
/// The type is `repr(C)`, made of integers alone, with those two words first, and a multiple of eight
/// bytes long.
pub unsafe trait Cell: Copy {
    /// A cell without counts for the cgroup with this kernfs id, and [`cells::CLOSED`] so far.
    fn new(cgroup: u64) -> Self;
    /// The cgroup it counts for; 0 for none.
    fn cgroup(&self) -> u64;
    /// Serial number of the css it counts for.
    fn serial(&self) -> u64;
    /// Returns whether it has counted nothing.
    fn is_empty(&self) -> bool;
    /// Adds the counts of `other`.
    fn add(&mut self, other: &Self);
}

/// Cause of run-queue wait: the reason for which a runnable task did not run. The causes sum to
/// `run_delay`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Cause {
    /// The same container, pod or service held the CPU.
    Own = 0,
    /// Another container or cgroup held it.
    Neighbour = 1,
    /// A service of the host held it.
    Host = 2,
    /// A kernel thread other than the three below held it.
    Kernel = 3,
    /// kswapd held it.
    Kswapd = 4,
    /// kcompactd held it.
    Kcompactd = 5,
    /// khugepaged held it.
    Khugepaged = 6,
    /// The task's group had used up its CPU quota.
    Throttled = 7,
    /// Nobody held it: the CPU had yet to wake.
    Idle = 8,
    /// The occupant is not known.
    Unattributed = 9,
}

impl Cause {
    /// All causes, in the order of [`WaitCell::wait_ns`].
    pub const ALL: [Self; CAUSES] = [
        Self::Own,
        Self::Neighbour,
        Self::Host,
        Self::Kernel,
        Self::Kswapd,
        Self::Kcompactd,
        Self::Khugepaged,
        Self::Throttled,
        Self::Idle,
        Self::Unattributed,
    ];

    /// The value of the `cause` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Neighbour => "neighbour",
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Kswapd => "kswapd",
            Self::Kcompactd => "kcompactd",
            Self::Khugepaged => "khugepaged",
            Self::Throttled => "throttled",
            Self::Idle => "idle",
            Self::Unattributed => "unattributed",
        }
    }
}

/// Number of causes of run-queue wait.
pub const CAUSES: usize = 10;

/// Number of buckets of a wait histogram, numbered by [`wait_bucket`]; the last has no upper bound.
pub const WAIT_BUCKETS: usize = 11;

/// Upper bounds of all wait buckets but the last, in nanoseconds: 2^13 (8 us) to 2^31 (2.1 s), each
/// four times the one before.
pub const WAIT_BOUNDS_NS: [u64; WAIT_BUCKETS - 1] = {
    let mut bounds = [0; WAIT_BUCKETS - 1];
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] = 1 << (13 + 2 * i);
        i += 1;
    }
    bounds
};

/// The bucket of a wait of `ns`, without a loop or a count-leading-zeros instruction (BPF has none).
///
/// A wait of exactly a bound falls in the bucket above it: one nanosecond of the resolution.
#[inline(always)]
#[must_use]
pub const fn wait_bucket(ns: u64) -> usize {
    let mut rest = ns >> 13;
    let mut bucket = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        bucket += 8;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        bucket += 4;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        bucket += 2;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        bucket += 1;
    }
    if rest >= 1 {
        bucket += 1;
    }
    if bucket < WAIT_BUCKETS {
        bucket
    } else {
        WAIT_BUCKETS - 1
    }
}

/// Counts of one CPU for one slot at `sched_switch` and `sched_migrate_task`: three cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitCell {
    /// kernfs id of the cgroup; 0 while unused and in slot 0.
    pub cgroup: u64,
    /// `css.serial_nr`, by which the programs tell that the slot has passed to another cgroup.
    pub serial: u64,
    /// The agent's answer about the cgroup, as in [`SlotOwner::answer`].
    pub answer: u64,
    /// Time on this CPU, in nanoseconds of `rq->clock`.
    pub on_cpu_ns: u64,
    /// Run-queue wait by [`Cause`], in nanoseconds of `rq->clock`.
    pub wait_ns: [u64; CAUSES],
    /// Total throttled time of the cgroup's CFS run queue when it last ran here; [`THROTTLE_UNKNOWN`]
    /// until it has.
    pub throttled_seen_ns: u64,
    /// Start of its last throttle seen here.
    pub throttle_start_ns: u64,
    /// End of that throttle; 0 while it lasts.
    pub throttle_end_ns: u64,
    /// Stays on a run queue by length; wraps.
    pub wait_buckets: [u32; WAIT_BUCKETS],
    /// Times a daemon took this CPU from a task that wanted to go on; wraps.
    pub preemptions: [u32; DAEMONS],
}

// SAFETY: `repr(C)`, integers alone, `cgroup` and `serial` first: the offsets are asserted below, the
// size of 192 bytes beside its `Pod`.
unsafe impl Cell for WaitCell {
    #[inline(always)]
    fn new(cgroup: u64) -> Self {
        Self {
            cgroup,
            serial: cells::CLOSED,
            answer: 0,
            on_cpu_ns: 0,
            wait_ns: [0; CAUSES],
            throttled_seen_ns: THROTTLE_UNKNOWN,
            throttle_start_ns: 0,
            throttle_end_ns: 0,
            wait_buckets: [0; WAIT_BUCKETS],
            preemptions: [0; DAEMONS],
        }
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        self.cgroup
    }

    #[inline(always)]
    fn serial(&self) -> u64 {
        self.serial
    }

    fn is_empty(&self) -> bool {
        self.on_cpu_ns == 0 && self.wait_ns == [0; CAUSES]
    }

    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.on_cpu_ns += other.on_cpu_ns;
        for (sum, part) in self.wait_ns.iter_mut().zip(&other.wait_ns) {
            *sum += part;
        }
        for (sum, part) in self.wait_buckets.iter_mut().zip(&other.wait_buckets) {
            *sum = sum.wrapping_add(*part);
        }
        for (sum, part) in self.preemptions.iter_mut().zip(&other.preemptions) {
            *sum = sum.wrapping_add(*part);
        }
    }
}

const _: () = {
    assert!(offset_of!(WaitCell, cgroup) == 0);
    assert!(offset_of!(WaitCell, serial) == 8 * cells::SERIAL_WORD);
};

/// Number of occupants of a CPU that [`Ring`] remembers.
pub const RING_LENGTH: usize = 512;

/// An occupant of a CPU, until a moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// `rq->clock` when it left.
    pub end_ns: u64,
    /// The occupant.
    pub occupant: Occupant,
}

/// An occupant of a CPU, in one word so that two are compared at once. The top byte holds the
/// [`Cause`] that it is to others (0 for a user task, where that depends on who asks); then come 32
/// bits of group and 24 of slot.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Occupant(pub u64);

impl Occupant {
    /// A user task of `slot`, whose group is `group`.
    #[inline(always)]
    #[must_use]
    pub const fn user(slot: u32, group: u32) -> Self {
        Self((group as u64) << 24 | (slot & (OCCUPANT_SLOTS - 1)) as u64)
    }

    /// An occupant whose cause does not depend on who waits.
    #[inline(always)]
    #[must_use]
    pub const fn other(cause: Cause) -> Self {
        Self((cause as u64) << 56)
    }

    /// Returns whether it is kswapd, kcompactd or khugepaged.
    #[inline(always)]
    #[must_use]
    pub const fn is_daemon(self) -> bool {
        let cause = (self.0 >> 56) as u32;
        cause >= Cause::Kswapd as u32 && cause <= Cause::Khugepaged as u32
    }

    /// Cause that this occupant is to a waiting user task `waiting`.
    #[inline(always)]
    #[must_use]
    pub const fn cause_to(self, waiting: Self) -> u32 {
        let fixed = (self.0 >> 56) as u32;
        if fixed != 0 {
            return fixed;
        }
        if self.0 == waiting.0 {
            return Cause::Own as u32;
        }
        let group = (self.0 >> 24) as u32;
        if group == GROUP_HOST {
            Cause::Host as u32
        } else if group > GROUP_HOST && group == (waiting.0 >> 24) as u32 {
            Cause::Own as u32
        } else {
            Cause::Neighbour as u32
        }
    }
}

/// Owner of a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotOwner {
    /// kernfs id of a cgroup that the programs saw in this slot and the agent has not answered for.
    /// Written by the programs.
    pub cgroup: u64,
    /// The agent's answer: the low half of a kernfs id in the high half, its group in the low half.
    pub answer: u64,
}

/// Group of a slot that the agent has not answered for yet: a neighbour to all others.
pub const GROUP_UNKNOWN: u32 = 0;
/// Group of the host's services. Higher numbers are pods, containers and other cgroups.
pub const GROUP_HOST: u32 = 1;

/// The current occupant of a CPU and those before it; the oldest is overwritten first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// `rq->clock` at the last switch; 0 before the first.
    pub switched_ns: u64,
    /// Occupant that was put on the CPU then.
    pub current: Occupant,
    /// Start of its occupancy, through switches among equals.
    pub current_since_ns: u64,
    /// `css.serial_nr` of the task on the CPU.
    pub current_serial: u64,
    /// Index of this CPU's cell for its cgroup.
    pub current_place: u32,
    /// Keeps the layout free of implicit padding.
    pub reserved: u32,
    /// Number of segments ever written.
    pub head: u64,
    /// `rq->clock` when the CPU last stopped being idle; 0 before.
    pub idle_until_ns: u64,
    /// Switches that the program did not see, known by the times of arrival that they left in the
    /// tasks.
    pub hidden: u64,
    /// Times that a task shared its [`TaskEntry`] with another and a part of its wait went unseen.
    pub collisions: u64,
    /// Fills the second cache line.
    pub padding: [u64; 7],
    /// `segments[(head - 1) % RING_LENGTH]` is the newest; it ended when the current one began.
    pub segments: [Segment; RING_LENGTH],
}

/// State of a task between two of its switches, in a table indexed by the low bits of its pid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskEntry {
    /// Top byte: the pid's remaining bits plus 1, 0 for an empty entry. Then [`STAMPED_ASLEEP`]. The
    /// rest: `run_delay` up to which the task's wait is accounted for, in nanoseconds modulo 2^55.
    pub tagged_delay: u64,
    /// Total throttled time of its run queue at its preemption; [`THROTTLE_UNKNOWN`] otherwise.
    pub throttled_ns: u64,
}

/// Bit of [`TaskEntry::tagged_delay`]: the task slept when `last_queued` was set.
pub const STAMPED_ASLEEP: u64 = 1 << 55;

/// Value of [`TaskEntry::throttled_ns`] or [`WaitCell::throttled_seen_ns`] while no total is
/// remembered.
pub const THROTTLE_UNKNOWN: u64 = u64::MAX;

#[cfg(feature = "user")]
mod pod {
    use super::{
        CpuPlace, DaemonCell, Host, Layout, Lengths, MigrationCell, NodePair, ReclaimKey,
        Reclaiming, Ring, SlotOwner, TaskEntry, Unthrottling, WaitCell,
    };

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, made of integers alone, without implicit padding (asserted below).
            unsafe impl aya::Pod for $type {}
        )+};
    }
    pod!(
        Host,
        Layout,
        WaitCell,
        SlotOwner,
        Ring,
        TaskEntry,
        DaemonCell,
        Lengths,
        ReclaimKey,
        Reclaiming,
        Unthrottling,
        CpuPlace,
        MigrationCell,
        NodePair,
    );

    const _: () = {
        assert!(size_of::<WaitCell>() == 192);
        assert!(size_of::<Ring>() == 128 + 16 * super::RING_LENGTH);
        assert!(size_of::<Host>() == 48);
        assert!(size_of::<CpuPlace>() == 12);
        assert!(size_of::<MigrationCell>() == 64);
        assert!(size_of::<NodePair>() == 16);
        assert!(size_of::<Lengths>() == 128);
        assert!(size_of::<ReclaimKey>() == 16);
        assert!(size_of::<Reclaiming>() == 24);
        assert!(size_of::<Unthrottling>() == 16);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_falls_between_the_bounds_of_its_bucket() {
        for shift in 0..64 {
            for ns in [(1_u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let bucket = wait_bucket(ns);
                if bucket > 0 {
                    assert!(ns >= WAIT_BOUNDS_NS[bucket - 1], "{ns} in {bucket}");
                }
                if bucket < WAIT_BOUNDS_NS.len() {
                    assert!(ns < WAIT_BOUNDS_NS[bucket], "{ns} in {bucket}");
                }
            }
        }
        assert_eq!(wait_bucket(u64::MAX), WAIT_BUCKETS - 1);
    }

    #[test]
    fn an_occupant_is_what_it_is_to_the_waiting_task() {
        let me = Occupant::user(7, 5);
        let cause = |occupant: Occupant| occupant.cause_to(me);
        assert_eq!(cause(me), Cause::Own as u32);
        assert_eq!(cause(Occupant::user(8, 5)), Cause::Own as u32);
        assert_eq!(cause(Occupant::user(8, 6)), Cause::Neighbour as u32);
        assert_eq!(
            cause(Occupant::user(8, GROUP_UNKNOWN)),
            Cause::Neighbour as u32
        );
        assert_eq!(cause(Occupant::user(8, GROUP_HOST)), Cause::Host as u32);
        for fixed in [Cause::Idle, Cause::Kswapd, Cause::Unattributed] {
            assert_eq!(cause(Occupant::other(fixed)), fixed as u32);
        }
        let service = Occupant::user(3, GROUP_HOST);
        assert_eq!(service.cause_to(service), Cause::Own as u32);
        assert_eq!(
            Occupant::user(4, GROUP_HOST).cause_to(service),
            Cause::Host as u32
        );
        let new = Occupant::user(9, GROUP_UNKNOWN);
        assert_eq!(
            Occupant::user(10, GROUP_UNKNOWN).cause_to(new),
            Cause::Neighbour as u32
        );
    }

    #[test]
    fn enumerations_are_in_the_order_of_their_numbers() {
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, i);
        }
        for (i, daemon) in Daemon::ALL.into_iter().enumerate() {
            assert_eq!(daemon as usize, i);
        }
        for (i, kind) in Reclaim::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }
}
