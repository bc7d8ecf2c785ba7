//! A limit of memory, on either hierarchy, and a file to read beyond it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{Group, World, world::DISK};

/// Where v1's memory controller is by convention.
const V1: &str = "/sys/fs/cgroup/memory";

/// Whether there are limits of memory where the agent looks.
pub(super) fn can(world: &World) -> bool {
    world.cgroup == "v2" || Path::new(V1).is_dir()
}

/// A memory cgroup: the group's own on v2, else one beside it, removed when dropped.
pub(super) struct Limit {
    dir: PathBuf,
    own: bool,
}

/// What a process writes to, to enter.
pub(super) struct Entrance(Option<File>);

impl Limit {
    pub(super) fn of(group: &Group, bytes: u64) -> Result<Self> {
        let (limit, file) = if group.unified() {
            let dir = group.dir.clone();
            (Self { dir, own: false }, "memory.max")
        } else {
            let dir = Path::new(V1).join(group.label.trim_start_matches('/'));
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            (Self { dir, own: true }, "memory.limit_in_bytes")
        };
        let path = limit.dir.join(file);
        fs::write(&path, bytes.to_string())
            .with_context(|| format!("cannot write {bytes} to {}", path.display()))?;
        Ok(limit)
    }

    pub(super) fn entrance(&self) -> Result<Entrance> {
        let path = self.dir.join("cgroup.procs");
        let file = self
            .own
            .then(|| fs::OpenOptions::new().write(true).open(&path));
        let file = file
            .transpose()
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Entrance(file))
    }
}

impl Entrance {
    pub(super) fn enter(&self) -> Result<()> {
        if let Some(mut procs) = self.0.as_ref() {
            procs
                .write_all(b"0")
                .context("cannot enter a memory cgroup")?;
        }
        Ok(())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        for _ in 0..if self.own { 100 } else { 0 } {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// A file that is not in memory: the lab's disk, or one of holes, which take no room.
pub(super) struct Source {
    pub(super) path: PathBuf,
    own: bool,
}

impl Source {
    pub(super) fn find(world: &World, bytes: usize) -> Result<Self> {
        if world.guest {
            let path = DISK.into();
            return Ok(Self { path, own: false });
        }
        // Not below /tmp, which may be in memory.
        let path = PathBuf::from(format!("/var/tmp/stallscope-lab-{}", std::process::id()));
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let source = Self { path, own: true };
        file.set_len(bytes as u64)
            .context("cannot make a large file")?;
        Ok(source)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.own {
            let _ = fs::remove_file(&self.path);
        }
    }
}
