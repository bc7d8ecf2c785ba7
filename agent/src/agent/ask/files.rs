//! What an answer takes from files: found on the agent's thread, read on another.

use std::{path::PathBuf, sync::Arc};

use super::{outermost, root_of};
use crate::{
    agent::Agent,
    api::{Container, NotMeasured, Top},
    cgroup::Mode,
    deadline::Late,
    doctor::{Root, groups::Groups},
    explain::{Case, Facts, Limit, NodeFacts, Report},
    topology::Topology,
};

/// Where the files of cgroups and of the node are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The root directory below which the hierarchy is mounted that is followed, which may not be where the rest of the
    /// host is.
    cgroups: PathBuf,
    /// The host's root directory.
    node: PathBuf,
    unified: bool,
    topology: Arc<Topology>,
}

impl Agent {
    /// Where an answer's files are.
    pub(super) fn place(&self) -> Place {
        let hierarchy = self.owners.hierarchy();
        Place {
            cgroups: root_of(hierarchy.mount())
                .unwrap_or(&self.config.root)
                .to_owned(),
            node: self.config.root.clone(),
            unified: hierarchy.mode() == Mode::V2,
            topology: Arc::clone(&self.topology),
        }
    }
}

impl Place {
    fn cgroup_files(&self) -> Option<(Root, Groups)> {
        let root = Root::open(&self.cgroups).ok()?;
        let groups = Groups::find(&root).ok()?;
        Some((root, groups))
    }
}

/// A ranking, and the cgroups of those at its head, whose files are yet to be read.
#[derive(Debug)]
pub struct Ranking {
    /// Without what the files say.
    pub top: Top,
    /// What to read.
    pub unread: Unread,
}

/// The cgroups of containers, in the order of a ranking; none of one that is gone.
#[derive(Clone, Debug)]
pub struct Unread {
    pub(super) place: Place,
    pub(super) paths: Vec<Option<Vec<String>>>,
}

impl Unread {
    /// The first directory that is read.
    #[must_use]
    pub fn first(&self) -> String {
        self.place.cgroups.display().to_string()
    }

    /// Reads what the cgroups say: of each one none where they say nothing.
    #[must_use]
    pub fn read(&self) -> Vec<Option<Facts>> {
        let Some((root, groups)) = self.place.cgroup_files() else {
            return Vec::new();
        };
        let facts = self.paths.iter().map(|paths| {
            let paths = paths.as_ref()?;
            Some(Facts::of_many(&root, &groups, &outermost(paths), paths))
        });
        facts.collect()
    }
}

impl Ranking {
    /// With what was read.
    #[must_use]
    pub fn with(mut self, facts: Vec<Option<Facts>>) -> Top {
        for (container, facts) in self.top.containers.iter_mut().zip(facts) {
            if let Some(facts) = facts {
                add(container, facts);
            }
        }
        self.top
    }

    /// Without what could not be read, which is said.
    #[must_use]
    pub fn without(mut self, why: &Late) -> Top {
        self.top.not_measured.push(NotMeasured {
            what: "threads, limits and memory of containers".to_owned(),
            reason: why.to_string(),
        });
        self.top
    }
}

fn add(container: &mut Container, facts: Facts) {
    container.memory_by_node = facts.memory_by_node;
    container.threads = facts.threads;
    container.cpu_limit = facts.quotas.first().map(Limit::cpus);
}

/// What is recorded of a window, to be explained with what the files say.
#[derive(Clone, Debug)]
pub struct Explaining {
    pub(super) place: Place,
    pub(super) case: Case,
    /// Every cgroup of the subject.
    pub(super) paths: Vec<String>,
}

impl Explaining {
    /// The first directory that is read.
    #[must_use]
    pub fn first(&self) -> String {
        self.place.cgroups.display().to_string()
    }

    /// Reads what cgroups and node say at this moment, and explains.
    #[must_use]
    pub fn read(mut self) -> Report {
        if let Some((root, groups)) = self.place.cgroup_files() {
            let cgroups = &self.case.subject.cgroups;
            self.case.facts = Facts::read(&root, &groups, cgroups, &self.paths);
        }
        if let Ok(root) = Root::open(&self.place.node) {
            self.case.node = NodeFacts::read(&root, self.place.unified, &self.place.topology);
        }
        self.case.explain()
    }
}
