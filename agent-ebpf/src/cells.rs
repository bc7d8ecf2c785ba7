//! How a cell passes from one cgroup to another while somebody reads it: one protocol for both sides.
//!
//! A cell is written by one CPU and read by the agent on any other, without a lock. It begins with the
//! cgroup's kernfs id and the `serial_nr` of its css, which is never given twice; the counters follow.
//! When a program finds another serial than its task's, the cell changes hands:
//!
//! 1. **close**: the serial becomes [`CLOSED`];
//! 2. barrier;
//! 3. **retire**: what it counted is added to its CPU's retired cell; **clear**: counters become zero
//!    and the id the new cgroup's;
//! 4. barrier;
//! 5. **open**: the serial becomes the new css's.
//!
//! A reader first reads all retired cells, and then each cell by [`copy`]: serial, everything, serial
//! again, each ordered before the next. It drops a copy that was closed or whose serial changed. Thus
//!
//! - counters never go with another's id: those of the old css were there before the first barrier, and
//!   those of the new one come after the second;
//! - nothing counts twice: whoever reads what step 3 added to the retired cell finds the cell closed, or
//!   open for somebody else. What is missing for the moment (closed, and not yet retired) is there at the
//!   next reading.
//!
//! **The barriers.** On x86-64 stores become visible in the order of the program. On arm64 they do not,
//! and BPF has had ordered stores only since 6.15, ordered atomics there since 5.18; the additions of 5.10
//! order nothing, nor do helpers as such. What every kernel has is a lock: an entry is put into a hash and
//! deleted again, and both take the lock of its bucket. What is stored before a lock is released is visible
//! before what is stored after the *same CPU* has taken it once more: "an UNLOCK followed by a LOCK"
//! (`tools/memory-model/Documentation/explanation.txt`, "locking"), on arm64 a store-release followed
//! by a load-acquire. One call alone would not do, because what surrounds it may move into it from both ends.
//!
//! The test below goes through every order in which the stores can become visible, with every place of
//! the reader's loads among them, and finds the fault when any step is left out or moved.

/// The serial of a cell that belongs to nobody: unused so far, or changing hands. No css has it.
pub const CLOSED: u64 = 0;

/// The word of every cell that holds its serial; the one before holds the cgroup's id.
pub const SERIAL_WORD: usize = 1;

/// The steps of a takeover, for [`take_over`].
pub trait Takeover {
    /// Makes readers drop the cell: its serial becomes [`CLOSED`].
    fn close(&mut self);
    /// Makes what was stored so far visible before what is stored from now on.
    fn barrier(&mut self);
    /// Adds what the cell counted to the retired cell.
    fn retire(&mut self);
    /// Sets the counters to zero and the id to the new cgroup's.
    fn clear(&mut self);
    /// Makes the cell the new css's.
    fn open(&mut self);
}

/// Gives a cell to another css: see the module.
#[inline(always)]
pub fn take_over(cell: &mut impl Takeover) {
    cell.close();
    cell.barrier();
    cell.retire();
    cell.clear();
    cell.barrier();
    cell.open();
}

/// A cell from which a reader copies, for [`copy`].
#[cfg(not(target_arch = "bpf"))]
pub trait Source {
    /// Everything in the cell.
    type Copy;
    /// The serial.
    fn serial(&self) -> u64;
    /// Makes what is loaded from now on later than what was loaded so far.
    fn barrier(&self);
    /// Loads every word.
    fn words(&self) -> Self::Copy;
}

/// A copy of a cell that is all of one css; none of one that is unused or changing hands.
#[cfg(not(target_arch = "bpf"))]
pub fn copy<S: Source>(cell: &S) -> Option<S::Copy> {
    let serial = cell.serial();
    if serial == CLOSED {
        return None;
    }
    cell.barrier();
    let words = cell.words();
    cell.barrier();
    (cell.serial() == serial).then_some(words)
}

#[cfg(test)]
#[path = "cells/model.rs"]
mod model;
