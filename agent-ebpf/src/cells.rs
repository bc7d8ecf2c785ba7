//! The takeover of a cell by another cgroup while the agent reads it: one protocol for both sides.
//!
//! One CPU writes a cell, and the agent reads it from any other, without a lock. A cell begins with the
//! cgroup's kernfs id and the `serial_nr` of its css, which the kernel never gives twice; the counters
//! follow. A program that finds another serial than its task's takes the cell over:
//!
//! 1. **close**: the serial becomes [`CLOSED`];
//! 2. barrier;
//! 3. **retire**: the program adds the cell's counts to its CPU's retired cell; **clear**: the counters
//!    become zero and the id the new cgroup's;
//! 4. barrier;
//! 5. **open**: the serial becomes the new css's.
//!
//! A reader first reads all retired cells, and then each cell by [`copy`]: serial, all words, serial again,
//! each ordered before the next. It drops a copy that was closed or whose serial changed. Thus
//!
//! - counters never go with another cgroup's id: those of the old css were there before the first barrier,
//!   and those of the new one come after the second;
//! - nothing counts twice: a reader that sees what step 3 added to the retired cell finds the cell closed, or
//!   open for another css. Counts that are missing for the moment (closed, and not yet retired) are there at
//!   the next reading.
//!
//! **The barriers.** On x86-64 stores become visible in program order. On arm64 they do not, and BPF has had
//! ordered stores only since 6.15, ordered atomics there since 5.18; the additions of 5.10 order nothing, nor
//! do helpers as such. Every kernel has a lock, though: the program inserts an entry into a hash and deletes
//! it again, and both calls take the lock of its bucket. Stores before the release of a lock become visible
//! before stores after the *same CPU* has taken it once more: "an UNLOCK followed by a LOCK"
//! (`tools/memory-model/Documentation/explanation.txt`, "locking"), on arm64 a store-release followed by a
//! load-acquire. One call alone would not do, because what surrounds it may move into it from both ends.
//!
//! The test below goes through every order in which the stores can become visible, with every position of the
//! reader's loads among them. It finds the fault when any step is left out or moved.

/// Serial of a cell that belongs to no css: unused so far, or changing hands. No css has this serial.
pub const CLOSED: u64 = 0;

/// Index of the word of every cell that holds its serial; the word before holds the cgroup's id.
pub const SERIAL_WORD: usize = 1;

/// The steps of a takeover, for [`take_over`].
pub trait Takeover {
    /// Makes readers drop the cell: its serial becomes [`CLOSED`].
    fn close(&mut self);
    /// Makes earlier stores visible before later ones.
    fn barrier(&mut self);
    /// Adds the cell's counts to the retired cell.
    fn retire(&mut self);
    /// Sets the counters to zero and the id to the new cgroup's.
    fn clear(&mut self);
    /// Gives the cell to the new css.
    fn open(&mut self);
}

/// Passes a cell to another css: see the module.
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
    /// A copy of the whole cell.
    type Copy;
    /// Loads the serial.
    fn serial(&self) -> u64;
    /// Orders later loads after earlier ones.
    fn barrier(&self);
    /// Loads every word.
    fn words(&self) -> Self::Copy;
}

/// Copies a cell, if all of the copy is of one css; `None` for a cell that is unused or changing hands.
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
