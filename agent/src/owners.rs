//! Who there is: the cgroups of this host, the owners they belong to, and when those have ended.

mod labels;
mod pending;

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    attribution::{self, Owner, OwnerKind},
    cgroup::{self, Cgroup, CgroupId, CgroupPath, Watch},
    deadline::Reads,
    exposition::OwnerLabels,
    ledger::Account,
    pods::names::Names,
};
pub use labels::LabelSet;
use labels::Subject;
use pending::Waiting;
pub use pending::{PATIENCE, PodCgroups};
use stallscope_ebpf::{GROUP_HOST, GROUP_UNKNOWN};

/// Names an owner for as long as the agent runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OwnerIndex(pub u32);

/// How long an owner keeps its series after its last cgroup is gone, so that the last scrape of it
/// is not missed.
pub const GRACE: Duration = Duration::from_secs(300);

/// How often a cgroup is asked for before it is taken for removed.
const ASKS: u32 = 2;

/// All owners, live and recently ended.
pub struct Owners {
    watch: Watch,
    names: Names,
    label_set: LabelSet,
    members: HashMap<CgroupId, Member>,
    entries: HashMap<OwnerIndex, Entry>,
    by_label: HashMap<OwnerLabels, OwnerIndex>,
    groups: HashMap<Arc<str>, Group>,
    /// Cgroups of pods whose name, or container's name, is not known.
    unsettled: HashSet<CgroupId>,
    /// Cgroups that programs saw and the file system did not show, with the times they were asked for.
    unknown: HashMap<CgroupId, u32>,
    next: u32,
    next_group: u32,
    budget: usize,
    folded: u64,
}

struct Member {
    /// None while a name is waited for.
    owner: Option<OwnerIndex>,
    group: u32,
    group_key: Arc<str>,
    path: CgroupPath,
    removed: Option<Instant>,
    pod: Option<Waiting>,
}

struct Entry {
    labels: OwnerLabels,
    live: usize,
    ended: Option<Instant>,
}

/// Cgroups that are one another's own rather than neighbours.
struct Group {
    id: u32,
    members: usize,
}

impl Owners {
    /// What lies beyond the capacity of the kernel's maps or the series budget.
    pub const OTHER: OwnerIndex = OwnerIndex(0);
    /// What has ended: owners past their grace, and cgroups that came and went unnamed.
    pub const REMOVED: OwnerIndex = OwnerIndex(1);
    /// What pods did that no source has named.
    pub const UNRESOLVED: OwnerIndex = OwnerIndex(2);
    /// The first that is no sum.
    const FIRST: u32 = 3;

