//! The last hour of each container, second by second, in a bounded number of bytes.
//!
//! Made from the same totals as the exposition, once a second. A second in which a container did next to nothing is
//! added to its next one, so that idle containers take no memory and nothing is dropped. Of seconds at whose end nobody
//! looked only the sum is known ([`Stretch`]). What is oldest leaves first: by age, by the bytes of one container, and by
//! the bytes of all.

mod block;
mod quantity;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use block::Block;
pub use quantity::Quantity;

use crate::{exposition::OwnerLabels, owners::OwnerIndex};

/// Bytes of one container's record at most.
pub const CONTAINER_BYTES: usize = 64 << 10;

/// The second in which a history begins: those before can be asked about, though nothing is recorded of them.
const FIRST: u32 = 1 << 20;

/// Time on CPUs or lost, in microseconds, from which on a second is recorded.
const NOTEWORTHY_US: u64 = 1000;

/// How much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How far back.
    pub length: Duration,
    /// Bytes of all records at most.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(3600),
            bytes: 16 << 20,
        }
    }
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The host as a whole: what belongs to no container.
    Host,
    /// An owner.
    Owner(OwnerIndex),
}

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
    fn within(self, from: u32, to: u32) -> Option<Self> {
        let (first, last) = (self.first.max(from), self.last.min(to.checked_sub(1)?));
        (first <= last).then_some(Self {
            first,
            last,
            ..self
        })
    }

    /// What of `value` belongs to a part of it: parts side by side have all of it.
    fn share(self, value: u64, part: Self) -> u64 {
        let length = u128::from(self.last - self.first) + 1;
        let before = |second: u32| u128::from(value) * u128::from(second - self.first) / length;
        (before(part.last + 1) - before(part.first)) as u64
    }
}

/// See the module.
#[derive(Debug)]
pub struct History {
    limits: Limits,
    start: Instant,
    /// The first second that was recorded, and the one after the last.
    recorded: Option<(u32, u32)>,
    /// Seconds of which only the sum is known, oldest first.
    gaps: VecDeque<Stretch>,
    /// What stands at each place of a record; only ever grows.
    plan: Vec<Quantity>,
    records: HashMap<Subject, Record>,
    bytes: usize,
    changed: Vec<(usize, u64)>,
    room: Vec<u8>,
}

/// What is known of one subject.
#[derive(Debug, Default)]
struct Record {
    labels: Option<OwnerLabels>,
    /// Totals as far as they are recorded, by place in the plan. Empty once the subject has ended.
    last: Vec<u64>,
    blocks: VecDeque<Block>,
    bytes: usize,
    /// The second before which blocks have left to make room.
    incomplete_before: u32,
}

/// Sums over a window.
pub type Sums = HashMap<Quantity, u64>;

