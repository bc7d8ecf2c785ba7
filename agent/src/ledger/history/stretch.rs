//! Seconds that share one recorded value.

/// Seconds of which something is known: one that was seen, or several of which only the sum is known, because the agent
/// did not look while they passed (it was stopped, or got no CPU). What grew in these is recorded in the last, and taken
/// to be spread evenly, so that windows that share them sum to what was counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// The first second.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// Whether it is a second at whose end the agent looked.
    pub seen: bool,
}

impl Stretch {
    /// The part of it in `from..to`.
    pub(super) fn within(self, from: u32, to: u32) -> Option<Self> {
        let (first, last) = (self.first.max(from), self.last.min(to.checked_sub(1)?));
        (first <= last).then_some(Self {
            first,
            last,
            ..self
        })
    }

    /// What of `value` belongs to a part of it: parts side by side have all of it.
    pub(super) fn share(self, value: u64, part: Self) -> u64 {
        let length = u128::from(self.last - self.first) + 1;
        let before = |second: u32| u128::from(value) * u128::from(second - self.first) / length;
        (before(part.last + 1) - before(part.first)) as u64
    }
}
