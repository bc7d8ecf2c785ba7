//! Walking a hierarchy's directories.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use rustix::io::Errno;

use super::{Cgroup, CgroupId, CgroupPath, Error};

/// A directory's sub-directory.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) id: CgroupId,
    pub(super) name: OsString,
}

/// The cgroups directly below a directory.
///
/// Ids come from readdir: kernfs gives the same number there and by stat. A directory with two links has no
/// sub-directories (kernfs counts 2 + sub-directories, fs/kernfs/inode.c; find(1) relies on the same), so most are
/// never opened: a v2 cgroup's 60 files make reading it by far the dearest step.
pub(super) fn children(dir: &Path) -> io::Result<Vec<Child>> {
    let mut children = Vec::new();
    if fs::metadata(dir)?.nlink() == 2 {
        return Ok(children);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another process may take the entry away where the file system gives no type and this has to stat.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            children.push(Child {
                id: CgroupId(entry.ino()),
                name: entry.file_name(),
            });
        }
    }
    Ok(children)
}

/// The id of a hierarchy's root.
pub(super) fn root_id(mount: &Path) -> Result<CgroupId, Error> {
    let metadata = fs::metadata(mount).map_err(|error| Error::cgroupfs(mount, error))?;
    Ok(CgroupId(metadata.ino()))
}

/// Whether the directory went away while it was looked at.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NODEV | Errno::NOTDIR)
    )
}

/// Whether what is below a directory stays unseen, rather than nothing being seen at all.
///
/// Owners of a delegated cgroup may forbid reading it, and may nest beyond the longest path that can be opened: neither
/// must blind the agent to every other cgroup.
pub(super) fn is_hidden(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG)
    )
}

/// Calls `visit` with every cgroup and those directly below it, parents first.
pub(super) fn walk(mount: &Path, mut visit: impl FnMut(Cgroup, &[Child])) -> Result<(), Error> {
    let mut pending = vec![Cgroup {
        id: root_id(mount)?,
        parent: None,
        path: CgroupPath::root(),
    }];
    while let Some(cgroup) = pending.pop() {
        let dir = cgroup.path.below(mount);
        let below = match children(&dir) {
            Ok(below) => below,
            Err(error) if cgroup.parent.is_some() && is_gone(&error) => continue,
            Err(error) if cgroup.parent.is_some() && is_hidden(&error) => Vec::new(),
            Err(error) => return Err(Error::cgroupfs(&dir, error)),
        };
        let parent = Some(cgroup.id);
        pending.extend(below.iter().map(|child| Cgroup {
            id: child.id,
            parent,
            path: cgroup.path.join(&child.name),
        }));
        visit(cgroup, &below);
    }
    Ok(())
}
