//! Seconds in few bytes: what did not happen takes none, and small numbers take one or two.

use super::record::allocated;

/// Bytes after which a block is closed and the next one begun.
pub(super) const BLOCK_BYTES: usize = 1024;

/// Some seconds of one container, oldest first, to be read from the front.
#[derive(Debug)]
pub(super) struct Block {
    /// The first second in it.
    first: u32,
    /// The last.
    last: u32,
    bytes: Vec<u8>,
}

impl Block {
    pub(super) fn new(second: u32) -> Self {
        Self {
            first: second,
            last: second,
            bytes: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Returns the memory of its data in bytes. The record counts the block itself.
    pub(super) fn size(&self) -> usize {
        allocated(self.bytes.capacity())
    }

    /// Gives back the room that is left: nothing more is expected.
    pub(super) fn close(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Appends a second: places in the plan with their values. False when it is full.
    pub(super) fn push(
        &mut self,
        second: u32,
        values: &[(usize, u64)],
        room: &mut Vec<u8>,
    ) -> bool {
        room.clear();
        put(room, u64::from(second - self.last));
        put(room, values.len() as u64);
        for (place, value) in values {
            put(room, *place as u64);
            put(room, *value);
        }
        // One second that is longer than a block has a block to itself.
        if !self.bytes.is_empty() && self.bytes.len() + room.len() > BLOCK_BYTES {
            return false;
        }
        self.bytes.extend_from_slice(room);
        self.last = second;
        true
    }

    /// Calls `each` with the second, place and value of all that is in `from..to`.
    pub(super) fn visit(&self, from: u32, to: u32, each: &mut impl FnMut(u32, usize, u64)) {
        if self.last < from || self.first >= to {
            return;
        }
        let mut rest = &self.bytes[..];
        let mut second = self.first;
        while let Some(gap) = take(&mut rest) {
            second += gap as u32;
            if second >= to {
                return;
            }
            for _ in 0..take(&mut rest).unwrap_or(0) {
                let (Some(place), Some(value)) = (take(&mut rest), take(&mut rest)) else {
                    return;
                };
                if second >= from {
                    each(second, place as usize, value);
                }
            }
        }
    }
}

/// Appends a number in LEB128: seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Second = (u32, Vec<(usize, u64)>);

    fn read(block: &Block, from: u32, to: u32) -> Vec<(u32, usize, u64)> {
        let mut all = Vec::new();
        block.visit(from, to, &mut |second, place, value| {
            all.push((second, place, value));
        });
        all
    }

    #[test]
    fn a_full_block_refuses_and_a_second_of_any_length_fits_an_empty_one() {
        let mut room = Vec::new();
        let long: Vec<_> = (0..2000).map(|place| (place, u64::MAX)).collect();
        let mut block = Block::new(7);
        assert!(block.push(7, &long, &mut room));
        assert!(!block.push(8, &[(0, 1)], &mut room));
        assert_eq!(read(&block, 0, u32::MAX).len(), 2000);
        assert_eq!(block.last(), 7);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            first in 0_u32..1 << 20,
            seconds in prop::collection::vec((1_u32..1000, prop::collection::vec((0_usize..300, any::<u64>()), 0..8)), 1..20),
            from in 0_u32..1 << 20,
            length in 0_u32..20_000,
        ) {
            let (mut block, mut room, mut second) = (Block::new(first), Vec::new(), first);
            let mut written: Vec<Second> = Vec::new();
            for (gap, values) in seconds {
                if block.push(second, &values, &mut room) {
                    written.push((second, values));
                }
                second += gap;
            }
            let to = from + length;
            let expected: Vec<_> = written
                .iter()
                .filter(|(second, _)| (from..to).contains(second))
                .flat_map(|(second, values)| values.iter().map(|(place, value)| (*second, *place, *value)))
                .collect();
            prop_assert_eq!(read(&block, from, to), expected);
        }
    }
}
