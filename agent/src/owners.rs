//! Who there is: the cgroups of this host, the owners they belong to, and when those have ended.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    attribution::{self, Owner},
    cgroup::{self, Cgroup, CgroupId, CgroupPath, Watch},
    exposition::OwnerLabels,
    ledger::Account,
};
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
    members: HashMap<CgroupId, Member>,
    entries: HashMap<OwnerIndex, Entry>,
    by_label: HashMap<String, OwnerIndex>,
    groups: HashMap<String, u32>,
    /// Cgroups that programs saw and the file system did not show, with the times they were asked for.
    unknown: HashMap<CgroupId, u32>,
    next: u32,
    next_group: u32,
    budget: usize,
    folded: u64,
}

struct Member {
    owner: OwnerIndex,
    group: u32,
    path: CgroupPath,
    removed: Option<Instant>,
}

struct Entry {
    labels: OwnerLabels,
    owner: Option<Owner>,
    live: usize,
    ended: Option<Instant>,
}

impl Owners {
    /// What lies beyond the capacity of the kernel's maps or the series budget.
    pub const OTHER: OwnerIndex = OwnerIndex(0);
    /// What has ended: owners past their grace, and cgroups that came and went unnamed.
    pub const REMOVED: OwnerIndex = OwnerIndex(1);

    /// Follows the cgroups of a watched hierarchy; at most `budget` owners get series of their own.
    #[must_use]
    pub fn new(watch: Watch, budget: usize) -> Self {
        let bucket = |name| Entry {
            labels: OwnerLabels::new("", "", "", name),
            owner: None,
            live: 1,
            ended: None,
        };
        Self {
            watch,
            members: HashMap::new(),
            entries: HashMap::from([
                (Self::OTHER, bucket("(other)")),
                (Self::REMOVED, bucket("(removed)")),
            ]),
            by_label: HashMap::new(),
            groups: HashMap::new(),
            unknown: HashMap::new(),
            next: 2,
            next_group: GROUP_HOST + 1,
            budget,
            folded: 0,
        }
    }

    /// Takes in the cgroups that came and went.
    ///
    /// # Errors
    /// When the cgroup file system cannot be read.
    pub fn poll(&mut self, now: Instant) -> Result<(), cgroup::Error> {
        let changes = self.watch.poll()?;
        for id in changes.removed {
            self.remove(id, now);
        }
        for cgroup in changes.added {
            self.add(cgroup);
        }
        Ok(())
    }

    fn remove(&mut self, id: CgroupId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.removed.replace(now).is_some() {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&member.owner) {
            entry.live = entry.live.saturating_sub(1);
            if entry.live == 0 {
                entry.ended = Some(now);
            }
        }
    }

    fn add(&mut self, cgroup: Cgroup) {
        let owner = attribution::attribute(&cgroup.path);
        let group = self.group(&owner);
        let index = self.index(owner);
        if let Some(entry) = self.entries.get_mut(&index) {
            entry.live += 1;
            entry.ended = None;
        }
        self.unknown.remove(&cgroup.id);
        let member = Member {
            owner: index,
            group,
            path: cgroup.path,
            removed: None,
        };
        // A renamed cgroup comes again under its id: what it counts from now on has the new name.
        if let Some(old) = self.members.insert(cgroup.id, member)
            && old.removed.is_none()
            && let Some(entry) = self.entries.get_mut(&old.owner)
        {
            entry.live = entry.live.saturating_sub(1);
            if entry.live == 0 && old.owner != index {
                entry.ended = Some(Instant::now());
            }
        }
    }

    fn group(&mut self, owner: &Owner) -> u32 {
        if owner.is_host() {
            return GROUP_HOST;
        }
        if let Some(group) = self.groups.get(owner.group_key()) {
            return *group;
        }
        let group = self.next_group;
        self.next_group = self.next_group.wrapping_add(1).max(GROUP_HOST + 1);
        self.groups.insert(owner.group_key().to_owned(), group);
        group
    }

    fn index(&mut self, owner: Owner) -> OwnerIndex {
        if let Some(index) = self.by_label.get(&owner.cgroup) {
            return *index;
        }
        if self.by_label.len() >= self.budget {
            self.folded += 1;
            return Self::OTHER;
        }
        let index = OwnerIndex(self.next);
        self.next += 1;
        self.by_label.insert(owner.cgroup.clone(), index);
        let labels = OwnerLabels::new("", "", "", &owner.cgroup);
        self.entries.insert(
            index,
            Entry {
                labels,
                owner: Some(owner),
                live: 0,
                ended: None,
            },
        );
        index
    }

    /// Where the counts of a cgroup go. One that the file system does not show is asked for once
    /// more, because it may be newer than the last poll.
    pub fn account(&mut self, id: CgroupId) -> Account {
        if id.0 == 0 {
            return Account::Owner(Self::OTHER);
        }
        if let Some(member) = self.members.get(&id) {
            return Account::Owner(member.owner);
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
            if let Some(owner) = self.entries.remove(index).and_then(|entry| entry.owner) {
                self.by_label.remove(&owner.cgroup);
                // A pod's containers share a group, which stays until the last of them is gone.
                let mut others = self
                    .entries
                    .values()
                    .filter_map(|entry| entry.owner.as_ref());
                if !others.any(|other| other.group_key() == owner.group_key()) {
                    self.groups.remove(owner.group_key());
                }
            }
        }
        let mut cgroups: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| over(m.removed))
            .map(|(id, _)| *id)
            .collect();
        for id in &cgroups {
            self.members.remove(id);
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
        self.labels(self.members.get(&id)?.owner)
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
