//! Facts that an answer takes from files: the agent's thread finds the files, another thread reads them.

use std::{path::PathBuf, sync::Arc};

use super::{outermost, root_of};
use crate::{
    agent::Agent,
    api::{Container, NotMeasured, Top},
    doctor::{Root, groups::Groups},
    explain::{Case, Facts, Limit, NodeFacts, Report},
    host::{cgroup::Mode, deadline::Late, topology::Topology},
};

/// Locations of the files of cgroups and of the node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Root directory in which the followed hierarchy is mounted; the rest of the host may be in another.
    cgroups: PathBuf,
    /// The host's root directory.
    node: PathBuf,
    unified: bool,
    topology: Arc<Topology>,
}

impl Agent {
    /// Returns the locations of an answer's files.
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

/// A ranking, and the cgroups of its first containers, whose files are not read yet.
#[derive(Debug)]
pub struct Ranking {
    /// The ranking without the facts that come from files.
    pub top: Top,
    /// The cgroups to read.
    pub unread: Unread,
}

/// Cgroups of containers, in the order of a ranking; none for a container that is gone.
#[derive(Clone, Debug)]
pub struct Unread {
    pub(super) place: Place,
    pub(super) paths: Vec<Option<Vec<String>>>,
}

impl Unread {
    /// Returns the first directory to be read.
    #[must_use]
    pub fn first(&self) -> String {
        self.place.cgroups.display().to_string()
    }

    /// Reads the facts of each container's cgroups; none for a container without facts.
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
    /// Adds the facts to the ranking.
    #[must_use]
    pub fn with(mut self, facts: Vec<Option<Facts>>) -> Top {
        for (container, facts) in self.top.containers.iter_mut().zip(facts) {
            if let Some(facts) = facts {
                add(container, facts);
            }
        }
        self.top
    }

    /// Returns the ranking without facts, and with the reason why they could not be read.
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

/// The recorded part of an explanation, to be completed with facts from files.
#[derive(Clone, Debug)]
pub struct Explaining {
    pub(super) place: Place,
    pub(super) case: Case,
    /// All cgroups of the subject.
    pub(super) paths: Vec<String>,
}

impl Explaining {
    /// Returns the first directory to be read.
    #[must_use]
    pub fn first(&self) -> String {
        self.place.cgroups.display().to_string()
    }

    /// Reads the present state of the cgroups and the node, and explains.
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
