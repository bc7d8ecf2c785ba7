//! Walking a hierarchy's directories.

use std::ffi::OsString;
use std::fs::{self, Metadata};
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

/// The owner of a hierarchy's root: the host's root, or that of a container with a hierarchy of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeper {
    uid: u32,
    gid: u32,
}

impl Keeper {
    /// The owner of the hierarchy mounted at `mount`.
    pub(super) fn of(mount: &Path) -> Result<Self, Error> {
        let root = fs::metadata(mount).map_err(|error| Error::cgroupfs(mount, error))?;
        Ok(Self {
            uid: root.uid(),
            gid: root.gid(),
        })
    }

    /// Whether nobody else may make cgroups in a directory. cgroup file systems have no access control lists.
    fn keeps(self, dir: &Metadata) -> bool {
        const GROUP_WRITE: u32 = 0o020;
        const OTHERS_WRITE: u32 = 0o002;
        let by_group = dir.mode() & GROUP_WRITE != 0 && dir.gid() != self.gid;
        dir.uid() == self.uid && !by_group && dir.mode() & OTHERS_WRITE == 0
    }
}

/// The cgroups directly below a directory, and whether only the hierarchy's keeper may make such.
///
/// Ids come from readdir: kernfs gives the same number there and by stat. A directory with two links has no
/// sub-directories (kernfs counts 2 + sub-directories, fs/kernfs/inode.c; find(1) relies on the same), so most are
/// never opened: a v2 cgroup's 60 files make reading it by far the dearest step.
pub(super) fn children(dir: &Path, keeper: Keeper) -> io::Result<(Vec<Child>, bool)> {
    let mut children = Vec::new();
    let metadata = fs::metadata(dir)?;
    let kept = keeper.keeps(&metadata);
    if metadata.nlink() == 2 {
        return Ok((children, kept));
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
    Ok((children, kept))
}

/// The id of a hierarchy's root.
pub(super) fn root_id(mount: &Path) -> Result<CgroupId, Error> {
    let metadata = fs::metadata(mount).map_err(|error| Error::cgroupfs(mount, error))?;
    Ok(CgroupId(metadata.ino()))
}

/// The root of a hierarchy.
pub(super) fn root(id: CgroupId) -> Cgroup {
    Cgroup {
        id,
        parent: None,
        path: CgroupPath::root(),
        trusted: 0,
    }
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
