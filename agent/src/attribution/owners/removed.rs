//! Removed cgroups that are still known, because their last counts may be read later.
//!
//! Each is known for [`GRACE`], but the number of new cgroups has no bound, and what is kept of them grows with it here
//! and in every ledger. Beyond [`MOST_REMOVED`] the ones that were removed first are dropped early. Pods have a queue of
//! their own, so that no flood of other cgroups drops them.

use std::{collections::VecDeque, time::Instant};

use super::GRACE;
use crate::{attribution::Rank, host::cgroup::CgroupId};

/// Maximum number of removed cgroups of pods, and of removed other cgroups, that are still known.
pub const MOST_REMOVED: usize = 1024;

/// Number of cgroups dropped beyond the excess, so that a flood is dropped in batches.
const BATCH: usize = MOST_REMOVED / 8;

/// See the module.
#[derive(Default)]
pub(super) struct Removed {
    pods: Queue,
    others: Queue,
}

/// Removed cgroups, in the order of their removal.
#[derive(Default)]
struct Queue(VecDeque<(Instant, CgroupId)>);

impl Removed {
    pub(super) fn push(&mut self, rank: Rank, now: Instant, id: CgroupId) {
        let queue = if rank == Rank::Pod {
            &mut self.pods
        } else {
            &mut self.others
        };
        queue.0.push_back((now, id));
    }

    /// Takes out the cgroups that are to be dropped, with the time of their removal.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Instant, CgroupId)> {
        let mut expired = Vec::new();
        for queue in [&mut self.pods, &mut self.others] {
            queue.expire(now, &mut expired);
        }
        expired
    }

    /// Returns whether more are kept than there should be.
    pub(super) fn crowded(&self) -> bool {
        self.pods.crowded() || self.others.crowded()
    }
}

impl Queue {
    fn crowded(&self) -> bool {
        self.0.len() > MOST_REMOVED
    }

    fn expire(&mut self, now: Instant, expired: &mut Vec<(Instant, CgroupId)>) {
        let most = if self.crowded() {
            MOST_REMOVED - BATCH
        } else {
            MOST_REMOVED
        };
        let over =
            |&(removed, _): &(Instant, CgroupId)| now.saturating_duration_since(removed) >= GRACE;
        let excess = self.0.len().saturating_sub(most);
        let old = self.0.partition_point(over);
        expired.extend(self.0.drain(..excess.max(old)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn beyond_the_bound_the_first_are_dropped_and_pods_are_not_for_others() {
        let (mut removed, start) = (Removed::default(), Instant::now());
        removed.push(Rank::Pod, start, CgroupId(1));
        for id in 0..2000 {
            removed.push(Rank::Other, start, CgroupId(10 + id));
        }
        assert!(removed.crowded());
        let expired = removed.expire(start);
        assert!(!removed.crowded());
        let ids: Vec<u64> = expired.iter().map(|(_, id)| id.0).collect();
        let kept = (MOST_REMOVED - BATCH) as u64;
        assert_eq!(ids, (10..2010 - kept).collect::<Vec<_>>());
        assert_eq!(removed.expire(start).len(), 0);
        let later = start + GRACE;
        removed.push(Rank::Host, later, CgroupId(5000));
        let expired = removed.expire(later + GRACE.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(expired.len() as u64, 1 + kept, "all but the last");
        assert_eq!(removed.expire(later + GRACE), [(later, CgroupId(5000))]);
    }
}
