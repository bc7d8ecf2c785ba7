//! The place of a CPU, and the boundary between two of them: one definition for both sides.

use core::fmt;

/// A boundary a task can cross when it moves from one CPU to another, nearest first.
///
/// The order is that of the comparisons, package first. It does not claim that each level lies inside the next: nodes
/// lie inside a die with sub-NUMA clustering, and dies inside a node on other hosts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
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

/// Place of one CPU, in the form the kernel side compares: two ids that are both reported and differ are a boundary.
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

    /// Place of a CPU of which nothing is known: offline, or not possible.
    pub const UNKNOWN: Self = Self {
        node: Self::UNREPORTED,
        package: Self::UNREPORTED,
        die: Self::UNREPORTED,
        llc: Self::UNREPORTED,
        cluster: Self::UNREPORTED,
        core: Self::UNREPORTED,
    };

    /// True if two ids of one level are both reported and differ.
    #[inline(always)]
    const fn crossed(from: u16, to: u16) -> bool {
        from != to && from != Self::UNREPORTED && to != Self::UNREPORTED
    }

    /// The farthest boundary between two places; levels that either lacks are skipped.
    #[inline(always)]
    #[must_use]
    pub const fn boundary(self, other: Self) -> Boundary {
        if Self::crossed(self.package, other.package) {
            Boundary::Package
        } else if Self::crossed(self.node, other.node) {
            Boundary::Node
        } else if Self::crossed(self.die, other.die) {
            Boundary::Die
        } else if Self::crossed(self.llc, other.llc) {
            Boundary::Llc
        } else if Self::crossed(self.cluster, other.cluster) {
            Boundary::Cluster
        } else if Self::crossed(self.core, other.core) {
            Boundary::Core
        } else {
            Boundary::None
        }
    }

    /// True if the two are in different NUMA nodes, both reported.
    #[inline(always)]
    #[must_use]
    pub const fn between_nodes(self, other: Self) -> bool {
        Self::crossed(self.node, other.node)
    }

    /// The id at one level, if it is reported.
    #[must_use]
    pub fn id(mut self, level: Boundary) -> Option<u16> {
        self.id_mut(level)
            .map(|id| *id)
            .filter(|id| *id != Self::UNREPORTED)
    }

    /// The id at one level, [`CpuPlace::UNREPORTED`] included; `None` for [`Boundary::None`].
    pub const fn id_mut(&mut self, level: Boundary) -> Option<&mut u16> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_CPUS, MAX_NODES};

    const LEVELS: [Boundary; 6] = [
        Boundary::Core,
        Boundary::Cluster,
        Boundary::Llc,
        Boundary::Die,
        Boundary::Node,
        Boundary::Package,
    ];

    fn at(level: Boundary, id: u16) -> CpuPlace {
        let mut place = CpuPlace::UNKNOWN;
        if let Some(place) = place.id_mut(level) {
            *place = id;
        }
        place
    }

    #[test]
    fn ids_at_their_limits_differ_from_each_other_and_from_unreported() {
        const LAST_CPU: u16 = (MAX_CPUS - 1) as u16;
        const LAST_NODE: u16 = (MAX_NODES - 1) as u16;
        const _: () = assert!(MAX_CPUS <= CpuPlace::UNREPORTED as u32);
        let ids = [
            0,
            1,
            63,
            64,
            LAST_NODE - 1,
            LAST_NODE,
            LAST_CPU - 1,
            LAST_CPU,
        ];
        for level in LEVELS {
            for from in ids {
                assert_eq!(at(level, from).id(level), Some(from));
                for to in ids {
                    let expected = if from == to { Boundary::None } else { level };
                    assert_eq!(at(level, from).boundary(at(level, to)), expected);
                }
                for unreported in [at(level, CpuPlace::UNREPORTED), CpuPlace::UNKNOWN] {
                    assert_eq!(at(level, from).boundary(unreported), Boundary::None);
                    assert_eq!(unreported.boundary(at(level, from)), Boundary::None);
                    assert!(!at(level, from).between_nodes(unreported));
                }
            }
        }
    }
}
