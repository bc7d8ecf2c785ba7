//! Topology of the host: the CPUs that share a core, a cluster, a last-level cache, a die, a NUMA node or a package,
//! the distances between nodes, and the source of each of those facts.
//!
//! Read from `/sys/devices/system/{cpu,node}` (Documentation/ABI/stable/sysfs-devices-system-cpu and
//! sysfs-devices-node). A fact that the kernel does not state is absent, with a reason; the agent never infers it from
//! something that usually goes along with it. ARM hosts leave out dies and cache ids, and a migration counted against a
//! guessed boundary would be a wrong number that looks like a right one.

mod cpu_list;
mod levels;
mod metrics;
mod read;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use stallscope_ebpf::{MAX_CPUS, MAX_NODES};

pub(crate) use cpu_list::excerpt;
pub use cpu_list::{CpuList, ListError};
pub use metrics::METRICS;
pub use stallscope_ebpf::{Boundary, CpuPlace};

/// The highest CPU id accepted.
pub const MAX_CPU: u32 = MAX_CPUS - 1;

/// The highest NUMA node id accepted.
pub const MAX_NODE: u32 = MAX_NODES - 1;

/// The host's topology when it was read. CPUs that come online later need another [`Topology::read`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Topology {
    cpus: Cpus,
    smt_active: Option<bool>,
    nodes: Vec<Node>,
    levels: Vec<Level>,
    notes: Vec<String>,
    // The same facts as `levels`, by CPU. The JSON form omits them, as it has them already.
    #[serde(skip)]
    places: Vec<CpuPlace>,
}

/// CPU sets of `/sys/devices/system/cpu/{possible,present,online}`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Cpus {
    /// CPUs for which the kernel has room: every per-CPU map has a slot for each.
    pub possible: CpuList,
    /// CPUs that exist, online or not.
    pub present: CpuList,
    /// CPUs that run tasks. Only these have topology files.
    pub online: CpuList,
    /// CPUs that exist but run nothing: present and not online.
    pub offline: CpuList,
}

/// NUMA node, from `/sys/devices/system/node/node*`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Node {
    /// The kernel's number of the node, as in page flags and `numactl`. Numbers can have gaps.
    pub id: u32,
    /// Online CPUs of the node, from `cpulist`; empty for a memory-only node (CXL, HBM).
    pub cpus: CpuList,
    /// `MemTotal` of the node's `meminfo` when it was read, in bytes; zero for a node with CPUs only.
    pub memory_bytes: Option<u64>,
    /// SLIT distance to each online node, by its number, from `distance`; 10 is local.
    pub distances: BTreeMap<u32, u32>,
}

/// Source of a level.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The kernel states it: an id or list of the `topology` folder, a cache `id`, a node's `cpulist`.
    Sysfs,
    /// Caches lack usable ids, so the lists of CPUs that share them tell them apart.
    SharedCpuList,
    /// Nothing reports it.
    None,
}

impl Source {
    /// Returns the word for label values and text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sysfs => "sysfs",
            Self::SharedCpuList => "shared_cpu_list",
            Self::None => "none",
        }
    }
}

/// Level of the topology: its groups of CPUs, or the reason for which it has none.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Level {
    /// Boundary that a task crosses when it moves from one group to another; never [`Boundary::None`].
    #[serde(rename = "level", serialize_with = "word")]
    pub boundary: Boundary,
    /// Source of the level.
    pub source: Source,
    /// Reason in one sentence for which the level is absent; `None` for a reported level.
    pub reason: Option<String>,
    /// Groups of online CPUs by lowest CPU, or by number for nodes. An absent level has none, except for the one node
    /// assumed of a kernel without NUMA.
    pub groups: Vec<Group>,
}

/// Serializes a boundary as its word. Its type is shared with the kernel side, which does not have serde.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn word<S: Serializer>(boundary: &Boundary, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(boundary.as_str())
}

/// Group of CPUs that share a core, cluster, LLC, die, node or package.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Group {
    /// Dense number, unique on the host, counted from 0 by lowest CPU; for a node, the kernel's number.
    pub id: u16,
    /// Number from the kernel or firmware: arbitrary, and for dies and clusters unique only within a package.
    pub sysfs_id: Option<i64>,
    /// Online CPUs of the group.
    pub cpus: CpuList,
}

/// Failure to read the topology. A level that is merely not reported is not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that every kernel has is missing, or an existing file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The I/O error.
        #[source]
        source: io::Error,
    },
    /// A file has content that differs from the kernel's documentation.
    #[error("{}: expected {expected}, but {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Content that the kernel documents.
        expected: String,
        /// Content found instead.
        problem: String,
    },
}

impl Topology {
    /// Reads `<sys>/devices/system/{cpu,node}`; `sys` is `/sys`, or the root of a saved tree.
    ///
    /// # Errors
    /// When the CPU lists are missing, or a file's content differs from the kernel's documentation. Missing levels and
    /// unreadable caches are not errors: the level is then absent and states the reason.
    pub fn read(sys: &Path) -> Result<Self, Error> {
        read::read(sys).map(levels::build)
    }

    /// Returns the highest possible CPU id plus one, from `cpu/possible`: the length of a table by CPU.
    #[must_use]
    pub fn possible_cpus(&self) -> u32 {
        self.cpus.possible.last().map_or(0, |cpu| cpu + 1)
    }

    /// Returns the CPU sets.
    #[must_use]
    pub fn cpus(&self) -> &Cpus {
        &self.cpus
    }

    /// Returns whether SMT siblings are in use, from `cpu/smt/active`; `None` if the kernel does not say.
    #[must_use]
    pub fn smt_active(&self) -> Option<bool> {
        self.smt_active
    }

    /// Returns the NUMA nodes by number. There is always at least one; [`Topology::levels`] says whether nodes are
    /// reported.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the six levels, nearest first: core, cluster, LLC, die, node, package.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Returns remarks for the reader: guesses, offline CPUs, nodes without CPUs or memory.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns one place per CPU id below [`Topology::possible_cpus`], for the kernel side's table.
    #[must_use]
    pub fn places(&self) -> &[CpuPlace] {
        &self.places
    }

    /// Returns the place of a CPU; [`CpuPlace::UNKNOWN`] for offline and impossible CPUs.
    #[must_use]
    pub fn place(&self, cpu: u32) -> CpuPlace {
        self.places
            .get(cpu as usize)
            .copied()
            .unwrap_or(CpuPlace::UNKNOWN)
    }

    /// Returns the node of an online CPU.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.place(cpu).id(Boundary::Node).map(u32::from)
    }

    /// Returns the farthest boundary that a move between two CPUs crosses: the package if that differs, else the node,
    /// die, LLC, cluster or core. It skips levels that are not reported for both CPUs.
    #[must_use]
    pub fn boundary(&self, from: u32, to: u32) -> Boundary {
        self.place(from).boundary(self.place(to))
    }

    /// Returns the boundaries reported on this host, nearest first: those of levels with another source than
    /// [`Source::None`].
    pub fn boundaries(&self) -> impl Iterator<Item = Boundary> {
        self.levels
            .iter()
            .filter(|level| level.source != Source::None)
            .map(|level| level.boundary)
    }

    /// Returns the SLIT distance between two nodes, from `node*/distance`.
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
