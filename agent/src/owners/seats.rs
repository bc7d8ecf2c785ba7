//! Series of their own for as many owners as the budget has seats, and who gets one when there are more.
//!
//! A newcomer that finds no seat takes that of an owner of a lower [`Rank`], or of one of no higher rank that has ended:
//! the one of the lowest rank, ended before live, that did the least lately. Anybody can make cgroups by the thousand in
//! one that was delegated to him; that must not take the series of a pod.
//!
//! Owners that have ended keep their seats for [`GRACE`], but no more than [`MOST_ENDED`] of them: where containers live
//! for a second, their series would outnumber all others many times over.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use super::{GRACE, OwnerIndex, Owners};
use crate::{attribution::Rank, exposition::OwnerLabels};

/// Owners that have ended and still have series of their own at most; of more, those of the lowest rank give way, the
/// longest ended first.
pub const MOST_ENDED: usize = 1024;

/// Where there are more, this many go beyond those that have to, so that cgroups are led elsewhere by the batch.
const BATCH: usize = MOST_ENDED / 8;

/// How much an owner did lately.
pub type Activity<'a> = &'a dyn Fn(OwnerIndex) -> u64;

/// An owner with series of its own.
pub(super) struct Entry {
    pub(super) labels: OwnerLabels,
    rank: Rank,
    live: usize,
    ended: Option<Instant>,
}

/// The lowest first: rank, whether it has ended, what it did lately, age.
type Order = (Reverse<Rank>, Reverse<bool>, u64, Reverse<OwnerIndex>);

/// See the module.
pub(super) struct Seats {
    budget: usize,
    next: u32,
    entries: HashMap<OwnerIndex, Entry>,
    by_label: HashMap<OwnerLabels, OwnerIndex>,
    /// Owners that have ended, the first to give way first.
    ended: BTreeSet<(Reverse<Rank>, Instant, OwnerIndex)>,
    /// Who gives up a seat next, the last first; none until somebody asks.
    leaving: Option<Vec<Order>>,
    /// A rank for whose newcomers nobody has to leave, and so for none of a lower rank.
    settled: Option<Rank>,
    /// Whether somebody who stands may sit down since this was last asked.
    freed: bool,
    /// Owners that lost their seats, and where their totals go.
    evicted: Vec<(OwnerIndex, OwnerIndex)>,
}

impl Seats {
    pub(super) fn new(budget: usize, sums: [(OwnerIndex, OwnerLabels); 3]) -> Self {
        let next = sums.len() as u32;
        let entries = sums.map(|(index, labels)| {
            let entry = Entry {
                labels,
                rank: Rank::Pod,
                live: 1,
                ended: None,
            };
            (index, entry)
        });
        Self {
            budget,
            next,
            entries: entries.into(),
            by_label: HashMap::new(),
            ended: BTreeSet::new(),
            leaving: None,
            settled: None,
            freed: false,
            evicted: Vec::new(),
        }
    }

    /// The owner with these labels, new if there is none; none where nobody has to give up a seat for it.
    pub(super) fn take(
        &mut self,
        labels: OwnerLabels,
        rank: Rank,
        activity: Activity<'_>,
    ) -> Option<OwnerIndex> {
        if let Some(index) = self.by_label.get(&labels) {
            let index = *index;
            if let Some(entry) = self.entries.get_mut(&index) {
                let rank = entry.rank.min(rank);
                if let Some(ended) = entry.ended {
                    self.ended.remove(&(Reverse(entry.rank), ended, index));
                    self.ended.insert((Reverse(rank), ended, index));
                }
                entry.rank = rank;
            }
            return Some(index);
        }
        if self.by_label.len() >= self.budget {
            self.evict_for(rank, activity)?;
        }
        let index = OwnerIndex(self.next);
        self.next += 1;
        self.by_label.insert(labels.clone(), index);
        let entry = Entry {
            labels,
            rank,
            live: 0,
            ended: None,
        };
        self.entries.insert(index, entry);
        self.settled = None;
        Some(index)
    }

