//! Rare events: the contract of the probes `reclaim` and `cpu_throttling`.

use crate::WAIT_BUCKETS;

/// Lengths of rare events of one kind: a value of a hash, to which all CPUs add.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lengths {
    /// Events by length: see [`wait_bucket`].
    pub counts: [u64; WAIT_BUCKETS],
    /// Sum of their lengths, in nanoseconds.
    pub sum_ns: u64,
    /// Fills sixteen words, so that a masked index stays inside.
    pub reserved: [u64; 15 - WAIT_BUCKETS],
}

/// Reason for which a task reclaims memory itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Reclaim {
    /// A zone ran low and the task had to free pages before it got one.
    Direct = 0,
    /// A memory cgroup reached its limit.
    Memcg = 1,
    /// It moved pages to make room for a large one.
    Compaction = 2,
}

/// Number of kinds of reclaim.
pub const RECLAIMS: usize = 3;

impl Reclaim {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; RECLAIMS] = [Self::Direct, Self::Memcg, Self::Compaction];

    /// The value of the `cause` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct_reclaim",
            Self::Memcg => "memcg_reclaim",
            Self::Compaction => "compaction",
        }
    }
}

/// Key of a [`Lengths`]: a cgroup and a kind of reclaim.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReclaimKey {
    /// kernfs id of the cgroup.
    pub cgroup: u64,
    /// A [`Reclaim`].
    pub kind: u64,
}

/// A task that reclaims memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Reclaiming {
    /// Start of the outermost reclaim, in nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// The task's `run_delay` at that start, in nanoseconds.
    pub run_delay_ns: u64,
    /// Kinds that the task is in, a bit each.
    pub kinds: u32,
    /// The outermost kind.
    pub outermost: u32,
}

/// Reasons for which `reclaim` could not count an event, by index of its map `LOST`.
pub mod reclaim_lost {
    /// More tasks at once than the map has room for.
    pub const TASKS: u32 = 0;
    /// More cgroups than the map has room for.
    pub const CGROUPS: u32 = 1;
    /// An end whose beginning was not seen.
    pub const BEGIN: u32 = 2;
    /// A beginning whose end was not seen.
    pub const END: u32 = 3;
    /// Number of reasons, and their labels.
    pub const REASONS: [&str; 4] = [
        "tasks_overflow",
        "cgroups_overflow",
        "begin_unseen",
        "end_unseen",
    ];
}

/// An `unthrottle_cfs_rq` under way on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Unthrottling {
    /// The run queue's address; 0 while none is under way.
    pub cfs_rq: u64,
    /// Start of the throttle, in nanoseconds of `rq->clock`; 0 if it has none.
    pub since_ns: u64,
}

/// Reasons for which `cpu_throttling` could not count a throttle, by index of its map `LOST`.
pub mod throttle_lost {
    /// More cgroups than the map has room for.
    pub const CGROUPS: u32 = 0;
    /// The task group has no cgroup.
    pub const UNNAMED: u32 = 1;
    /// Labels of the reasons.
    pub const REASONS: [&str; 2] = ["cgroups_overflow", "no_cgroup"];
}
