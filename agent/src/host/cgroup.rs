//! The host's control groups: the hierarchy by which the kernel side counts, its cgroups, and their CPU quotas.
//!
//! A task is in one cgroup per hierarchy (man cgroups(7)). [`Hierarchy`] is the one whose cgroups own what the agent
//! counts; [`Hierarchy::scan`] lists them, [`Watch`] follows cgroups as they appear and vanish, [`CpuStats`] reads the
//! throttling that their quotas caused.

mod controller;
mod coverage;
mod cpu;
mod error;
mod hierarchy;
mod mountinfo;
mod path;
mod walk;
mod watch;
mod writable;

pub use self::controller::Controller;
pub use self::cpu::{CpuLimit, CpuStat, CpuStats};
pub use self::error::Error;
pub use self::hierarchy::{Hierarchy, Mode};
pub use self::path::CgroupPath;
pub(crate) use self::path::label;
pub use self::watch::{Changes, Watch};
pub use self::writable::writable;

/// Parses bytes as each of the files that state mounts, controllers and quotas: the entry point for `fuzz/`.
#[doc(hidden)]
pub fn fuzz(file: &[u8]) {
    let (mounts, malformed) = mountinfo::parse(file);
    assert!(malformed != Some(0), "lines count from 1");
    for controller in Controller::ALL {
        assert!(
            mounts
                .iter()
                .all(|mount| { !mount.has(controller.name()) || mount.v1_controllers.is_some() })
        );
        let _ = hierarchy::v1_hierarchy(file, controller);
    }
    cpu::fuzz(file);
}

/// Identity of a cgroup within its hierarchy: the kernfs id, which is the inode number of its directory.
///
/// It equals what `bpf_get_current_cgroup_id` and `cgroup->kn->id` give (since Linux 5.5 on 64-bit machines). Ids of
/// different hierarchies collide: every root is 1. The kernel does not reuse an id after a removal.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CgroupId(pub u64);

/// One cgroup of a hierarchy.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Cgroup {
    /// Identity within the hierarchy.
    pub id: CgroupId,
    /// Parent cgroup; none for the root.
    pub parent: Option<CgroupId>,
    /// Path from the hierarchy's mount.
    pub path: CgroupPath,
    /// Number of leading names of `path` that only the owner of the hierarchy's root could give: each was made in a
    /// directory to which nobody else may write. The remaining names stand below a delegated cgroup
    /// (Documentation/admin-guide/cgroup-v2.rst, "Delegation"), whose user chooses them freely.
    pub trusted: usize,
}

impl Cgroup {
    /// Returns whether somebody other than the owner of the hierarchy's root may have made it.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.trusted < self.path.components().count()
    }

    /// Makes a cgroup `name` in this one. `kept` says that nobody but the owner of the hierarchy's root may write to
    /// this one's directory.
    fn child(&self, id: CgroupId, name: &std::ffi::OsStr, kept: bool) -> Self {
        Self {
            id,
            parent: Some(self.id),
            path: self.path.join(name),
            trusted: self.trusted + usize::from(kept && !self.is_delegated()),
        }
    }
}
