//! Traversal of a hierarchy's directories.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use rustix::io::Errno;

use super::{Cgroup, CgroupId, CgroupPath, Error};

/// Sub-directory of a cgroup's directory: a child cgroup.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) id: CgroupId,
    pub(super) name: OsString,
}

/// Owner of a hierarchy's root: root on the host, or the root user of a container with a hierarchy of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeper {
    uid: u32,
    gid: u32,
}

impl Keeper {
    /// Returns the owner of the hierarchy mounted at `mount`.
    pub(super) fn of(mount: &Path) -> Result<Self, Error> {
        let root = fs::metadata(mount).map_err(|error| Error::cgroupfs(mount, error))?;
        Ok(Self {
            uid: root.uid(),
            gid: root.gid(),
        })
    }

    /// Returns whether nobody else may make cgroups in a directory. cgroup file systems have no access control lists.
    fn keeps(self, dir: &Metadata) -> bool {
        const GROUP_WRITE: u32 = 0o020;
        const OTHERS_WRITE: u32 = 0o002;
        let by_group = dir.mode() & GROUP_WRITE != 0 && dir.gid() != self.gid;
        dir.uid() == self.uid && !by_group && dir.mode() & OTHERS_WRITE == 0
    }
}

/// Returns the cgroups directly below a directory, and whether only the hierarchy's keeper may make cgroups there.
///
/// Ids come from readdir: kernfs gives the same number there and by stat. A directory with two links has no
/// sub-directories (kernfs counts 2 + sub-directories, fs/kernfs/inode.c; find(1) relies on the same), so the agent
/// never opens most of them: a v2 cgroup's 60 files make reading its directory by far the most expensive step.
pub(super) fn children(dir: &Path, keeper: Keeper) -> io::Result<(Vec<Child>, bool)> {
    let mut children = Vec::new();
    let metadata = fs::metadata(dir)?;
    let kept = keeper.keeps(&metadata);
    if metadata.nlink() == 2 {
        return Ok((children, kept));
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Where the file system gives no type, this has to stat, and another process may have removed the entry.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            children.push(Child {
                id: CgroupId(entry.ino()),
                name: entry.file_name(),
            });
        }
    }
    Ok((children, kept))
}

/// Returns the id of a hierarchy's root.
pub(super) fn root_id(mount: &Path) -> Result<CgroupId, Error> {
    let metadata = fs::metadata(mount).map_err(|error| Error::cgroupfs(mount, error))?;
    Ok(CgroupId(metadata.ino()))
}

/// Makes the root cgroup of a hierarchy.
pub(super) fn root(id: CgroupId) -> Cgroup {
    Cgroup {
        id,
        parent: None,
        path: CgroupPath::root(),
        trusted: 0,
    }
}

/// Returns whether the error means that the directory was removed in the meantime.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NODEV | Errno::NOTDIR)
    )
}

/// Returns whether the error hides one directory's children rather than the whole hierarchy.
///
/// The user of a delegated cgroup may forbid reading it, and may nest cgroups beyond the longest path that can be
/// opened. Neither must blind the agent to every other cgroup.
pub(super) fn is_hidden(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG)
    )
}

/// Calls `visit` with every cgroup and its children, parents first.
pub(super) fn walk(mount: &Path, mut visit: impl FnMut(Cgroup, &[Child])) -> Result<(), Error> {
    let keeper = Keeper::of(mount)?;
    let mut pending = vec![root(root_id(mount)?)];
    while let Some(cgroup) = pending.pop() {
        let dir = cgroup.path.below(mount);
        let (below, kept) = match children(&dir, keeper) {
            Ok(below) => below,
            Err(error) if cgroup.parent.is_some() && is_gone(&error) => continue,
            Err(error) if cgroup.parent.is_some() && is_hidden(&error) => (Vec::new(), false),
            Err(error) => return Err(Error::cgroupfs(&dir, error)),
        };
        let children = below
            .iter()
            .map(|child| cgroup.child(child.id, &child.name, kept));
        pending.extend(children);
        visit(cgroup, &below);
    }
    Ok(())
}
