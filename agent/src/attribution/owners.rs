//! The cgroups of this host and the owners they belong to, from their start to some time after their end.

mod claims;
mod labels;
mod pending;
mod place;
mod removed;
mod seats;
mod trees;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    attribution::{
        self, Owner, OwnerKind, Rank,
        pods::{PodTrees, names::Names},
    },
    exposition::OwnerLabels,
    host::{
        cgroup::{self, Cgroup, CgroupId, CgroupPath, Watch},
        deadline::Reads,
    },
};
use claims::Claims;
pub use labels::LabelSet;
use labels::Subject;
use pending::Waiting;
pub use pending::{PATIENCE, PodCgroups};
use place::Place;
pub use removed::MOST_REMOVED;
use removed::Removed;
use seats::Seats;
pub use seats::{Activity, MOST_ENDED};
use stallscope_ebpf::{GROUP_HOST, GROUP_UNKNOWN};

/// Index of an owner, which no other owner gets while the agent runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OwnerIndex(pub u32);

/// Destination of the counts of a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Account {
    /// This owner.
    Owner(OwnerIndex),
    /// The owner is not known yet: the ledger holds the counts back until it is.
    Pending,
}

/// Time for which an owner keeps its series after its last cgroup is gone, so that no scrape misses its last counts. If
/// more than [`MOST_ENDED`] owners have ended, some keep their series for less time.
pub const GRACE: Duration = Duration::from_secs(300);

/// Number of look-ups after which an unknown cgroup counts as removed.
const ASKS: u32 = 2;

/// All cgroups and owners, live and recently ended.
pub struct Owners {
    watch: Watch,
    names: Names,
    label_set: LabelSet,
    trees: PodTrees,
    /// Boxed, because a table under churn doubles once for the entries it has removed.
    members: HashMap<CgroupId, Box<Member>>,
    seats: Seats,
    claims: Claims,
    groups: HashMap<Arc<str>, Group>,
    /// Cgroups of pods whose pod's name or container's name is not known yet.
    unsettled: HashSet<CgroupId>,
    /// Live cgroups that are counted as [`Owners::OTHER`] until their owner gets a seat, in the order of getting one.
    standing: BTreeSet<(Rank, CgroupId)>,
    /// Removed cgroups, in the order of their removal.
    removed: Removed,
    /// Cgroups that the programs have counted and that are not found in the file system.
    unknown: HashMap<CgroupId, Unknown>,
    next_group: u32,
    folded: u64,
}

struct Member {
    place: Place,
    rank: Rank,
    group: u32,
    group_key: Arc<str>,
    path: CgroupPath,
    trusted: usize,
    removed: Option<Instant>,
    pod: Option<Waiting>,
    claim: Claimed,
}

/// State of a cgroup's claim to be a pod's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Claimed {
    /// It makes no such claim.
    No,
    /// It is the pod's.
    Granted,
    /// Another cgroup is the pod's.
    Refused,
}

/// Cgroups that belong together: waits of one for another are charged to `own`, not to `neighbour`.
struct Group {
    id: u32,
    members: usize,
}

/// A cgroup that is not found in the file system.
#[derive(Default)]
struct Unknown {
    /// Number of look-ups.
    asked: u32,
    /// True if it was looked up since the last [`Owners::expire`].
    lately: bool,
}

impl Owners {
    /// Sum of all counts beyond the capacity of the kernel's maps or the series budget.
    pub const OTHER: OwnerIndex = OwnerIndex(0);
    /// Sum of all that has ended: owners past their grace, and cgroups that were removed before the agent saw them.
    pub const REMOVED: OwnerIndex = OwnerIndex(1);
    /// Sum over pods that no source has named.
    pub const UNRESOLVED: OwnerIndex = OwnerIndex(2);
    /// Index of the first owner that is not a sum.
    const FIRST: u32 = 3;

    /// Follows the cgroups of a watched hierarchy, those in `trees` as pods. At most `budget` owners get series of
    /// their own.
    #[must_use]
    pub fn new(
        watch: Watch,
        names: Names,
        label_set: LabelSet,
        trees: PodTrees,
        budget: usize,
    ) -> Self {
        let sums = [
            (Self::OTHER, "(other)"),
            (Self::REMOVED, "(removed)"),
            (Self::UNRESOLVED, "(unresolved)"),
        ];
        let sums = sums.map(|(index, name)| (index, label_set.render(Subject::Sum(name))));
        Self {
            watch,
            names,
            label_set,
            trees,
            members: HashMap::new(),
            seats: Seats::new(budget, sums),
            claims: Claims::default(),
            groups: HashMap::new(),
            unsettled: HashSet::new(),
            standing: BTreeSet::new(),
            removed: Removed::default(),
            unknown: HashMap::new(),
            next_group: GROUP_HOST + 1,
            folded: 0,
        }
    }

