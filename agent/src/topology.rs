//! The shape of the host: which CPUs share a core, a cluster, a last-level cache, a die, a NUMA node or a package,
//! how far the nodes are from each other, and how each of those facts is known.
//!
//! Read from `/sys/devices/system/{cpu,node}` (Documentation/ABI/stable/sysfs-devices-system-cpu and
//! sysfs-devices-node). What the kernel does not state is absent, with a reason, and never inferred from something
//! that usually goes along with it: ARM hosts leave out dies and cache ids, and a migration counted against a guessed
//! boundary would be a wrong number that looks like a right one.

mod cpu_list;
mod levels;
mod metrics;
mod read;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use cpu_list::{CpuList, ListError};
pub use metrics::METRICS;

/// The highest CPU id accepted: `CONFIG_NR_CPUS` goes no further than 8192 on either architecture.
pub const MAX_CPU: u32 = 8191;

/// The highest NUMA node id accepted: `CONFIG_NODES_SHIFT` goes no further than 10.
pub const MAX_NODE: u32 = 1023;

/// The host's shape at the moment it was read; CPUs that come online later need another [`Topology::read`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Topology {
    cpus: Cpus,
    smt_active: Option<bool>,
    nodes: Vec<Node>,
    levels: Vec<Level>,
    notes: Vec<String>,
    // The same facts as `levels`, by CPU: left out of the JSON form, where they would be said twice.
    #[serde(skip)]
    places: Vec<CpuPlace>,
}

/// The CPU sets of `/sys/devices/system/cpu/{possible,present,online}`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Cpus {
    /// CPUs the kernel has room for: every per-CPU map has a slot for each.
    pub possible: CpuList,
    /// CPUs that exist, online or not.
    pub present: CpuList,
    /// CPUs that run tasks. Only these have topology files.
    pub online: CpuList,
    /// CPUs that exist but run nothing: present and not online.
    pub offline: CpuList,
}

/// One NUMA node, from `/sys/devices/system/node/node*`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Node {
    /// The kernel's own number, as in page flags and `numactl`; numbering can have holes.
    pub id: u32,
    /// Online CPUs of the node, from `cpulist`; empty for a memory-only node (CXL, HBM).
    pub cpus: CpuList,
    /// `MemTotal` of the node's `meminfo`, in bytes, when it was read; zero for a node with CPUs only.
    pub memory_bytes: Option<u64>,
    /// SLIT distance to each online node, by its number, from `distance`: 10 is local.
    pub distances: BTreeMap<u32, u32>,
}

/// A boundary a task can cross when it moves from one CPU to another, nearest first.
///
/// The order is the order of what is asked, package first, and not a claim that each level lies inside the next: nodes
/// lie inside a die with sub-NUMA clustering, and dies inside a node on other hosts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[repr(u8)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// None that the host reports: the same CPU, or an SMT sibling.
    None = 0,
    /// Another core of the same cluster, LLC, die, node and package.
    Core = 1,
    /// Another cluster of cores, as the firmware tables (PPTT) or a shared L2 define it.
    Cluster = 2,
    /// Another last-level cache.
    Llc = 3,
    /// Another die.
    Die = 4,
    /// Another NUMA node.
    Node = 5,
    /// Another package.
    Package = 6,
}

impl Boundary {
    /// Every boundary, nearest first; the index is the discriminant.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Core,
        Self::Cluster,
        Self::Llc,
        Self::Die,
        Self::Node,
        Self::Package,
    ];

    /// The word for label values and text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Core => "core",
            Self::Cluster => "cluster",
            Self::Llc => "llc",
            Self::Die => "die",
            Self::Node => "node",
            Self::Package => "package",
        }
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a level is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The kernel states it: an id or list of the `topology` folder, a cache `id`, a node's `cpulist`.
    Sysfs,
    /// Caches without usable ids, told apart by which CPUs share them.
    SharedCpuList,
    /// Nobody reports it.
    None,
}

impl Source {
    /// The word for label values and text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::SharedCpuList => "shared_cpu_list",
            Self::None => "none",
        }
    }
}

/// One level of the topology: its groups of CPUs, or why there are none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Level {
    /// The boundary crossed by going from one of its groups to another; never [`Boundary::None`].
    #[serde(rename = "level")]
    pub boundary: Boundary,
    /// How it is known.
    pub source: Source,
    /// Why it is absent, in one sentence; `None` for a reported level.
    pub reason: Option<String>,
    /// Its groups of online CPUs by lowest CPU, or by number for nodes. Empty when absent, save for the one assumed
    /// node of a kernel without NUMA.
    pub groups: Vec<Group>,
}

/// CPUs that share a core, cluster, LLC, die, node or package.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Group {
    /// Dense and unique on the host, counted from 0 by lowest CPU; for a node, the kernel's number.
    pub id: u16,
    /// The number the kernel or firmware gives it: arbitrary, and for dies and clusters unique only within a package.
    pub sysfs_id: Option<i64>,
    /// Its online CPUs.
    pub cpus: CpuList,
}

