//! Page faults by the NUMA node of the page: the contract of the probe `page_faults`.

use crate::Cell;

/// What is counted: the place of the local count in [`FaultCell::counts`]; the remote one follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FaultCount {
    /// Faults that placed new memory.
    FirstTouchFaults = 0,
    /// Pages they placed.
    FirstTouchPages = 2,
    /// Faults that mapped a page of a file that was in memory.
    FileMapFaults = 4,
    /// Pages they mapped, those around the page of the fault included.
    FileMapPages = 6,
    /// NUMA-hinting faults.
    HintingFaults = 8,
}

/// Length of [`FaultCell::counts`].
pub const FAULT_COUNTS: usize = 10;

/// What one CPU counted for one slot: one cache line.
///
/// Several tasks add to it, one after the other: first touches and mappings are counted under the
/// page-table lock and so are not preempted, and a program that is interrupted on its CPU is not run
/// a second time there (the kernel's own guard).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCell {
    /// kernfs id of the cgroup; 0 while unused and in slot 0.
    pub cgroup: u64,
    /// Times anything was added to `counts`; does not wrap, so that a reader notices a cell that
    /// began afresh.
    pub events: u64,
    /// NUMA node of this CPU + 1, kept here because it costs nothing to read; 0 until it is asked
    /// for.
    pub node: u32,
    /// By [`FaultCount`] and locality; wrap.
    pub counts: [u32; FAULT_COUNTS],
    /// Low half of the css's serial number, which tells it from those that had the slot before.
    pub serial: u32,
}

impl FaultCell {
    /// Adds to the local or the remote count of `what`.
    #[inline(always)]
    pub fn count(&mut self, what: FaultCount, remote: bool, by: u32) {
        // Constant ranges: no bound is left for compiler and verifier to check.
        let counts = match what {
            FaultCount::FirstTouchFaults => &mut self.counts[0..2],
            FaultCount::FirstTouchPages => &mut self.counts[2..4],
            FaultCount::FileMapFaults => &mut self.counts[4..6],
            FaultCount::FileMapPages => &mut self.counts[6..8],
            FaultCount::HintingFaults => &mut self.counts[8..10],
        };
        let count = &mut counts[usize::from(remote)];
        *count = count.wrapping_add(by);
    }
}

impl Cell for FaultCell {
    #[inline(always)]
    fn new(cgroup: u64, serial: u64) -> Self {
        Self {
            cgroup,
            events: 0,
            node: 0,
            counts: [0; FAULT_COUNTS],
            serial: serial as u32,
        }
    }

    #[inline(always)]
    fn is_of(&self, serial: u64) -> bool {
        self.serial == serial as u32
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        self.cgroup
    }

    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        for (sum, part) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.wrapping_add(*part);
        }
    }
}

// SAFETY: `repr(C)`, made of integers alone, without implicit padding (asserted below).
#[cfg(feature = "user")]
unsafe impl aya::Pod for FaultCell {}

const _: () = assert!(size_of::<FaultCell>() == 64);

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
            (FaultCount::HintingFaults, 8),
        ] {
            assert_eq!(what as usize, place);
            for remote in [false, true] {
                let mut cell = FaultCell::new(7, 1);
                cell.count(what, remote, 3);
                let mut expected = [0; FAULT_COUNTS];
                expected[place + usize::from(remote)] = 3;
                assert_eq!(cell.counts, expected);
            }
        }
    }

    #[test]
    fn adding_wraps_and_leaves_the_node() {
        let mut sum = FaultCell::new(0, 0);
        sum.node = 1;
        let mut part = FaultCell::new(7, 1);
        (part.node, part.events, part.counts[9]) = (2, 5, u32::MAX);
        sum.add(&part);
        sum.add(&part);
        assert_eq!((sum.cgroup, sum.events, sum.node), (0, 10, 1));
        assert_eq!(sum.counts[9], u32::MAX - 1);
    }
}
