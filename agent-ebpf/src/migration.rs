//! Task migrations by cgroup: the contract of the probe `task_migrations`.

use core::mem::offset_of;

use crate::{
    Cell,
    cells::{CLOSED, SERIAL_WORD},
};

/// Counts of one CPU for one slot at `sched_migrate_task`: one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MigrationCell {
    /// kernfs id of the cgroup; 0 while unused and in slot 0.
    pub cgroup: u64,
    /// `css.serial_nr`, by which the program tells that the slot has passed to another cgroup.
    pub serial: u64,
    /// Migrations. Never wraps, so that a cell lost to another cgroup shows as a falling sum.
    pub migrations: u64,
    /// Sum of the NUMA distances crossed between nodes, where 10 is local.
    pub distance: u64,
    /// Migrations by [`Boundary`]; they wrap. The last is unused: eight, so that a mask keeps the index in range.
    pub boundaries: [u32; 8],
}

const _: () = {
    assert!(offset_of!(MigrationCell, cgroup) == 0);
    assert!(offset_of!(MigrationCell, serial) == 8 * SERIAL_WORD);
};

// SAFETY: `repr(C)`, integers alone, `cgroup` and `serial` first: the offsets are asserted above, the size of 64
// bytes beside its `Pod`.
unsafe impl Cell for MigrationCell {
    #[inline(always)]
    fn new(cgroup: u64) -> Self {
        Self {
            cgroup,
            serial: CLOSED,
            migrations: 0,
            distance: 0,
            boundaries: [0; 8],
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
        self.migrations == 0
    }

    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.migrations += other.migrations;
        self.distance += other.distance;
        for (sum, part) in self.boundaries.iter_mut().zip(&other.boundaries) {
            *sum = sum.wrapping_add(*part);
        }
    }
}

/// Key of the migrations of a cgroup from one NUMA node to another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NodePair {
    /// kernfs id of the cgroup; 0 for what lies beyond the slots.
    pub cgroup: u64,
    /// Node of the CPU it left.
    pub from: u16,
    /// Node of the CPU it went to.
    pub to: u16,
    /// Keeps the layout free of implicit padding.
    pub reserved: u32,
}

/// Entries of the table of node pairs on hosts with several nodes: some 1.2 MB with the kernel's own part of each.
pub const NODE_PAIRS: u32 = 16384;