    /// Starts the source of names.
    ///
    /// # Errors
    /// See [`Names::start`].
    pub fn start_names(&mut self, reads: &Reads, moment: Duration) -> anyhow::Result<()> {
        self.names.start(reads, moment)
    }

    /// Applies the changes of cgroups and names. Returns true when cgroups were removed. If there are more owners than
    /// the budget allows, owners are evicted by rank and `activity`: see [`Owners::evicted`].
    ///
    /// # Errors
    /// When the cgroup file system cannot be read.
    pub fn poll(&mut self, now: Instant, activity: Activity<'_>) -> Result<bool, cgroup::Error> {
        let changes = self.watch.poll()?;
        let gone = !changes.removed.is_empty();
        self.seats.look();
        let mut asking = HashSet::new();
        for id in changes.removed {
            asking.extend(self.remove(id, now));
        }
        for cgroup in changes.added {
            asking.extend(self.add(cgroup, now, activity));
        }
        self.settle_claims(asking, now, activity);
        self.settle(now, activity);
        self.seats.thin_out();
        if self.seats.freed() {
            self.seat_standing(now, activity);
        }
        self.place_evicted();
        Ok(gone)
    }

    /// Returns the owners evicted since the last call, each with the sum that its totals go to. Must be called after
    /// each [`Owners::poll`], before anything is counted.
    pub fn evicted(&mut self) -> Vec<(OwnerIndex, OwnerIndex)> {
        self.seats.evicted()
    }

    /// Marks a cgroup as removed. Returns the cgroups whose attribution may change by this.
    fn remove(&mut self, id: CgroupId, now: Instant) -> HashSet<CgroupId> {
        let Some(member) = self.members.get_mut(&id) else {
            return HashSet::new();
        };
        if member.removed.replace(now).is_some() {
            return HashSet::new();
        }
        self.removed.push(member.rank, now, id);
        self.standing.remove(&(member.rank, id));
        if let Place::At(owner) = member.place {
            self.seats.leave(owner, now);
        }
        if member.claim == Claimed::Granted {
            return self
                .claims
                .leave(&claims::key(&member.group_key, &member.path));
        }
        HashSet::new()
    }

    /// Adds a cgroup. Returns the cgroups whose attribution may change by this.
    fn add(&mut self, cgroup: Cgroup, now: Instant, activity: Activity<'_>) -> HashSet<CgroupId> {
        // A renamed cgroup is added again under its ID: its further counts have the new name.
        let mut asking = HashSet::new();
        if let Some(old) = self.members.remove(&cgroup.id) {
            self.leave_group(&old.group_key);
            self.unsettled.remove(&cgroup.id);
            self.standing.remove(&(old.rank, cgroup.id));
            if old.removed.is_none() {
                if let Place::At(owner) = old.place {
                    self.seats.leave(owner, now);
                }
                if old.claim == Claimed::Granted {
                    asking = self.claims.leave(&claims::key(&old.group_key, &old.path));
                    asking.remove(&cgroup.id);
                }
            }
        }
        let owner = attribution::attribute(&cgroup.path, cgroup.trusted, &self.trees);
        let (owner, claim) = self.claim(owner, &cgroup, &mut asking);
        let Cgroup {
            id, path, trusted, ..
        } = cgroup;
        let (group_key, group) = self.group(&owner);
        self.unknown.remove(&id);
        let pod = Waiting::for_name_of(&owner, now).filter(|_| self.names.expected());
        let member = Member {
            place: Place::Unnamed,
            rank: owner.rank,
            group,
            group_key,
            path,
            trusted,
            removed: None,
            pod,
            claim,
        };
        let waits = member.pod.is_some();
        self.members.insert(id, Box::new(member));
        if waits {
            self.unsettled.insert(id);
        } else {
            let labels = self.label_set.render(Subject::Cgroup(&owner));
            self.place(id, Some(labels), now, activity);
        }
        asking
    }

    fn group(&mut self, owner: &Owner) -> (Arc<str>, u32) {
        let known = self.groups.get_key_value(owner.group_key());
        let key = known.map_or_else(|| owner.group_key().into(), |(key, _)| Arc::clone(key));
        let next = &mut self.next_group;
        let group = self.groups.entry(Arc::clone(&key)).or_insert_with(|| {
            let id = if owner.is_host() { GROUP_HOST } else { *next };
            *next = next.wrapping_add(1).max(GROUP_HOST + 1);
            Group { id, members: 0 }
        });
        group.members += 1;
        (key, group.id)
    }