impl History {
    /// An empty one, which begins `now`.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            start: now,
            recorded: None,
            gaps: VecDeque::new(),
            plan: Vec::new(),
            records: HashMap::new(),
            bytes: 0,
            changed: Vec::new(),
            room: Vec::new(),
        }
    }

    /// The second that is to be recorded, if it is time: the last that is over.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<u32> {
        let over = self.second(now) - 1;
        (over >= FIRST && self.recorded.is_none_or(|(_, end)| over >= end)).then_some(over)
    }

    /// How long until the current second is over.
    #[must_use]
    pub fn next(&self, now: Instant) -> Duration {
        let part = now.saturating_duration_since(self.start).subsec_nanos();
        Duration::from_nanos(1_000_000_000 - u64::from(part))
    }

    /// The second at a time.
    #[must_use]
    pub fn second(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.start).as_secs();
        FIRST.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }

    /// When a second begins.
    #[must_use]
    pub fn begin(&self, second: u32) -> Instant {
        let since = Duration::from_secs(u64::from(second.saturating_sub(FIRST)));
        let until = Duration::from_secs(u64::from(FIRST.saturating_sub(second)));
        (self.start + since)
            .checked_sub(until)
            .unwrap_or(self.start)
    }

    /// How far back it may go.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.limits.length
    }

    /// The seconds of which there is a record: the first, and the one after the last.
    #[must_use]
    pub fn recorded(&self) -> Option<(u32, u32)> {
        let (first, end) = self.recorded?;
        let length = u32::try_from(self.limits.length.as_secs()).unwrap_or(u32::MAX);
        Some((first.max(end.saturating_sub(length)), end))
    }

    /// Bytes that records take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins to record a second, and with it those before that were not recorded; what is too old leaves.
    pub fn begin_second(&mut self, second: u32) {
        if let Some((_, end)) = self.recorded
            && end < second
        {
            self.gaps.push_back(Stretch {
                first: end,
                last: second,
                seen: false,
            });
        }
        self.recorded = Some((self.recorded.map_or(second, |(first, _)| first), second + 1));
        let length = u32::try_from(self.limits.length.as_secs()).unwrap_or(u32::MAX);
        let oldest = (second + 1).saturating_sub(length);
        while self.gaps.front().is_some_and(|gap| gap.last < oldest) {
            self.gaps.pop_front();
        }
        let bytes = &mut self.bytes;
        self.records.retain(|_, record| {
            while record
                .blocks
                .front()
                .is_some_and(|block| block.last() < oldest)
            {
                *bytes -= record.drop_oldest();
            }
            !record.blocks.is_empty() || !record.last.is_empty()
        });
    }

    /// Records the second that was begun for one subject: its totals since the beginning, times in nanoseconds.
    pub fn record(
        &mut self,
        subject: Subject,
        labels: Option<&OwnerLabels>,
        totals: impl Iterator<Item = (Quantity, u64)>,
    ) {
        let Some((_, end)) = self.recorded else {
            return;
        };
        let second = end - 1;
        let record = self.records.entry(subject).or_default();
        if record.labels.is_none() {
            record.labels = labels.cloned();
        }
        self.changed.clear();
        let mut active = 0;
        for (at, (quantity, total)) in totals.enumerate() {
            let place = place(&mut self.plan, at, quantity);
            let total = if quantity.is_time() {
                total / 1000
            } else {
                total
            };
            let grown = total.saturating_sub(record.last.get(place).copied().unwrap_or(0));
            if grown == 0 {
                continue;
            }
            if quantity.is_time() {
                active += grown;
            }
            self.changed.push((place, grown));
        }
        if active < NOTEWORTHY_US {
            return;
        }
        record.last.resize(self.plan.len(), 0);
        for (place, grown) in &self.changed {
            record.last[*place] += grown;
        }
        let before = record.bytes;
        record.push(second, &self.changed, &mut self.room);
        self.bytes = self.bytes + record.bytes - before;
        if self.bytes > self.limits.bytes {
            self.drop_oldest();
        }
    }

    /// Drops the oldest blocks of all until there is room again, and a little more: finding them takes a look at all
    /// records.
    fn drop_oldest(&mut self) {
        let enough = self.limits.bytes - self.limits.bytes / 64;
        let oldest = |(subject, record): (&Subject, &Record)| {
            Some(Reverse((record.blocks.front()?.last(), *subject)))
        };
        let mut fronts: BinaryHeap<_> = self.records.iter().filter_map(oldest).collect();
        while self.bytes > enough
            && let Some(Reverse((_, subject))) = fronts.pop()
        {
            let Some(record) = self.records.get_mut(&subject) else {
                continue;
            };
            self.bytes -= record.make_room();
            fronts.extend(oldest((&subject, record)));
        }
    }

    /// An owner has ended or lost its place: what it counted beyond its record is another's, whose totals contain its
    /// own from now on.
    pub fn fold(&mut self, from: OwnerIndex, into: OwnerIndex) {
        let Some(record) = self.records.get_mut(&Subject::Owner(from)) else {
            return;
        };
        let last = std::mem::take(&mut record.last);
        self.bytes -= record.close();
        let into = self.records.entry(Subject::Owner(into)).or_default();
        into.last.resize(self.plan.len().max(into.last.len()), 0);
        for (sum, part) in into.last.iter_mut().zip(last) {
            *sum += part;
        }
    }

    /// All subjects that have a record, with their labels; the host has none.
    pub fn subjects(&self) -> impl Iterator<Item = (Subject, Option<&OwnerLabels>)> {
        self.records
            .iter()
            .map(|(subject, record)| (*subject, record.labels.as_ref()))
    }

    /// The second before which a subject's record is not complete, because there was no room for it.
    #[must_use]
    pub fn incomplete_before(&self, subject: Subject) -> u32 {
        self.records
            .get(&subject)
            .map_or(0, |record| record.incomplete_before)
    }

    /// The parts in `from..to` of stretches of which only the sum is known.
    pub fn gaps(&self, from: u32, to: u32) -> impl Iterator<Item = Stretch> {
        self.gaps.iter().filter_map(move |gap| gap.within(from, to))
    }

    /// The stretch that a second belongs to.
    fn stretch(&self, second: u32) -> Stretch {
        let at = self.gaps.partition_point(|gap| gap.last < second);
        let gap = self.gaps.get(at).filter(|gap| gap.first <= second);
        gap.copied().unwrap_or(Stretch {
            first: second,
            last: second,
            seen: true,
        })
    }

    /// Calls `each` with the seconds, quantity and value of all that a subject did in `from..to`: of a stretch that was
    /// not seen second by second, with the part of it that lies there.
    pub fn visit(
        &self,
        subject: Subject,
        from: u32,
        to: u32,
        mut each: impl FnMut(Stretch, Quantity, u64),
    ) {
        let (Some(record), Some(last)) = (self.records.get(&subject), to.checked_sub(1)) else {
            return;
        };
        let end = self.stretch(last).last.saturating_add(1);
        for block in &record.blocks {
            block.visit(from, end, &mut |second, place, value| {
                let stretch = self.stretch(second);
                if let (Some(quantity), Some(part)) =
                    (self.plan.get(place), stretch.within(from, to))
                {
                    each(part, *quantity, stretch.share(value, part));
                }
            });
        }
    }

    /// What a subject did in `from..to`.
    #[must_use]
    pub fn sums(&self, subject: Subject, from: u32, to: u32) -> Sums {
        let mut sums = Sums::new();
        self.visit(subject, from, to, |_, quantity, value| {
            *sums.entry(quantity).or_default() += value;
        });
        sums
    }
}

