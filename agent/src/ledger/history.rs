//! The last hour of each container, second by second, in a bounded number of bytes.
//!
//! Made from the same totals as the exposition, once a second. A second in which a container did next to nothing is
//! added to its next one, so that idle containers take no memory and nothing is dropped. Of seconds at whose end nobody
//! looked only the sum is known ([`Stretch`]). What is oldest leaves first: by age, by the bytes of one container, and by
//! the bytes of all. At most [`MOST_ENDED`] containers that have ended keep a record.

mod block;
mod quantity;
mod record;
mod stretch;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    time::{Duration, Instant},
};

pub use quantity::Quantity;
use record::{Ended, Record};
pub use stretch::Stretch;

use crate::{attribution::owners::OwnerIndex, exposition::OwnerLabels};

/// Bytes of one container's seconds at most.
pub const CONTAINER_BYTES: usize = 64 << 10;

/// Maximum number of ended containers that keep a record. Beyond it the history drops those outside of pods first, and
/// among equals the ones that ended first. A node full of pods ends fewer within an hour. With a thousand short-lived
/// cgroups a minute these records take less than 2 MiB, and reach that within minutes instead of an hour.
pub const MOST_ENDED: usize = 4096;

/// The second in which a history begins: those before can be asked about, though nothing is recorded of them.
const FIRST: u32 = 1 << 20;

/// Time on CPUs or lost, in microseconds, from which on a second is recorded.
const NOTEWORTHY_US: u64 = 1000;

/// How much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How far back.
    pub length: Duration,
    /// Maximum memory of all records in bytes, including labels, tables and the allocator's overhead. The fixed part of a
    /// live container's record is never dropped.
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
    records: HashMap<Subject, Box<Record>>,
    /// Subjects that have ended and still have a record, the first to drop first.
    ended: BTreeSet<Ended>,
    bytes: usize,
    /// Records of ended subjects may be missing before this second, because the history dropped them to make room.
    forgotten_before: u32,
    /// The last second in which dropping all blocks did not make enough room.
    full: Option<u32>,
    changed: Vec<(usize, u64)>,
    room: Vec<u8>,
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
            ended: BTreeSet::new(),
            bytes: 0,
            forgotten_before: 0,
            full: None,
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
        self.records.retain(|_, record| {
            let before = record.bytes();
            record.drop_before(oldest);
            let over = record.is_over();
            let after = if over { 0 } else { record.bytes() };
            self.bytes = self.bytes + after - before;
            if let Some(ended) = record.ended.filter(|_| over) {
                self.ended.remove(&ended);
            }
            !over
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
        let record = record_of(&mut self.records, &mut self.bytes, subject);
        let before = record.bytes();
        // A late count revives an ended subject.
        if let Some(ended) = record.ended.take() {
            self.ended.remove(&ended);
        }
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
        if active >= NOTEWORTHY_US {
            record.add(self.plan.len(), self.changed.iter().copied());
            if self.full == Some(second) {
                record.incomplete_before = end;
            } else {
                record.push(second, &self.changed, &mut self.room);
            }
        }
        self.bytes = self.bytes + record.bytes() - before;
        if self.bytes > self.limits.bytes && self.full != Some(second) {
            self.drop_oldest(second);
        }
    }

    /// Drops the oldest blocks of all records until there is room again, and a little more, because finding them scans
    /// all records.
    fn drop_oldest(&mut self, second: u32) {
        let enough = self.limits.bytes - self.limits.bytes / 64;
        let oldest = |subject: Subject, record: &Record| {
            Some(Reverse((record.blocks.front()?.last(), subject)))
        };
        let all = self.records.iter();
        let mut fronts: BinaryHeap<_> = all
            .filter_map(|(subject, record)| oldest(*subject, record))
            .collect();
        while self.bytes > enough
            && let Some(Reverse((_, subject))) = fronts.pop()
        {
            let Some(record) = self.records.get_mut(&subject) else {
                continue;
            };
            let before = record.bytes();
            record.make_room();
            self.bytes = self.bytes + record.bytes() - before;
            fronts.extend(oldest(subject, record));
            if let Some(ended) = record.ended.filter(|_| record.is_over()) {
                self.forget(ended);
            }
        }
        if self.bytes > self.limits.bytes {
            self.full = Some(second);
        }
    }

    /// Drops the record of an ended subject, and notes until when it had data or lost it to make room.
    fn forget(&mut self, ended: Ended) {
        self.ended.remove(&ended);
        if let Some(record) = self.records.remove(&Subject::Owner(ended.owner)) {
            self.bytes -= record.bytes();
            self.forgotten_before = self.forgotten_before.max(record.known_before());
        }
    }

    /// An owner has ended or lost its place: what it counted beyond its record is another's, whose totals contain its
    /// own from now on.
    pub fn fold(&mut self, from: OwnerIndex, into: OwnerIndex) {
        let subject = Subject::Owner(from);
        let Some(record) = self.records.get_mut(&subject) else {
            return;
        };
        let before = record.bytes();
        if let Some(ended) = record.ended {
            self.ended.remove(&ended);
        }
        let second = self.recorded.map_or(0, |(_, end)| end);
        let (ended, last) = record.end(from, second);
        self.bytes = self.bytes + record.bytes() - before;
        self.ended.insert(ended);
        if record.is_over() {
            self.forget(ended);
        }
        let into = record_of(&mut self.records, &mut self.bytes, Subject::Owner(into));
        let before = into.bytes();
        into.add(self.plan.len(), last.into_iter().enumerate());
        self.bytes = self.bytes + into.bytes() - before;
        while self.ended.len() > MOST_ENDED
            && let Some(first) = self.ended.first().copied()
        {
            self.forget(first);
        }
    }

    /// Returns the second before which records of ended containers may be missing, because there was no room for them.
    #[must_use]
    pub fn forgotten_before(&self) -> u32 {
        self.forgotten_before
    }

    /// Returns the number of ended containers that still have a record.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.ended.len()
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

/// Returns the record of a subject, and makes an empty one if there is none.
fn record_of<'a>(
    records: &'a mut HashMap<Subject, Box<Record>>,
    bytes: &mut usize,
    subject: Subject,
) -> &'a mut Record {
    records.entry(subject).or_insert_with(|| {
        let record = Box::<Record>::default();
        *bytes += record.bytes();
        record
    })
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
