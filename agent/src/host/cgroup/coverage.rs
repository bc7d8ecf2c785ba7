//! Coverage of controllers: the number of cgroups of a v2 hierarchy for which each is enabled.

use std::fs;
use std::path::Path;

use super::{Controller, Error, walk};

/// Counts over a whole hierarchy except its root, which has every controller.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Number of cgroups.
    pub(super) cgroups: usize,
    by_controller: [usize; Controller::ALL.len()],
}

impl Coverage {
    /// Reads `cgroup.subtree_control` of every cgroup that has children: it lists the controllers
    /// enabled for the children.
    pub(super) fn count(mount: &Path) -> Result<Self, Error> {
        let mut coverage = Self::default();
        walk::walk(mount, |cgroup, children| {
            if children.is_empty() {
                return;
            }
            // An unreadable file means that the cgroup is gone, and its children with it.
            let file = cgroup.path.below(mount).join("cgroup.subtree_control");
            let Ok(enabled) = fs::read_to_string(file) else {
                return;
            };
            coverage.cgroups += children.len();
            for (controller, count) in Controller::ALL.iter().zip(&mut coverage.by_controller) {
                if controller.is_in(&enabled) {
                    *count += children.len();
                }
            }
        })?;
        Ok(coverage)
    }

    /// Returns the number of cgroups for which `controller` is enabled.
    pub(super) const fn of(&self, controller: Controller) -> usize {
        self.by_controller[controller as usize]
    }
}
