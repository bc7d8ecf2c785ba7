//! Series of their own for as many owners as the budget has seats, and who gets one when there are more.
//!
//! A newcomer that finds no seat takes that of an owner of a lower [`Rank`], or of one of no higher rank that has ended:
//! the one of the lowest rank, ended before live, that did the least lately. Anybody can make cgroups by the thousand in
//! one that was delegated to him; that must not take the series of a pod.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{GRACE, OwnerIndex, Owners};
use crate::{attribution::Rank, exposition::OwnerLabels};

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
    /// Who gives up a seat next, the last first; none until somebody asks.
    leaving: Option<Vec<Order>>,
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
            leaving: None,
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
            if let Some(entry) = self.entries.get_mut(index) {
                entry.rank = entry.rank.min(rank);
            }
            return Some(*index);
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
        Some(index)
    }

    /// Takes the seat of whoever has to give it up first for a newcomer of this rank; none if nobody has to.
    fn evict_for(&mut self, rank: Rank, activity: Activity<'_>) -> Option<()> {
        loop {
            if self.leaving.as_ref().is_none_or(Vec::is_empty) {
                self.leaving = Some(self.order(rank, activity));
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
            self.freed = true;
        }
    }

    /// What was found about who has to leave holds no longer: a new look.
    pub(super) fn look(&mut self) {
        self.leaving = None;
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
                entry.ended = Some(now);
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
        match removed {
            None => {
                entry.live += 1;
                entry.ended = None;
            }
            Some(removed) if entry.live == 0 => entry.ended = entry.ended.max(Some(removed)),
            Some(_) => {}
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
