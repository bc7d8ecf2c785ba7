//! A memory limit on either hierarchy, and a file to read beyond it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{Group, World, world::DISK};

/// Conventional mount point of v1's memory controller.
const V1: &str = "/sys/fs/cgroup/memory";

/// Returns whether memory can be limited where the agent looks.
#[must_use]
pub fn can(world: &World) -> bool {
    world.cgroup == "v2" || Path::new(V1).is_dir()
}

/// A memory cgroup: the group's own on v2, else one beside it, removed when dropped.
#[derive(Debug)]
pub struct Limit {
    dir: PathBuf,
    own: bool,
}

/// The file that a process writes to, to enter.
#[derive(Debug)]
pub struct Entrance(Option<File>);

impl Limit {
    /// Makes the cgroup, without a limit so far.
    ///
    /// # Errors
    /// When there is no memory controller or the directory cannot be made.
    pub fn none(group: &Group) -> Result<Self> {
        if group.unified() {
            let dir = group.dir.clone();
            return Ok(Self { dir, own: false });
        }
        let dir = Path::new(V1).join(group.label.trim_start_matches('/'));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, own: true })
    }

    /// Makes the cgroup, with a limit in bytes.
    ///
    /// # Errors
    /// When there is no memory controller or the directory cannot be made.
    pub fn of(group: &Group, bytes: u64) -> Result<Self> {
        let limit = Self::none(group)?;
        limit.set(bytes)?;
        Ok(limit)
    }

    /// Limits it to so many bytes; the kernel reclaims what is beyond in the caller's time.
    ///
    /// # Errors
    /// When there is no memory controller, or more is in use that cannot be reclaimed.
    pub fn set(&self, bytes: u64) -> Result<()> {
        self.write(&bytes.to_string())
    }

    /// Lifts the limit.
    ///
    /// # Errors
    /// When there is no memory controller.
    pub fn lift(&self) -> Result<()> {
        self.write(if self.own { "-1" } else { "max" })
    }

    /// Returns whether the memory controller works in this cgroup.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.file().exists()
    }

    fn file(&self) -> PathBuf {
        self.dir.join(if self.own {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        })
    }

    fn write(&self, limit: &str) -> Result<()> {
        let path = self.file();
        fs::write(&path, limit)
            .with_context(|| format!("cannot write {limit} to {}", path.display()))
    }

    /// Opens the entrance for a process that is already in the group.
    ///
    /// # Errors
    /// When the cgroup cannot be written to.
    pub fn entrance(&self) -> Result<Entrance> {
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
    /// Moves the calling process in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
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

/// A file that is not in memory: the lab's disk, or a sparse file, which takes no room.
#[derive(Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    own: bool,
}

impl Source {
    /// Finds the disk, or makes a file of so many bytes.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn find(world: &World, bytes: usize) -> Result<Self> {
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