    /// Takes the seat of whoever has to give it up first for a newcomer of this rank; none if nobody has to.
    fn evict_for(&mut self, rank: Rank, activity: Activity<'_>) -> Option<()> {
        loop {
            if self.leaving.as_ref().is_none_or(Vec::is_empty) {
                if self.settled.is_some_and(|settled| rank >= settled) {
                    return None;
                }
                let order = self.order(rank, activity);
                self.settled = order.is_empty().then_some(rank);
                self.leaving = Some(order);
            }
            let leaving = self.leaving.as_mut()?;
            let (Reverse(lowest), Reverse(ended), _, Reverse(index)) = *leaving.last()?;
            let entry = self.entries.get(&index);
            if entry.is_none_or(|entry| (entry.rank, entry.ended.is_some()) != (lowest, ended)) {
                leaving.pop();
                continue;
            }
            if lowest < rank || (lowest == rank && !ended) {
                return None;
            }
            leaving.pop();
            self.drop(index);
            let into = if ended {
                Owners::REMOVED
            } else {
                Owners::OTHER
            };
            self.evicted.push((index, into));
            return Some(());
        }
    }

    /// Those that would give up a seat for a newcomer of this rank, the first of them last.
    fn order(&self, rank: Rank, activity: Activity<'_>) -> Vec<Order> {
        let seated = self.by_label.values().filter_map(|index| {
            let entry = self.entries.get(index)?;
            let ended = entry.ended.is_some();
            (entry.rank > rank || (entry.rank == rank && ended)).then(|| {
                let activity = activity(*index);
                (
                    Reverse(entry.rank),
                    Reverse(ended),
                    activity,
                    Reverse(*index),
                )
            })
        });
        let mut order: Vec<Order> = seated.collect();
        order.sort_unstable_by_key(|order| Reverse(*order));
        order
    }

    fn drop(&mut self, index: OwnerIndex) {
        if let Some(entry) = self.entries.remove(&index) {
            self.by_label.remove(&entry.labels);
            if let Some(ended) = entry.ended {
                self.ended.remove(&(Reverse(entry.rank), ended, index));
            }
            self.freed = true;
        }
    }

    /// Takes the seats of those that have ended beyond [`MOST_ENDED`].
    pub(super) fn thin_out(&mut self) {
        if self.ended.len() <= MOST_ENDED {
            return;
        }
        while self.ended.len() > MOST_ENDED - BATCH {
            let Some((.., index)) = self.ended.pop_first() else {
                return;
            };
            self.drop(index);
            self.evicted.push((index, Owners::REMOVED));
        }
    }

    /// What was found about who has to leave holds no longer: a new look.
    pub(super) fn look(&mut self) {
        self.leaving = None;
        self.settled = None;
    }

    /// Whether a seat may have become free since this was last asked.
    pub(super) fn freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Owners that lost their seats since this was last asked, each with the sum that its totals go to.
    pub(super) fn evicted(&mut self) -> Vec<(OwnerIndex, OwnerIndex)> {
        std::mem::take(&mut self.evicted)
    }

    /// What [`Seats::evicted`] will say.
    pub(super) fn to_evict(&self) -> impl Iterator<Item = (OwnerIndex, OwnerIndex)> {
        self.evicted.iter().copied()
    }

    /// One cgroup less counts for an owner. Sums never end.
    pub(super) fn leave(&mut self, owner: OwnerIndex, now: Instant) {
        if owner.0 < Owners::FIRST {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&owner) {
            entry.live = entry.live.saturating_sub(1);
            if entry.live == 0 {
                if let Some(before) = entry.ended.replace(now) {
                    self.ended.remove(&(Reverse(entry.rank), before, owner));
                }
                self.ended.insert((Reverse(entry.rank), now, owner));
                self.settled = None;
                self.freed = true;
            }
        }
    }

    /// One cgroup more counts for an owner; one that is `removed` already keeps it from expiring for as long as if it
    /// had belonged to it from the start.
    pub(super) fn join(&mut self, owner: OwnerIndex, removed: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(&owner) else {
            return;
        };
        let before = entry.ended;
        match removed {
            None => {
                entry.live += 1;
                entry.ended = None;
            }
            Some(removed) if entry.live == 0 => entry.ended = before.max(Some(removed)),
            Some(_) => {}
        }
        if before != entry.ended {
            if let Some(before) = before {
                self.ended.remove(&(Reverse(entry.rank), before, owner));
            }
            if let Some(ended) = entry.ended {
                self.ended.insert((Reverse(entry.rank), ended, owner));
            }
        }
    }

    /// Takes the seats of these owners, because there are more series than can be written: nobody who stands gets one for
    /// it.
    pub(super) fn fold(&mut self, owners: &HashSet<OwnerIndex>) {
        let freed = self.freed;
        for index in owners {
            self.drop(*index);
        }
        self.freed = freed;
    }