    fn leave_group(&mut self, key: &str) {
        if let Some(group) = self.groups.get_mut(key) {
            group.members -= 1;
            if group.members == 0 {
                self.groups.remove(key);
            }
        }
    }

    /// Returns the owners with series of their own, and their ranks.
    pub fn single(&self) -> impl Iterator<Item = (OwnerIndex, Rank)> {
        self.seats.seated()
    }

    /// Returns the group of a cgroup, by which the programs tell `own`, `neighbour` and `host` apart.
    #[must_use]
    pub fn group_of(&self, id: CgroupId) -> Option<u32> {
        self.members
            .get(&id)
            .map(|member| member.group)
            .filter(|group| *group != GROUP_UNKNOWN)
    }

    /// Drops owners and cgroups that ended at least [`GRACE`] ago, and returns them. The totals of the returned owners
    /// have to be folded into [`Owners::REMOVED`]. The cgroups include those that were never found in the file system
    /// and count as removed.
    pub fn expire(&mut self, now: Instant) -> (Vec<OwnerIndex>, Vec<CgroupId>) {
        self.names.expire(now);
        let owners = self.seats.expire(now);
        let mut cgroups = Vec::new();
        for (removed, id) in self.removed.expire(now) {
            // It may have been added again under its ID.
            let member = self.members.get(&id);
            if member.is_none_or(|member| member.removed != Some(removed)) {
                continue;
            }
            self.unsettled.remove(&id);
            if let Some(member) = self.members.remove(&id) {
                self.leave_group(&member.group_key);
            }
            cgroups.push(id);
        }
        let removed = self.unknown.iter().filter(|(_, each)| each.asked > ASKS);
        cgroups.extend(removed.map(|(id, _)| *id));
        self.unknown
            .retain(|_, each| std::mem::take(&mut each.lately));
        (owners, cgroups)
    }

    /// Returns whether too many removed cgroups are kept, so that [`Owners::expire`] is due.
    #[must_use]
    pub fn crowded(&self) -> bool {
        self.removed.crowded()
    }

    /// Returns the labels of an owner.
    #[must_use]
    pub fn labels(&self, index: OwnerIndex) -> Option<&OwnerLabels> {
        self.seats.labels(index)
    }

    /// Returns the labels of a cgroup's owner.
    #[must_use]
    pub fn labels_of(&self, id: CgroupId) -> Option<&OwnerLabels> {
        self.labels(self.members.get(&id)?.place.owner()?)
    }

    /// Returns the owner of a cgroup; none while its name is pending.
    #[must_use]
    pub fn owner_of(&self, id: CgroupId) -> Option<OwnerIndex> {
        self.members.get(&id)?.place.owner()
    }

    /// Returns the owners that belong to the host: its services and the root cgroup.
    #[must_use]
    pub fn of_host(&self) -> HashSet<OwnerIndex> {
        let members = self.members.values();
        let of_host = members.filter(|member| member.group == GROUP_HOST);
        of_host.filter_map(|member| member.place.owner()).collect()
    }

    /// Returns the live cgroups with their paths.
    pub fn cgroups(&self) -> impl Iterator<Item = (CgroupId, &CgroupPath)> {
        self.members
            .iter()
            .filter(|(_, m)| m.removed.is_none())
            .map(|(id, m)| (*id, &m.path))
    }

    /// Returns the live cgroups with their ranks.
    pub fn ranked(&self) -> impl Iterator<Item = (Rank, CgroupId)> {
        let live = self.members.iter().filter(|(_, m)| m.removed.is_none());
        live.map(|(id, member)| (member.rank, *id))
    }

    /// Returns the number of owners with series of their own, and its maximum.
    #[must_use]
    pub fn budget(&self) -> (usize, usize) {
        self.seats.used()
    }

    /// Returns the number of times that a cgroup was folded into [`Owners::OTHER`] because a budget was used up.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// Returns a descriptor that becomes readable when cgroups come or go; see [`Watch::as_fd`].
    #[must_use]
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_fd()
    }

    /// Returns the names of pods.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Returns the followed hierarchy.
    #[must_use]
    pub fn hierarchy(&self) -> &cgroup::Hierarchy {
        self.watch.hierarchy()
    }

    /// Returns the reason why cgroups are found by full scans, if they are.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.watch.fallback()
    }
}
