//! The record of one subject and its memory.

use std::collections::VecDeque;

use super::{CONTAINER_BYTES, block::Block};
use crate::{attribution::owners::OwnerIndex, exposition::OwnerLabels};

/// Bytes of an entry in the hash table of records, which is between 7/16 and 7/8 full.
const PLACE_BYTES: usize = 40;

/// Bytes of an entry in the ordered set of ended subjects.
const ENDED_BYTES: usize = 32;

/// The record of one subject.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) labels: Option<OwnerLabels>,
    /// Totals as far as they are recorded, by place in the plan. Empty once the subject has ended.
    pub(super) last: Vec<u64>,
    pub(super) blocks: VecDeque<Block>,
    /// Bytes of all blocks.
    block_bytes: usize,
    /// Blocks before this second were dropped to make room.
    pub(super) incomplete_before: u32,
    /// The subject's place in the order of ended subjects. None while it lives.
    pub(super) ended: Option<Ended>,
}

/// An ended subject. The lowest is dropped first: those outside of pods before those of pods, then the ones that ended
/// first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Ended {
    of_pod: bool,
    /// End of the recording when the subject ended.
    second: u32,
    pub(super) owner: OwnerIndex,
}

impl Record {
    /// Returns the memory of the record in bytes, including its labels, its entries in tables and the allocator's overhead.
    pub(super) fn bytes(&self) -> usize {
        let labels = self.labels.as_ref();
        let ended = if self.ended.is_some() { ENDED_BYTES } else { 0 };
        PLACE_BYTES
            + ended
            + allocated(size_of::<Self>())
            + allocated(labels.map_or(0, |labels| labels.as_str().len()))
            + allocated(self.last.capacity() * size_of::<u64>())
            + allocated(self.blocks.capacity() * size_of::<Block>())
            + self.block_bytes
    }

    /// Appends a second, and drops the oldest blocks beyond [`CONTAINER_BYTES`].
    pub(super) fn push(&mut self, second: u32, values: &[(usize, u64)], room: &mut Vec<u8>) {
        if let Some(block) = self.blocks.back_mut() {
            let before = block.size();
            let fits = block.push(second, values, room);
            // A closed block grows.
            self.block_bytes = self.block_bytes + block.size() - before;
            if fits {
                return;
            }
        }
        let mut block = Block::new(second);
        block.push(second, values, room);
        self.block_bytes += block.size();
        self.blocks.push_back(block);
        while self.block_bytes > CONTAINER_BYTES && self.blocks.len() > 1 {
            self.make_room();
        }
    }

    /// Adds to the recorded totals, which have `places` entries.
    pub(super) fn add(&mut self, places: usize, grown: impl Iterator<Item = (usize, u64)>) {
        if let Some(more) = places.checked_sub(self.last.len()) {
            self.last.reserve_exact(more);
            self.last.resize(places, 0);
        }
        for (place, grown) in grown {
            self.last[place] += grown;
        }
    }

    /// Marks the subject as ended, frees spare capacity and returns the recorded totals.
    pub(super) fn end(&mut self, owner: OwnerIndex, second: u32) -> (Ended, Vec<u64>) {
        if let Some(block) = self.blocks.back_mut() {
            let before = block.size();
            block.close();
            self.block_bytes = self.block_bytes + block.size() - before;
        }
        self.blocks.shrink_to_fit();
        let ended = Ended {
            of_pod: self.labels.as_ref().is_some_and(of_pod),
            second,
            owner,
        };
        self.ended = Some(ended);
        (ended, std::mem::take(&mut self.last))
    }

    /// Returns whether the subject has ended and no block is left.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.blocks.is_empty()
    }

    /// Drops the blocks that end before `oldest`.
    pub(super) fn drop_before(&mut self, oldest: u32) {
        while self
            .blocks
            .front()
            .is_some_and(|block| block.last() < oldest)
        {
            self.drop_oldest();
        }
    }

    /// Drops the oldest block to make room.
    pub(super) fn make_room(&mut self) {
        if let Some(block) = self.blocks.front() {
            self.incomplete_before = block.last() + 1;
        }
        self.drop_oldest();
    }

    /// Returns the second after the last that the record has or had data of.
    pub(super) fn known_before(&self) -> u32 {
        let block = self.blocks.back();
        block.map_or(self.incomplete_before, |block| block.last() + 1)
    }

    fn drop_oldest(&mut self) {
        self.block_bytes -= self.blocks.pop_front().map_or(0, |block| block.size());
    }
}

/// Returns whether labels belong to a pod. Other owners have the label `cgroup` at most.
fn of_pod(labels: &OwnerLabels) -> bool {
    let mut pairs = labels.pairs().into_iter();
    pairs.any(|(name, value)| name != "cgroup" && !value.is_empty())
}

/// Returns the memory of an allocation in bytes. The allocators of glibc and musl add up to a word and round up to a
/// multiple of 16.
pub(super) const fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    (bytes + size_of::<usize>()).next_multiple_of(16)
}