    /// Follows the cgroups of a watched hierarchy; at most `budget` owners get series of their own.
    #[must_use]
    pub fn new(watch: Watch, names: Names, label_set: LabelSet, budget: usize) -> Self {
        let sums = [
            (Self::OTHER, "(other)"),
            (Self::REMOVED, "(removed)"),
            (Self::UNRESOLVED, "(unresolved)"),
        ];
        let entries = sums.map(|(index, name)| {
            let entry = Entry {
                labels: label_set.render(Subject::Sum(name)),
                live: 1,
                ended: None,
            };
            (index, entry)
        });
        Self {
            watch,
            names,
            label_set,
            members: HashMap::new(),
            entries: entries.into(),
            by_label: HashMap::new(),
            groups: HashMap::new(),
            unsettled: HashSet::new(),
            unknown: HashMap::new(),
            next: Self::FIRST,
            next_group: GROUP_HOST + 1,
            budget,
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

    /// Takes in the cgroups that came and went, and names that became known. True when some went.
    ///
    /// # Errors
    /// When the cgroup file system cannot be read.
    pub fn poll(&mut self, now: Instant) -> Result<bool, cgroup::Error> {
        let changes = self.watch.poll()?;
        let gone = !changes.removed.is_empty();
        for id in changes.removed {
            self.remove(id, now);
        }
        for cgroup in changes.added {
            self.add(cgroup, now);
        }
        self.settle(now);
        Ok(gone)
    }

    fn remove(&mut self, id: CgroupId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.removed.replace(now).is_none()
            && let Some(owner) = member.owner
        {
            self.leave(owner, now);
        }
    }

    /// One cgroup less counts for an owner. Sums never end.
    fn leave(&mut self, owner: OwnerIndex, now: Instant) {
        if owner.0 < Self::FIRST {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&owner) {
            entry.live = entry.live.saturating_sub(1);
            if entry.live == 0 {
                entry.ended = Some(now);
            }
        }
    }

    /// One cgroup more counts for an owner; one that is `removed` already keeps it from expiring for as long as if it
    /// had belonged to it from the start.
    fn join(&mut self, owner: OwnerIndex, removed: Option<Instant>) {
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

    fn add(&mut self, cgroup: Cgroup, now: Instant) {
        let Cgroup { id, path, .. } = cgroup;
        let owner = attribution::attribute(&path);
        let (group_key, group) = self.group(&owner);
        self.unknown.remove(&id);
        let pod = Waiting::for_name_of(&owner, now).filter(|_| self.names.expected());
        let owner = if pod.is_some() {
            self.unsettled.insert(id);
            None
        } else {
            let labels = self.label_set.render(Subject::Cgroup(&owner));
            Some(self.index(labels))
        };
        if let Some(owner) = owner {
            self.join(owner, None);
        }
        let member = Member {
            owner,
            group,
            group_key,
            path,
            removed: None,
            pod,
        };
        // A renamed cgroup comes again under its id: what it counts from now on has the new name.
        if let Some(old) = self.members.insert(id, member) {
            self.leave_group(&old.group_key);
            if let (None, Some(owner)) = (old.removed, old.owner) {
                self.leave(owner, now);
            }
        }
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

    /// The owner with these labels, new if there is none; beyond the budget [`Owners::OTHER`].
    fn index(&mut self, labels: OwnerLabels) -> OwnerIndex {
        if let Some(index) = self.by_label.get(&labels) {
            return *index;
        }
        if self.by_label.len() >= self.budget {
            self.folded += 1;
            return Self::OTHER;
        }
        let index = OwnerIndex(self.next);
        self.next += 1;
        self.by_label.insert(labels.clone(), index);
        self.entries.insert(
            index,
            Entry {
                labels,
                live: 0,
                ended: None,
            },
        );
        index
    }

    /// Takes their series from these owners: what their cgroups counted and will count belongs to [`Owners::OTHER`].
    pub fn fold(&mut self, owners: &HashSet<OwnerIndex>) {
        for index in owners {
            if let Some(entry) = self.entries.remove(index) {
                self.by_label.remove(&entry.labels);
            }
        }
        for member in self.members.values_mut() {
            if member.owner.is_some_and(|owner| owners.contains(&owner)) {
                member.owner = Some(Self::OTHER);
                self.folded += 1;
            }
        }
    }

    /// The owners that have series of their own.
    pub fn single(&self) -> impl Iterator<Item = OwnerIndex> {
        self.by_label.values().copied()
    }

    /// Where the counts of a cgroup go. One that the file system does not show is asked for once
    /// more, because it may be newer than the last poll.
    pub fn account(&mut self, id: CgroupId) -> Account {
        if id.0 == 0 {
            return Account::Owner(Self::OTHER);
        }
        if let Some(member) = self.members.get(&id) {
            return member.owner.map_or(Account::Pending, Account::Owner);
        }
        let asked = self.unknown.entry(id).or_default();
        *asked += 1;
        if *asked > ASKS {
            Account::Owner(Self::REMOVED)
        } else {
            Account::Pending
        }
    }

    /// The group of a cgroup, for the programs to tell own from neighbour from host.
    #[must_use]
    pub fn group_of(&self, id: CgroupId) -> Option<u32> {
        self.members
            .get(&id)
            .map(|member| member.group)
            .filter(|group| *group != GROUP_UNKNOWN)
    }

    /// Drops what ended longer than [`GRACE`] ago: the owners whose totals are to be folded into
    /// [`Owners::REMOVED`], and the cgroups; among these those that were never seen in the file system
    /// and are counted as removed.
    pub fn expire(&mut self, now: Instant) -> (Vec<OwnerIndex>, Vec<CgroupId>) {
        self.names.expire(now);
        let over = |ended: Option<Instant>| {
            ended.is_some_and(|ended| now.saturating_duration_since(ended) >= GRACE)
        };
        let owners: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| over(e.ended))
            .map(|(index, _)| *index)
            .collect();
        for index in &owners {
            if let Some(entry) = self.entries.remove(index) {
                self.by_label.remove(&entry.labels);
            }
        }
        let mut cgroups: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| over(m.removed))
            .map(|(id, _)| *id)
            .collect();
        for id in &cgroups {
            self.unsettled.remove(id);
            if let Some(member) = self.members.remove(id) {
                self.leave_group(&member.group_key);
            }
        }
        let removed = self.unknown.iter().filter(|(_, asked)| **asked > ASKS);
        cgroups.extend(removed.map(|(id, _)| *id));
        // Those that nobody asks for any more grow old as well.
        self.unknown.retain(|_, asked| {
            *asked += ASKS;
            *asked < 1000
        });
        (owners, cgroups)
    }

    /// The labels of an owner.
    #[must_use]
    pub fn labels(&self, index: OwnerIndex) -> Option<&OwnerLabels> {
        self.entries.get(&index).map(|entry| &entry.labels)
    }

    /// The labels of the owner of a cgroup.
    #[must_use]
    pub fn labels_of(&self, id: CgroupId) -> Option<&OwnerLabels> {
        self.labels(self.members.get(&id)?.owner?)
    }

    /// The owner of a cgroup; none while its name is waited for.
    #[must_use]
    pub fn owner_of(&self, id: CgroupId) -> Option<OwnerIndex> {
        self.members.get(&id)?.owner
    }

    /// The owners that belong to the host: its services, and what nobody put elsewhere.
    #[must_use]
    pub fn of_host(&self) -> HashSet<OwnerIndex> {
        let members = self.members.values();
        let of_host = members.filter(|member| member.group == GROUP_HOST);
        of_host.filter_map(|member| member.owner).collect()
    }

    /// Live cgroups with their paths.
    pub fn cgroups(&self) -> impl Iterator<Item = (CgroupId, &CgroupPath)> {
        self.members
            .iter()
            .filter(|(_, m)| m.removed.is_none())
            .map(|(id, m)| (*id, &m.path))
    }

    /// Owners with series of their own, and the most there may be.
    #[must_use]
    pub fn budget(&self) -> (usize, usize) {
        (self.by_label.len(), self.budget)
    }

    /// Cgroups that were folded into [`Owners::OTHER`] because the budget was used up.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// Becomes readable when cgroups come or go; see [`Watch::as_fd`].
    #[must_use]
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_fd()
    }

    /// The names of pods.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The hierarchy that is followed.
    #[must_use]
    pub fn hierarchy(&self) -> &cgroup::Hierarchy {
        self.watch.hierarchy()
    }

    /// Why cgroups are found by full scans, if they are.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.watch.fallback()
    }
}
