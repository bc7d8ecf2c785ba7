//! Tests that need a hierarchy without controllers, or a failing inotify.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::host::cgroup::Mode;

/// The test's own directory in a hierarchy, and a watch on the whole hierarchy.
struct Own {
    watch: Watch,
    dir: PathBuf,
}

impl Own {
    fn new(mount: &Path) -> Self {
        let dir = mount.join(format!("stallscope-test-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self {
            watch: Watch::new(Hierarchy::fixed(Mode::V2, mount)).unwrap(),
            dir,
        }
    }

    fn check(&mut self) {
        self.comes_and_goes(4);
    }

    /// Checks again after the first poll, which reported the test's own directory too.
    fn check_again(&mut self) {
        self.comes_and_goes(3);
    }

    fn comes_and_goes(&mut self, expected: usize) {
        for path in ["a", "a/b", "a/b/c"] {
            fs::create_dir(self.dir.join(path)).unwrap();
        }
        assert_eq!(self.polled(), (expected, 0));
        for path in ["a/b/c", "a/b", "a"] {
            fs::remove_dir(self.dir.join(path)).unwrap();
        }
        assert_eq!(self.polled(), (0, 3));
    }

    /// Returns the number of new cgroups in the test's own directory, and the number of removed
    /// cgroups.
    fn polled(&mut self) -> (usize, usize) {
        let changes = self.watch.poll().unwrap();
        let mount = self.watch.hierarchy.mount();
        let ours = changes
            .added
            .iter()
            .filter(|cgroup| cgroup.path.below(mount).starts_with(&self.dir));
        (ours.count(), changes.removed.len())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for path in ["a/b/c", "a/b", "a", ""] {
            let _ = fs::remove_dir(self.dir.join(path));
        }
    }
}

#[test]
fn without_inotify_every_poll_scans() {
    let root = tempfile::tempdir().unwrap();
    for (error, hint) in [
        (Errno::NOSPC, "max_user_watches"),
        (Errno::MFILE, "max_user_instances"),
    ] {
        let mut own = Own::new(root.path());
        assert!(own.watch.fallback().is_none() && own.watch.as_fd().is_some());
        own.watch.fall_back(error);
        assert!(own.watch.fallback().unwrap().contains(hint) && own.watch.as_fd().is_none());
        own.check();
        own.check_again();
    }
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn on_a_v2_file_system_with_and_without_inotify() {
    let mounts = fs::read("/proc/self/mountinfo").unwrap();
    let (mounts, _) = crate::host::cgroup::mountinfo::parse(&mounts);
    let Some(mount) = mounts.iter().find(|mount| mount.v1_controllers.is_none()) else {
        println!("no cgroup2 is mounted here");
        return;
    };
    let mut own = Own::new(&mount.point);
    assert_eq!(own.watch.fallback(), None);
    own.check();
    own.watch.fall_back(Errno::NOSPC);
    own.check_again();
}
