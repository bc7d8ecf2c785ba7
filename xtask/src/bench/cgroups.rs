//! Cgroups with activity, all removed afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::interrupt;
use super::load;

const PREFIX: &str = "stallscope-bench-";

/// A folder of cgroups below the CPU controller's root. Dropping it removes them.
pub struct Cgroups {
    folder: PathBuf,
    count: usize,
    /// Name of the file to which a task writes 0 to enter a cgroup.
    door: &'static str,
}

impl Cgroups {
    /// Creates an empty folder.
    pub fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let (mount, unified) = cpu_mount(&mounts)
            .context("no cgroup hierarchy with the CPU controller is mounted here")?;
        let folder = mount.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        if unified {
            // Each cgroup needs every controller by which the agent tells cgroups apart.
            let have = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
            for controller in have.split_whitespace() {
                // Some controllers cannot be enabled below, which the agent copes with.
                let _ = fs::write(
                    folder.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
        Ok(Self {
            folder,
            count: 0,
            // On v1, a write to `tasks` moves one thread and does not wait for all others to hold still.
            door: if unified { "cgroup.procs" } else { "tasks" },
        })
    }

    /// Creates cgroups until there are `count`.
    pub fn grow(&mut self, count: usize) -> Result<()> {
        while self.count < count {
            interrupt::check()?;
            let path = self.path(self.count);
            fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
            self.count += 1;
        }
        Ok(())
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("c{number}"))
    }

    /// Has a task run and sleep in each cgroup.
    pub fn visit(&self) -> Result<()> {
        let doors: Vec<PathBuf> = (0..self.count)
            .map(|number| self.path(number).join(self.door))
            .collect();
        load::in_child(|| {
            doors.iter().all(|door| {
                let inside = fs::write(door, "0").is_ok();
                for _ in 0..3 {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_micros(30) {}
                    std::thread::sleep(Duration::from_micros(60));
                }
                inside
            })
        })
        .with_context(|| format!("in {}", self.folder.display()))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            eprintln!("warning: {error:#}; remove it with rmdir");
        }
    }
}

/// Removes the cgroups of runs that were killed.
pub fn remove_stale() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some((mount, _)) = cpu_mount(&mounts) else {
        return;
    };
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let dead = owner.is_some_and(|pid| {
            pid.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(pid).exists()
        });
        if dead && let Err(error) = remove(&entry.path()) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Removes a folder of cgroups, with retries: a task that just ended may stay in one for a moment longer.
fn remove(folder: &Path) -> Result<()> {
    let mut last = None;
    for _ in 0..50 {
        last = None;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir()
                && let Err(error) = fs::remove_dir(entry.path())
            {
                last = Some(error);
            }
        }
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => last = last.or(Some(error)),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("could not remove {}", folder.display())),
        None => bail!("could not remove {}", folder.display()),
    }
}

/// Returns the mount point of the CPU controller's hierarchy, and whether it is cgroup v2.
fn cpu_mount(mountinfo: &str) -> Option<(PathBuf, bool)> {
    let mut unified = None;
    for line in mountinfo.lines() {
        let (place, file_system) = line.split_once(" - ")?;
        let mount = PathBuf::from(place.split(' ').nth(4)?);
        let mut fields = file_system.split(' ');
        match fields.next()? {
            "cgroup" => {
                let options = fields.nth(1)?;
                if options.split(',').any(|option| option == "cpu") {
                    return Some((mount, false));
                }
            }
            "cgroup2" => unified = unified.or(Some((mount, true))),
            _ => {}
        }
    }
    unified
}

#[cfg(test)]
mod tests {
    use super::cpu_mount;
    use std::path::PathBuf;

    #[test]
    fn the_cpu_controller_is_found_in_each_setup() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let unified = Some((PathBuf::from("/sys/fs/cgroup"), true));
        assert_eq!(cpu_mount(v2), unified);
        let hybrid = "31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 25 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            33 25 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let first = Some((PathBuf::from("/sys/fs/cgroup/cpu"), false));
        assert_eq!(cpu_mount(hybrid), first);
        assert_eq!(cpu_mount("1 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
