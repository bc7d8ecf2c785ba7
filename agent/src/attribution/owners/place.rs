//! Places: the owner that each cgroup's counts go to.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{ASKS, Account, Activity, Claimed, OwnerIndex, Owners, Subject};
use crate::{attribution, exposition::OwnerLabels, host::cgroup::CgroupId};

/// Destination of a cgroup's counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// None yet: the name is pending.
    Unnamed,
    /// This owner.
    At(OwnerIndex),
    /// [`Owners::OTHER`], until there is a seat for the cgroup's owner.
    Standing,
    /// [`Owners::OTHER`], for good.
    Folded,
}

impl Place {
    pub(super) const fn owner(self) -> Option<OwnerIndex> {
        match self {
            Self::Unnamed => None,
            Self::At(owner) => Some(owner),
            Self::Standing | Self::Folded => Some(Owners::OTHER),
        }
    }
}

impl Owners {
    /// Directs a cgroup's counts to the owner with these labels; without labels, to [`Owners::UNRESOLVED`].
    pub(super) fn place(
        &mut self,
        id: CgroupId,
        labels: Option<OwnerLabels>,
        now: Instant,
        activity: Activity<'_>,
    ) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let before = member.place;
        // A cgroup that was folded stays folded.
        if before == Place::Folded {
            return;
        }
        let owner = match labels {
            None => Some(Self::UNRESOLVED),
            Some(labels) => self.seats.take(labels, member.rank, activity),
        };
        member.place = match owner {
            Some(owner) => Place::At(owner),
            None if member.removed.is_some() => Place::Folded,
            None => Place::Standing,
        };
        if member.place == before {
            return;
        }
        if let Some(owner) = owner {
            self.seats.join(owner, member.removed);
            self.standing.remove(&(member.rank, id));
        } else {
            self.folded += 1;
            if member.place == Place::Standing {
                self.standing.insert((member.rank, id));
            }
        }
        if let (Place::At(before), None) = (before, member.removed) {
            self.seats.leave(before, now);
        }
    }

    /// Gives free seats to cgroups that wait for one.
    pub(super) fn seat_standing(&mut self, now: Instant, activity: Activity<'_>) {
        while let Some((rank, id)) = self.standing.first().copied() {
            let Some(labels) = self.labels_to_be(id) else {
                self.standing.remove(&(rank, id));
                continue;
            };
            self.place(id, Some(labels), now, activity);
            if self.standing.contains(&(rank, id)) {
                break;
            }
        }
    }

    /// Returns the labels that a cgroup's series would have.
    fn labels_to_be(&self, id: CgroupId) -> Option<OwnerLabels> {
        let member = self.members.get(&id)?;
        if let Some(pod) = &member.pod {
            return self.labels_of_pod(pod);
        }
        let attribute = match member.claim {
            Claimed::Refused => attribution::attribute_outside,
            Claimed::No | Claimed::Granted => attribution::attribute,
        };
        let owner = attribute(&member.path, member.trusted, &self.trees);
        Some(self.label_set.render(Subject::Cgroup(&owner)))
    }

    /// Directs the cgroups of evicted owners to the sums that the owners' totals went to; live cgroups wait for a new
    /// seat.
    pub(super) fn place_evicted(&mut self) {
        let evicted: HashMap<_, _> = self.seats.to_evict().collect();
        if evicted.is_empty() {
            return;
        }
        for (id, member) in &mut self.members {
            let Place::At(owner) = member.place else {
                continue;
            };
            let Some(into) = evicted.get(&owner) else {
                continue;
            };
            member.place = match member.removed {
                None => {
                    self.folded += 1;
                    self.standing.insert((member.rank, *id));
                    Place::Standing
                }
                Some(_) => Place::At(*into),
            };
        }
    }

    /// Folds these owners: past and further counts of their cgroups belong to [`Owners::OTHER`].
    pub fn fold(&mut self, owners: &HashSet<OwnerIndex>) {
        self.seats.fold(owners);
        for member in self.members.values_mut() {
            if matches!(member.place, Place::At(owner) if owners.contains(&owner)) {
                member.place = Place::Folded;
                self.folded += 1;
            }
        }
    }

    /// Returns the account of a cgroup's counts. A cgroup that is not found in the file system is looked up once more,
    /// because it may be newer than the last poll.
    pub fn account(&mut self, id: CgroupId) -> Account {
        if id.0 == 0 {
            return Account::Owner(Self::OTHER);
        }
        if let Some(member) = self.members.get(&id) {
            let owner = member.place.owner();
            return owner.map_or(Account::Pending, Account::Owner);
        }
        let unknown = self.unknown.entry(id).or_default();
        unknown.asked = unknown.asked.saturating_add(1);
        unknown.lately = true;
        if unknown.asked > ASKS {
            Account::Owner(Self::REMOVED)
        } else {
            Account::Pending
        }
    }
}
