//! Controllers by which the kernel side can identify a task's cgroup.

use std::fmt;

/// Cgroup controller by whose state the kernel side identifies a task's cgroup.
///
/// The order is the order of preference where coverage is equal. `cpu` comes first because the agent accounts CPU time.
/// The kernel frees ids of `pids` states on removal, while `memory` states linger for as long as a page is charged to
/// them and use up ids.
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

    /// Returns the name in `cgroup.controllers`, `cgroup.subtree_control`, mount options and `/proc/cgroups`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Memory => "memory",
        }
    }

    /// Returns the name of the controller's enumerator in the kernel's `enum cgroup_subsys_id`, the index into
    /// `css_set.subsys`.
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

    /// Returns whether a list such as `cgroup.controllers` names this controller.
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