/// The place of a quantity in the plan: probably `at`, because they come in the same order each time.
fn place(plan: &mut Vec<Quantity>, at: usize, quantity: Quantity) -> usize {
    if plan.get(at) == Some(&quantity) {
        return at;
    }
    plan.iter()
        .position(|known| *known == quantity)
        .unwrap_or_else(|| {
            plan.push(quantity);
            plan.len() - 1
        })
}

impl Record {
    fn push(&mut self, second: u32, values: &[(usize, u64)], room: &mut Vec<u8>) {
        if let Some(block) = self.blocks.back_mut() {
            let before = block.size();
            let fits = block.push(second, values, room);
            // One that was closed has to grow.
            self.bytes = self.bytes + block.size() - before;
            if fits {
                return;
            }
        }
        let mut block = Block::new(second);
        block.push(second, values, room);
        self.bytes += block.size();
        self.blocks.push_back(block);
        while self.bytes > CONTAINER_BYTES && self.blocks.len() > 1 {
            self.make_room();
        }
    }

    /// Gives back the room in the last block, and says how many bytes that was: most short-lived containers have a
    /// second or two.
    fn close(&mut self) -> usize {
        let Some(block) = self.blocks.back_mut() else {
            return 0;
        };
        let before = block.size();
        block.close();
        let given = before - block.size();
        self.bytes -= given;
        given
    }

    /// Drops the oldest block, and says how many bytes that was.
    fn drop_oldest(&mut self) -> usize {
        let size = self.blocks.pop_front().map_or(0, |block| block.size());
        self.bytes -= size;
        size
    }

    /// The same of a block that is not too old to be kept.
    fn make_room(&mut self) -> usize {
        if let Some(block) = self.blocks.front() {
            self.incomplete_before = block.last() + 1;
        }
        self.drop_oldest()
    }
}
