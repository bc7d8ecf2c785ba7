//! Seats: a seat gives an owner series of its own, and the budget has so many of them.
//!
//! A new owner that finds no free seat evicts an owner of a lower [`Rank`], or one of the same rank that has ended. It
//! evicts from the lowest rank, ended owners before live ones, and of these the one with the least recent activity. So
//! whoever makes cgroups by the thousand in a delegated one cannot take the series of a pod.
//!
//! Ended owners keep their seats for [`GRACE`], but no more than [`MOST_ENDED`] of them do: where containers live for a
//! second, their series would outnumber all others many times over.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    time::Instant,
};

use super::{GRACE, OwnerIndex, Owners};
use crate::{attribution::Rank, exposition::OwnerLabels};

/// Maximum number of ended owners with series of their own. Beyond it, those of the lowest rank are evicted, the
/// longest ended first.
pub const MOST_ENDED: usize = 1024;

/// Number of ended owners evicted in addition to the excess, so that their cgroups are redirected in batches.
const BATCH: usize = MOST_ENDED / 8;

/// Function that returns an owner's recent activity.
pub type Activity<'a> = &'a dyn Fn(OwnerIndex) -> u64;

/// An owner with a seat.
pub(super) struct Entry {
    pub(super) labels: OwnerLabels,
    rank: Rank,
    live: usize,
    ended: Option<Instant>,
}

/// Order of eviction: lowest rank, ended before live, least recent activity, newest.
type Order = (Reverse<Rank>, Reverse<bool>, u64, Reverse<OwnerIndex>);

/// The owners with seats, and the order in which they lose them.
pub(super) struct Seats {
    budget: usize,
    next: u32,
    entries: HashMap<OwnerIndex, Entry>,
    by_label: HashMap<OwnerLabels, OwnerIndex>,
    /// Ended owners, in the order of eviction.
    ended: BTreeSet<(Reverse<Rank>, Instant, OwnerIndex)>,
    /// Owners to evict; none until it is needed. A heap, because a look needs few of them.
    leaving: Option<BinaryHeap<Reverse<Order>>>,
    /// A rank for which no owner can be evicted, and so for no lower rank either.
    settled: Option<Rank>,
    /// True if a seat may have become free since [`Seats::freed`] was last called.
    freed: bool,
    /// Evicted owners, each with the sum that its totals go to.
    evicted: Vec<(OwnerIndex, OwnerIndex)>,
    /// Calls of [`Seats::order`].
    #[cfg(test)]
    ordered: std::cell::Cell<usize>,
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
            #[cfg(test)]
            ordered: std::cell::Cell::default(),
        }
    }

    /// Returns the owner with these labels, or a new one; none if there is no free seat and no owner to evict.
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

    /// Evicts the first owner in the order for a new one of this rank; none if no owner can be evicted.
    fn evict_for(&mut self, rank: Rank, activity: Activity<'_>) -> Option<()> {
        loop {
            if self.leaving.as_ref().is_none_or(BinaryHeap::is_empty) {
                if self.settled.is_some_and(|settled| rank >= settled) {
                    return None;
                }
                let order = self.order(rank, activity);
                self.settled = order.is_empty().then_some(rank);
                self.leaving = Some(order);
            }
            let leaving = self.leaving.as_mut()?;
            let Reverse((Reverse(lowest), Reverse(ended), _, Reverse(index))) = *leaving.peek()?;
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

    /// Returns the owners that can be evicted for a new one of this rank.
    fn order(&self, rank: Rank, activity: Activity<'_>) -> BinaryHeap<Reverse<Order>> {
        #[cfg(test)]
        self.ordered.set(self.ordered.get() + 1);
        let seated = self.by_label.values().filter_map(|index| {
            let entry = self.entries.get(index)?;
            let ended = entry.ended.is_some();
            (entry.rank > rank || (entry.rank == rank && ended)).then(|| {
                let activity = activity(*index);
                Reverse((
                    Reverse(entry.rank),
                    Reverse(ended),
                    activity,
                    Reverse(*index),
                ))
            })
        });
        // Linear from a vector; a sort would not be.
        BinaryHeap::from(seated.collect::<Vec<_>>())
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

    /// Evicts ended owners beyond [`MOST_ENDED`].
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

    /// Forgets the owners to evict, whose activity may have changed. Called at each look.
    pub(super) fn look(&mut self) {
        self.leaving = None;
        self.settled = None;
    }

    /// Returns whether a seat may have become free since the last call.
    pub(super) fn freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Returns the owners evicted since the last call, each with the sum that its totals go to.
    pub(super) fn evicted(&mut self) -> Vec<(OwnerIndex, OwnerIndex)> {
        std::mem::take(&mut self.evicted)
    }

    /// Returns the result of the next [`Seats::evicted`].
    pub(super) fn to_evict(&self) -> impl Iterator<Item = (OwnerIndex, OwnerIndex)> {
        self.evicted.iter().copied()
    }

    /// Removes a live cgroup from an owner. The owner ends with its last one; sums never end.
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

    /// Adds a cgroup to an owner. One that is `removed` already delays the owner's end as if it had always belonged to
    /// it.
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

    /// Takes the seats of these owners because of the series budget. The seats do not count as freed, since nobody may
    /// have them.
    pub(super) fn fold(&mut self, owners: &HashSet<OwnerIndex>) {
        let freed = self.freed;
        for index in owners {
            self.drop(*index);
        }
        self.freed = freed;
    }

    /// Takes the seats of owners that ended at least [`GRACE`] ago, and returns the owners.
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

    /// Returns the owners with seats, and their ranks.
    pub(super) fn seated(&self) -> impl Iterator<Item = (OwnerIndex, Rank)> {
        self.by_label.values().filter_map(|index| {
            let entry = self.entries.get(index)?;
            Some((*index, entry.rank))
        })
    }

    /// Returns the number of taken seats, and the budget.
    pub(super) fn used(&self) -> (usize, usize) {
        (self.by_label.len(), self.budget)
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, time::Duration};

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
        // Its rank rises while it is among the ended.
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
        let come = |seats: &mut Seats, names: Range<usize>, rank| {
            let mut seated = 0;
            for name in names {
                if let Some(owner) = seats.take(labels(name), rank, &activity) {
                    seats.join(owner, None);
                    seated += 1;
                }
            }
            (seated, seats.ordered.take(), asked.take())
        };
        // Seats given, calls of `order`, and owners asked for their activity.
        assert_eq!(come(&mut seats, 0..100, Rank::Host), (100, 0, 0));
        // No owner of the same rank can be evicted; one pass finds that.
        assert_eq!(come(&mut seats, 100..200, Rank::Host), (0, 1, 0));
        assert_eq!(come(&mut seats, 200..300, Rank::Other), (0, 0, 0));
        // All can be evicted for pods; one pass finds that too. Those left cannot be evicted for others of their rank.
        assert_eq!(come(&mut seats, 300..399, Rank::Pod), (99, 1, 100));
        assert_eq!(come(&mut seats, 400..500, Rank::Host), (0, 0, 0));
        assert_eq!(come(&mut seats, 500..600, Rank::Pod), (1, 1, 0));
        // An owner that ended, or a new look, is a reason for another pass.
        seats.look();
        assert_eq!(come(&mut seats, 600..700, Rank::Pod), (0, 1, 0));
        let pod = *seats.by_label.get(&labels(300)).expect("a seat");
        seats.leave(pod, Instant::now());
        assert_eq!(come(&mut seats, 700..702, Rank::Pod), (1, 2, 1));
    }
}
