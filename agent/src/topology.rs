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
    #[serde(rename = "level", serialize_with = "word")]
    pub boundary: Boundary,
    /// How it is known.
    pub source: Source,
    /// Why it is absent, in one sentence; `None` for a reported level.
    pub reason: Option<String>,
    /// Its groups of online CPUs by lowest CPU, or by number for nodes. Empty when absent, save for the one assumed
    /// node of a kernel without NUMA.
    pub groups: Vec<Group>,
}

/// The boundary's word: its type is shared with the kernel side, which knows no serde.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn word<S: Serializer>(boundary: &Boundary, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(boundary.as_str())
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

    /// The boundaries that somebody reports on this host, nearest first: the levels whose source is not
    /// [`Source::None`].
    pub fn boundaries(&self) -> impl Iterator<Item = Boundary> {
        self.levels
            .iter()
            .filter(|level| level.source != Source::None)
            .map(|level| level.boundary)
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
