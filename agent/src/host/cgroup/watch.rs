//! Tracking of cgroups as they appear and vanish.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::walk::{self, Keeper, children, is_gone, is_hidden};
use super::{Cgroup, CgroupId, Error, Hierarchy};

/// Changes since the previous poll. Apply `removed` first, then `added`.
#[derive(Debug, Default)]
pub struct Changes {
    /// New cgroups, parents first. A cgroup to which v1's `rename` gave another path is here under the id it had.
    pub added: Vec<Cgroup>,
    /// Cgroups that are gone.
    pub removed: Vec<CgroupId>,
}

impl Changes {
    /// Returns whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// Tracks a hierarchy's cgroups by inotify(7) on each directory.
///
/// Making and removing a cgroup are `mkdir` and `rmdir`, which pass through the VFS and so raise events on cgroup file
/// systems as on any other. An event only says where to look: the watch reads that directory again and compares, so the
/// order of events, their loss, and a cgroup that appears and vanishes between two polls need no special care.
///
/// Once the user's inotify limits are exhausted, every poll is a full scan: see [`Watch::fallback`].
#[derive(Debug)]
pub struct Watch {
    hierarchy: Hierarchy,
    root: CgroupId,
    keeper: Keeper,
    known: HashMap<CgroupId, Known>,
    /// None in fallback.
    inotify: Option<OwnedFd>,
    /// Watched cgroups by watch descriptor.
    directories: HashMap<i32, CgroupId>,
    /// Directories to read again, by depth: if an ancestor was replaced or renamed, reading the ancestor first corrects
    /// the path.
    stale: BTreeSet<(usize, CgroupId)>,
    added: HashSet<CgroupId>,
    removed: HashSet<CgroupId>,
    fallback: Option<String>,
}

#[derive(Debug)]
struct Known {
    cgroup: Cgroup,
    children: Vec<CgroupId>,
    watch: Option<i32>,
}

impl Watch {
    /// Starts to watch. The first [`poll`](Self::poll) reports every existing cgroup, the root included.
    ///
    /// # Errors
    /// When the hierarchy's root cannot be read.
    pub fn new(hierarchy: Hierarchy) -> Result<Self, Error> {
        let root = walk::root_id(hierarchy.mount())?;
        let keeper = Keeper::of(hierarchy.mount())?;
        let mut watch = Self {
            hierarchy,
            root,
            keeper,
            known: HashMap::new(),
            inotify: None,
            directories: HashMap::new(),
            stale: BTreeSet::new(),
            added: HashSet::new(),
            removed: HashSet::new(),
            fallback: None,
        };
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(fd) => watch.inotify = Some(fd),
            Err(error) => watch.fall_back(error),
        }
        watch.add(walk::root(root));
        watch.refresh()?;
        Ok(watch)
    }

    /// Returns the changes since the previous poll, without waiting.
    ///
    /// # Errors
    /// When the hierarchy's root can no longer be read. What is known stays, and a later poll tries again.
    pub fn poll(&mut self) -> Result<Changes, Error> {
        self.read_events();
        if self.inotify.is_none() {
            self.mark_all();
        }
        self.refresh()?;

        let mut added: Vec<Cgroup> = self
            .added
            .drain()
            .filter_map(|id| Some(self.known.get(&id)?.cgroup.clone()))
            .collect();
        // A path sorts after every prefix of it.
        added.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let removed = self
            .removed
            .drain()
            .filter(|id| !self.known.contains_key(id))
            .collect();
        Ok(Changes { added, removed })
    }

    /// Returns the descriptor that becomes readable when there are changes; none in fallback.
    ///
    /// For `tokio::io::unix::AsyncFd`, register a duplicate (`try_clone_to_owned`), poll when it is readable, then
    /// clear its readiness. A poll may end in fallback: once this returns none, drop the duplicate, which keeps the
    /// watches alive, and poll at intervals.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Returns the reason for fallback and its remedy, if every poll is a full scan with nothing to wait on.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Returns the watched hierarchy.
    #[must_use]
    pub const fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Marks the directories that had events.
    fn read_events(&mut self) {
        let Some(fd) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(fd, &mut buffer);
        let (mut touched, mut overflow) = (Vec::new(), false);
        let failed = loop {
            match events.next() {
                Ok(event) => {
                    overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    touched.push((event.wd(), event.events().contains(ReadFlags::IGNORED)));
                }
                Err(Errno::INTR) => {}
                Err(error) => break error,
            }
        };
        for (watch, ended) in touched {
            let Some(&id) = self.directories.get(&watch) else {
                continue;
            };
            self.mark(id);
            if ended {
                self.directories.remove(&watch);
                let Some(known) = self.known.get_mut(&id) else {
                    continue;
                };
                known.watch = None;
                // The directory is gone, or another has taken its place: reading the parent tells.
                if let Some(parent) = known.cgroup.parent {
                    self.mark(parent);
                }
            }
        }
        if overflow {
            self.mark_all();
        }
        if failed != Errno::AGAIN {
            self.fall_back(failed);
        }
    }

