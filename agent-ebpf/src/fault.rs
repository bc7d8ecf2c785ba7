//! Page faults by the NUMA node of the page: the contract of the probe `page_faults`.

use core::mem::offset_of;

use crate::{
    Cell,
    cells::{CLOSED, SERIAL_WORD},
};

/// Counts of a cell. The number is the index of the local count in [`FaultCell::counts`]; the remote
/// one follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FaultCount {
    /// Faults that placed new memory.
    FirstTouchFaults = 0,
    /// Pages that these faults placed.
    FirstTouchPages = 2,
    /// Faults that mapped a page of a file that was in memory.
    FileMapFaults = 4,
    /// Pages that these faults mapped, those around the page of the fault included.
    FileMapPages = 6,
}

/// Length of [`FaultCell::counts`].
pub const FAULT_COUNTS: usize = 8;

/// Counts of one CPU for one slot: one cache line.
///
/// Several tasks add to it, one after the other: the kernel calls both hooks under the page-table lock,
/// so they are not preempted. On `PREEMPT_RT`, where that lock can be preempted, each hook has cells of
/// its own ([`Host::file_slots`](crate::Host::file_slots)), and the kernel does not run a program a
/// second time on a CPU on which it is not done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCell {
    /// kernfs id of the cgroup; 0 while unused and in slot 0.
    pub cgroup: u64,
    /// `css.serial_nr`, by which the programs tell that the slot has passed to another cgroup.
    pub serial: u64,
    /// Number of additions to `counts`. Does not wrap, so that a reader notices a cell that started
    /// afresh.
    pub events: u64,
    /// NUMA node of this CPU + 1, kept here because it costs nothing to read; 0 until a program has
    /// asked for it.
    pub node: u32,
    /// Counts by [`FaultCount`] and locality; they wrap.
    pub counts: [u32; FAULT_COUNTS],
    /// Keeps the layout free of implicit padding.
    pub reserved: u32,
}

impl FaultCell {
    /// Adds `by` to the local or the remote count of `what`.
    #[inline(always)]
    pub fn count(&mut self, what: FaultCount, remote: bool, by: u32) {
        // Constant ranges leave no bound for compiler and verifier to check.
        let counts = match what {
            FaultCount::FirstTouchFaults => &mut self.counts[0..2],
            FaultCount::FirstTouchPages => &mut self.counts[2..4],
            FaultCount::FileMapFaults => &mut self.counts[4..6],
            FaultCount::FileMapPages => &mut self.counts[6..8],
        };
        let count = &mut counts[usize::from(remote)];
        *count = count.wrapping_add(by);
    }
}

// SAFETY: `repr(C)`, integers alone, `cgroup` and `serial` first, 64 bytes: offsets and size are
// asserted below.
unsafe impl Cell for FaultCell {
    #[inline(always)]
    fn new(cgroup: u64) -> Self {
        Self {
            cgroup,
            serial: CLOSED,
            events: 0,
            node: 0,
            counts: [0; FAULT_COUNTS],
            reserved: 0,
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
        self.events == 0
    }

    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        for (sum, part) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.wrapping_add(*part);
        }
    }
}

const _: () = {
    assert!(size_of::<FaultCell>() == 64);
    assert!(offset_of!(FaultCell, cgroup) == 0);
    assert!(offset_of!(FaultCell, serial) == 8 * SERIAL_WORD);
};

/// Hinting faults of one cgroup: a value of a hash by kernfs id, to which all CPUs add.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hints {
    /// Faults on a page of the CPU's own node, and on a page of another node.
    pub by_locality: [u64; 2],
}

/// Entries of the table of hinting faults on hosts with several nodes: some 400 KB with the kernel's
/// own part of each.
pub const HINTED_CGROUPS: u32 = 4096;

/// Reasons for which `page_faults` could not count an event, by index of its map `LOST`.
pub mod fault_lost {
    /// The map has no room for another cgroup with hinting faults.
    pub const CGROUPS: u32 = 0;
    /// Labels of the reasons.
    pub const REASONS: [&str; 1] = ["hinting_table_full"];
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, made of integers alone, without implicit padding (its size is asserted).
    unsafe impl aya::Pod for super::FaultCell {}
    // SAFETY: `repr(C)`, an array of two integers, without padding.
    unsafe impl aya::Pod for super::Hints {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_where_their_names_say() {
        for (what, place) in [
            (FaultCount::FirstTouchFaults, 0),
            (FaultCount::FirstTouchPages, 2),
            (FaultCount::FileMapFaults, 4),
            (FaultCount::FileMapPages, 6),
        ] {
            assert_eq!(what as usize, place);
            for remote in [false, true] {
                let mut cell = FaultCell::new(7);
                cell.count(what, remote, 3);
                let mut expected = [0; FAULT_COUNTS];
                expected[place + usize::from(remote)] = 3;
                assert_eq!(cell.counts, expected);
            }
        }
    }

    #[test]
    fn adding_wraps_and_leaves_the_node() {
        let mut sum = FaultCell::new(0);
        sum.node = 1;
        let mut part = FaultCell::new(7);
        (part.node, part.events, part.counts[7]) = (2, 5, u32::MAX);
        sum.add(&part);
        sum.add(&part);
        assert_eq!((sum.cgroup, sum.events, sum.node), (0, 10, 1));
        assert_eq!(sum.counts[7], u32::MAX - 1);
    }
}
