//! The host's control groups: which hierarchy the kernel side counts by, the cgroups in it, and their CPU quotas.
//!
//! A task is in one cgroup per hierarchy (man cgroups(7)). [`Hierarchy`] is the one whose cgroups own what is counted;
//! [`Hierarchy::scan`] lists them, [`Watch`] follows their coming and going, [`CpuStats`] reads what a quota cost them.

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

/// Reads bytes as each of the files that say where cgroups are and what their quotas cost: the door for `fuzz/`.
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

/// A cgroup's identity within its hierarchy: the kernfs id, which is the inode number of its directory.
///
/// Equal to what `bpf_get_current_cgroup_id` and `cgroup->kn->id` give (since Linux 5.5 on 64-bit machines). Ids of
/// different hierarchies collide: every root is 1. The kernel does not give an id again after a removal.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CgroupId(pub u64);

/// One cgroup of a hierarchy.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Cgroup {
    /// Its identity.
    pub id: CgroupId,
    /// The cgroup above it; none for the root.
    pub parent: Option<CgroupId>,
    /// Where it is, from the hierarchy's mount.
    pub path: CgroupPath,
    /// Names of `path`, from the mount, that only the owner of the hierarchy's root could give: each was made in a
    /// directory that nobody else may write to. The rest stands below a delegated cgroup
    /// (Documentation/admin-guide/cgroup-v2.rst, "Delegation"), whose user names it as he likes.
    pub trusted: usize,
}

impl Cgroup {
    /// Whether somebody other than the owner of the hierarchy's root may have made it.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.trusted < self.path.components().count()
    }

    /// A cgroup `name` in this one, whose directory nobody else may write to when it is `kept`.
    fn child(&self, id: CgroupId, name: &std::ffi::OsStr, kept: bool) -> Self {
        Self {
            id,
            parent: Some(self.id),
            path: self.path.join(name),
            trusted: self.trusted + usize::from(kept && !self.is_delegated()),
        }
    }
}