    /// Marks a directory as stale.
    fn mark(&mut self, id: CgroupId) {
        if let Some(known) = self.known.get(&id) {
            self.stale
                .insert((known.cgroup.path.components().count(), id));
        }
    }

    fn mark_all(&mut self) {
        let all = self
            .known
            .values()
            .map(|known| (known.cgroup.path.components().count(), known.cgroup.id));
        self.stale.extend(all);
    }

    /// Reads stale directories again until there are none.
    fn refresh(&mut self) -> Result<(), Error> {
        while let Some((_, id)) = self.stale.pop_first() {
            let Some(known) = self.known.get(&id) else {
                continue;
            };
            let cgroup = known.cgroup.clone();
            let dir = cgroup.path.below(self.hierarchy.mount());
            // The watch comes before the reading, so a cgroup made in between shows up in the events, the listing or
            // both.
            self.place_watch(id);
            let (listed, kept) = match children(&dir, self.keeper) {
                Ok(listed) => listed,
                Err(error) if id != self.root && (is_gone(&error) || is_hidden(&error)) => {
                    (Vec::new(), false)
                }
                Err(error) => {
                    self.mark(id);
                    return Err(Error::cgroupfs(&dir, error));
                }
            };
            let ids: Vec<CgroupId> = listed.iter().map(|child| child.id).collect();
            let Some(known) = self.known.get_mut(&id) else {
                continue;
            };
            let before = std::mem::replace(&mut known.children, ids);
            let listed: HashMap<CgroupId, Cgroup> = listed
                .into_iter()
                .map(|child| (child.id, cgroup.child(child.id, &child.name, kept)))
                .collect();
            for child in before
                .into_iter()
                .filter(|child| !listed.contains_key(child))
            {
                self.remove(child, id);
            }
            for (child, cgroup) in listed {
                match self.known.get(&child) {
                    Some(known) if known.cgroup.path == cgroup.path && known.watch.is_some() => {}
                    // The child has no watch: it ended because another directory took the same number (not on cgroup
                    // file systems), or the agent could place none. Either way only reading the child tells.
                    Some(known) if known.cgroup.path == cgroup.path => self.mark(child),
                    Some(known) => {
                        let parent = known.cgroup.parent.unwrap_or(self.root);
                        self.remove(child, parent);
                        self.add(cgroup);
                    }
                    None => self.add(cgroup),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, cgroup: Cgroup) {
        let id = cgroup.id;
        self.added.insert(id);
        self.known.insert(
            id,
            Known {
                cgroup,
                children: Vec::new(),
                watch: None,
            },
        );
        self.mark(id);
    }

    /// Forgets a cgroup and its descendants if `parent` is still its parent: a moved cgroup may have been seen at its
    /// new place first.
    fn remove(&mut self, id: CgroupId, parent: CgroupId) {
        let mut doomed = vec![(id, parent)];
        while let Some((id, parent)) = doomed.pop() {
            if self
                .known
                .get(&id)
                .is_none_or(|known| known.cgroup.parent != Some(parent))
            {
                continue;
            }
            let Some(known) = self.known.remove(&id) else {
                continue;
            };
            doomed.extend(known.children.into_iter().map(|child| (child, id)));
            if let Some(watch) = known.watch {
                self.directories.remove(&watch);
                if let Some(fd) = &self.inotify {
                    // This fails if the directory is gone, in which case the kernel has ended the watch itself.
                    let _ = inotify::remove_watch(fd, watch);
                }
            }
            // No poll has reported a cgroup that appeared and vanished between two polls.
            if !self.added.remove(&id) {
                self.removed.insert(id);
            }
        }
    }

    fn place_watch(&mut self, id: CgroupId) {
        let (Some(fd), Some(known)) = (&self.inotify, self.known.get_mut(&id)) else {
            return;
        };
        if known.watch.is_some() {
            return;
        }
        let events =
            WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        match inotify::add_watch(fd, known.cgroup.path.below(self.hierarchy.mount()), events) {
            Ok(watch) => {
                known.watch = Some(watch);
                self.directories.insert(watch, id);
            }
            Err(error) => {
                let error_io = io::Error::from(error);
                if !is_gone(&error_io) && !is_hidden(&error_io) {
                    self.fall_back(error);
                }
            }
        }
    }

    /// Switches to full scans and closes inotify, which frees the watches.
    fn fall_back(&mut self, error: Errno) {
        let (cause, remedy) = match error {
            Errno::NOSPC => (
                "fs.inotify.max_user_watches is used up",
                "raise it with sysctl",
            ),
            Errno::MFILE => (
                "fs.inotify.max_user_instances or the limit of open files is used up",
                "raise it",
            ),
            Errno::NOSYS => (
                "this kernel has no inotify",
                "nothing can be done but to build it in",
            ),
            _ => ("inotify failed", "check the system's log"),
        };
        self.fallback = Some(format!(
            "cgroups are found by scanning {}: {cause} ({}); {remedy} and restart stallscope",
            self.hierarchy.mount().display(),
            io::Error::from(error)
        ));
        self.inotify = None;
        self.directories.clear();
        for known in self.known.values_mut() {
            known.watch = None;
        }
        self.mark_all();
    }
}

#[cfg(test)]
mod tests;
