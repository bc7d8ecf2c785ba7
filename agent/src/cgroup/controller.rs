//! The controllers by which the kernel side can tell tasks' cgroups apart.

use std::fmt;

/// A cgroup controller that can give tasks their identity.
///
/// The order is the order of preference where coverage is equal: `cpu` is what the time is about; ids of `pids` states
/// are given back on removal, while `memory` states linger for as long as a page is charged to them and use up ids.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Controller {
    /// CPU time: shares, quota.
    Cpu,
    /// Number of tasks.
    Pids,
    /// Memory.
    Memory,
}

impl Controller {
    /// Every controller, preferred first.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Pids, Self::Memory];

    /// The name in `cgroup.controllers`, `cgroup.subtree_control`, mount options and `/proc/cgroups`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Memory => "memory",
        }
    }

    /// The name of its value in the kernel's `enum cgroup_subsys_id`: the index into `css_set.subsys`.
    ///
    /// The value depends on the kernel's configuration (`include/linux/cgroup_subsys.h`), so take it from BTF.
    #[must_use]
    pub const fn enum_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu_cgrp_id",
            Self::Pids => "pids_cgrp_id",
            Self::Memory => "memory_cgrp_id",
        }
    }

    /// Whether a list as in `cgroup.controllers` names this controller.
    pub(super) fn is_in(self, list: &str) -> bool {
        list.split_ascii_whitespace()
            .any(|name| name == self.name())
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