    /// Takes the seats of owners that ended longer than [`GRACE`] ago.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<OwnerIndex> {
        let over = |entry: &Entry| {
            let ended = entry.ended;
            ended.is_some_and(|ended| now.saturating_duration_since(ended) >= GRACE)
        };
        let expired = self.entries.iter().filter(|(_, entry)| over(entry));
        let expired: Vec<_> = expired.map(|(index, _)| *index).collect();
        for index in &expired {
            self.drop(*index);
        }
        expired
    }

    pub(super) fn labels(&self, index: OwnerIndex) -> Option<&OwnerLabels> {
        self.entries.get(&index).map(|entry| &entry.labels)
    }

    /// The owners with seats, and their ranks.
    pub(super) fn seated(&self) -> impl Iterator<Item = (OwnerIndex, Rank)> {
        self.by_label.values().filter_map(|index| {
            let entry = self.entries.get(index)?;
            Some((*index, entry.rank))
        })
    }

    /// Seats that are taken, and the most there may be.
    pub(super) fn used(&self) -> (usize, usize) {
        (self.by_label.len(), self.budget)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn labels(name: usize) -> OwnerLabels {
        OwnerLabels::new("", "", "", &name.to_string())
    }

    fn seats(budget: usize) -> Seats {
        let sums = [
            (Owners::OTHER, labels(1_000_000)),
            (Owners::REMOVED, labels(1_000_001)),
            (Owners::UNRESOLVED, labels(1_000_002)),
        ];
        Seats::new(budget, sums)
    }

    #[test]
    fn of_many_that_have_ended_the_lowest_rank_gives_way_and_the_longest_ended_first() {
        let (mut seats, start) = (seats(usize::MAX), Instant::now());
        let come_and_go = |seats: &mut Seats, name: usize, rank| {
            let owner = seats.take(labels(name), rank, &|_| 0).expect("a seat");
            seats.join(owner, None);
            seats.leave(owner, start + Duration::from_millis(name as u64));
            owner
        };
        let pod = come_and_go(&mut seats, 0, Rank::Pod);
        let mut others = Vec::new();
        for name in 1..=5 * MOST_ENDED {
            others.push(come_and_go(&mut seats, name, Rank::Other));
            seats.thin_out();
            assert!(seats.ended.len() <= MOST_ENDED);
        }
        let evicted = seats.evicted();
        let first: Vec<_> = others.iter().take(evicted.len()).copied().collect();
        assert!(evicted.len() >= 4 * MOST_ENDED, "{}", evicted.len());
        assert_eq!(
            evicted,
            first
                .into_iter()
                .map(|owner| (owner, Owners::REMOVED))
                .collect::<Vec<_>>()
        );
        assert!(seats.labels(pod).is_some());
        assert_eq!(seats.used().0, seats.ended.len());
    }

    #[test]
    fn who_comes_again_is_among_the_ended_no_more() {
        let (mut seats, now) = (seats(10), Instant::now());
        let owner = seats.take(labels(7), Rank::Other, &|_| 0).expect("a seat");
        seats.join(owner, None);
        seats.leave(owner, now);
        // Its rank rises while it is among them.
        assert_eq!(seats.take(labels(7), Rank::Pod, &|_| 0), Some(owner));
        assert_eq!(seats.ended.first(), Some(&(Reverse(Rank::Pod), now, owner)));
        seats.join(owner, None);
        assert!(seats.ended.is_empty());
        seats.leave(owner, now);
        assert_eq!(seats.expire(now + GRACE), [owner]);
        assert!(seats.ended.is_empty());
    }

    #[test]
    fn a_newcomer_that_finds_no_seat_asks_nobody_again_what_was_asked_for_the_last() {
        let (mut seats, asked) = (seats(100), std::cell::Cell::new(0));
        let activity = |_| {
            asked.set(asked.get() + 1);
            0
        };
        for name in 0..100 {
            let owner = seats
                .take(labels(name), Rank::Host, &activity)
                .expect("a seat");
            seats.join(owner, None);
        }
        for name in 100..200 {
            assert_eq!(seats.take(labels(name), Rank::Host, &activity), None);
        }
        assert_eq!(asked.get(), 0);
        for name in 200..300 {
            assert!(seats.take(labels(name), Rank::Pod, &activity).is_some());
        }
        assert_eq!(asked.get(), 100);
    }
}
