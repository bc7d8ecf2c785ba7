//! Cgroup mounts through which a container could change the host.

use std::fs;
use std::path::{Path, PathBuf};

use super::mountinfo;

/// Returns the cgroup mounts to which this process may write although its root directory is read-only, as a container's
/// may be; none if the root is writable or `<proc>/self/mountinfo` cannot be read.
///
/// A read-only bind mount does not extend to the mounts below it (man mount(8), "Bind mount operation"). Below
/// `/sys/fs/cgroup` on v1 those are all the controllers.
#[must_use]
pub fn writable(proc: &Path) -> Vec<PathBuf> {
    let Ok(text) = fs::read(proc.join("self/mountinfo")) else {
        return Vec::new();
    };
    if !mountinfo::root_is_read_only(&text) {
        return Vec::new();
    }
    let (mounts, _) = mountinfo::parse(&text);
    let writable = mounts.into_iter().filter(|mount| mount.writable);
    writable.map(|mount| mount.point).collect()
}

#[cfg(test)]
mod tests {
    use super::writable;
    use std::fs;
    use std::path::PathBuf;

    #[test]
    fn only_a_container_that_may_write_nothing_else_is_told() {
        let proc = tempfile::tempdir().unwrap();
        assert!(writable(proc.path()).is_empty(), "there is no mountinfo");
        fs::create_dir(proc.path().join("self")).unwrap();
        let write = |root: &str| {
            let text = format!(
                "1 0 0:1 / / {root} - overlay o rw\n\
                2 1 0:2 / /host/sys/fs/cgroup ro - tmpfs t rw\n\
                3 2 0:3 / /host/sys/fs/cgroup/cpu ro - cgroup c rw,cpu\n\
                4 2 0:4 / /host/sys/fs/cgroup/freezer rw - cgroup c rw,freezer\n"
            );
            fs::write(proc.path().join("self/mountinfo"), text).unwrap();
            writable(proc.path())
        };
        assert_eq!(write("ro"), [PathBuf::from("/host/sys/fs/cgroup/freezer")]);
        assert!(write("rw").is_empty());
    }
}