/// Where one CPU is, in the form the kernel side compares: two ids that are both reported and differ are a boundary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct CpuPlace {
    /// The kernel's node number, so that it can be compared with a page's node.
    pub node: u16,
    /// Dense package id.
    pub package: u16,
    /// Dense die id.
    pub die: u16,
    /// Dense last-level cache id.
    pub llc: u16,
    /// Dense cluster id.
    pub cluster: u16,
    /// Dense core id.
    pub core: u16,
}

impl CpuPlace {
    /// The id of a level that is not reported for this CPU.
    pub const UNREPORTED: u16 = u16::MAX;

    /// A CPU of which nothing is known: offline, or not possible.
    pub const UNKNOWN: Self = Self {
        node: Self::UNREPORTED,
        package: Self::UNREPORTED,
        die: Self::UNREPORTED,
        llc: Self::UNREPORTED,
        cluster: Self::UNREPORTED,
        core: Self::UNREPORTED,
    };

    /// The farthest boundary between two places; levels that either lacks are skipped.
    #[must_use]
    pub const fn boundary(self, other: Self) -> Boundary {
        const fn crossed(from: u16, to: u16) -> bool {
            from != to && from != CpuPlace::UNREPORTED && to != CpuPlace::UNREPORTED
        }
        if crossed(self.package, other.package) {
            Boundary::Package
        } else if crossed(self.node, other.node) {
            Boundary::Node
        } else if crossed(self.die, other.die) {
            Boundary::Die
        } else if crossed(self.llc, other.llc) {
            Boundary::Llc
        } else if crossed(self.cluster, other.cluster) {
            Boundary::Cluster
        } else if crossed(self.core, other.core) {
            Boundary::Core
        } else {
            Boundary::None
        }
    }

    /// The id at one level, if it is reported.
    #[must_use]
    pub fn id(self, level: Boundary) -> Option<u16> {
        let id = match level {
            Boundary::None => Self::UNREPORTED,
            Boundary::Core => self.core,
            Boundary::Cluster => self.cluster,
            Boundary::Llc => self.llc,
            Boundary::Die => self.die,
            Boundary::Node => self.node,
            Boundary::Package => self.package,
        };
        (id != Self::UNREPORTED).then_some(id)
    }

    fn id_mut(&mut self, level: Boundary) -> Option<&mut u16> {
        match level {
            Boundary::None => None,
            Boundary::Core => Some(&mut self.core),
            Boundary::Cluster => Some(&mut self.cluster),
            Boundary::Llc => Some(&mut self.llc),
            Boundary::Die => Some(&mut self.die),
            Boundary::Node => Some(&mut self.node),
            Boundary::Package => Some(&mut self.package),
        }
    }
}

/// Why the topology could not be read. A level that is merely not reported is no error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that every kernel has could not be read, or one that exists could not.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file holds something other than what the kernel documents.
    #[error("{}: expected {expected}, but {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the kernel documents.
        expected: String,
        /// What was found instead.
        problem: String,
    },
}

impl Topology {
    /// Reads `<sys>/devices/system/{cpu,node}`; `sys` is `/sys` unless a saved tree is looked at.
    ///
    /// # Errors
    /// When the CPU lists are missing, or a file's content is not what the kernel documents. Missing levels and
    /// unreadable caches are no error: the level is then absent and says why.
    pub fn read(sys: &Path) -> Result<Self, Error> {
        read::read(sys).map(levels::build)
    }

    /// The highest possible CPU id, plus one: the length of a table by CPU. From `cpu/possible`.
    #[must_use]
    pub fn possible_cpus(&self) -> u32 {
        self.cpus.possible.last().map_or(0, |cpu| cpu + 1)
    }

    /// The CPU sets.
    #[must_use]
    pub fn cpus(&self) -> &Cpus {
        &self.cpus
    }

    /// Whether SMT siblings are in use, from `cpu/smt/active`; `None` where the kernel does not say.
    #[must_use]
    pub fn smt_active(&self) -> Option<bool> {
        self.smt_active
    }

    /// The NUMA nodes by number; never empty, see [`Topology::levels`] for whether they are reported.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The six levels, nearest first: core, cluster, LLC, die, node, package.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// What a reader should know besides: guesses, offline CPUs, nodes without CPUs or memory.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// One place per CPU id up to [`Topology::possible_cpus`], for the kernel side's table.
    #[must_use]
    pub fn places(&self) -> &[CpuPlace] {
        &self.places
    }

    /// Where a CPU is; [`CpuPlace::UNKNOWN`] for offline and impossible ones.
    #[must_use]
    pub fn place(&self, cpu: u32) -> CpuPlace {
        self.places
            .get(cpu as usize)
            .copied()
            .unwrap_or(CpuPlace::UNKNOWN)
    }

    /// The node of an online CPU.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.place(cpu).id(Boundary::Node).map(u32::from)
    }

    /// The farthest boundary crossed by moving between two CPUs: the package if that differs, else the node, die, LLC,
    /// cluster or core. Levels not reported for both CPUs are skipped.
    #[must_use]
    pub fn boundary(&self, from: u32, to: u32) -> Boundary {
        self.place(from).boundary(self.place(to))
    }

    /// The SLIT distance between two nodes, from `node*/distance`.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        self.nodes
            .iter()
            .find(|node| node.id == from)?
            .distances
            .get(&to)
            .copied()
    }
}
