//! Cgroups of the lab's own, with the processes in them.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use stallscope::host::cgroup::Hierarchy;

use crate::task::{self, PATIENCE, Task};

/// Prefix of the names of all of them.
pub const PREFIX: &str = "stallscope-lab-";

/// A cgroup of the hierarchy that the agent follows, removed with all its tasks when dropped.
#[derive(Debug)]
pub struct Group {
    /// The directory.
    pub dir: PathBuf,
    /// The value of the label `cgroup`.
    pub label: String,
}

impl Group {
    /// Makes `stallscope-lab-<pid>-<name>` below the root of the hierarchy.
    ///
    /// # Errors
    /// When no hierarchy is mounted or it cannot be written to.
    pub fn new(name: &str) -> Result<Self> {
        Self::named(&format!("{PREFIX}{}-{name}", std::process::id()))
    }

    /// Makes a cgroup of this very name below the root of the hierarchy.
    ///
    /// # Errors
    /// When no hierarchy is mounted, it cannot be written to, or there is one of that name.
    pub fn named(name: &str) -> Result<Self> {
        let hierarchy = Hierarchy::discover("/proc".as_ref(), None)?;
        Self::make(hierarchy.mount().join(name), format!("/{name}"))
    }

    /// Makes a cgroup below this one; drop it before its parent.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.dir.join(name), format!("{}/{name}", self.label))
    }

    fn make(dir: PathBuf, label: String) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, label })
    }

    /// Returns whether it is of the unified hierarchy (v2).
    #[must_use]
    pub fn unified(&self) -> bool {
        self.dir.join("cgroup.controllers").exists()
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// Names the file and what was to be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Reads a number from a file of lines `key value`, such as `cpu.stat`.
    ///
    /// # Errors
    /// When the file has no such line.
    pub fn number(&self, file: &str, key: &str) -> Result<u64> {
        self.read(file)?
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .with_context(|| format!("{file} has no number {key}"))
    }

    /// Limits it to `quota` microseconds of CPU time in each `period`.
    ///
    /// # Errors
    /// When the controller is not there.
    pub fn limit_cpu(&self, quota: u64, period: u64) -> Result<()> {
        if self.unified() {
            return self.write("cpu.max", &format!("{quota} {period}"));
        }
        self.write("cpu.cfs_period_us", &period.to_string())?;
        self.write("cpu.cfs_quota_us", &quota.to_string())
    }

    /// Lifts the limit, and with it ends every throttle that goes on.
    ///
    /// # Errors
    /// When the controller is not there.
    pub fn unlimit_cpu(&self) -> Result<()> {
        if self.unified() {
            self.write("cpu.max", "max")
        } else {
            self.write("cpu.cfs_quota_us", "-1")
        }
    }

    /// Sets its CPU weight in percent of that of other cgroups, 1 to 10000.
    ///
    /// # Errors
    /// When the controller is not there.
    pub fn weigh(&self, percent: u32) -> Result<()> {
        if self.unified() {
            self.write("cpu.weight", &percent.to_string())
        } else {
            self.write("cpu.shares", &(1024 * percent / 100).to_string())
        }
    }

    /// Returns whether its CPU time can be limited.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        let file = if self.unified() {
            "cpu.max"
        } else {
            "cpu.cfs_quota_us"
        };
        self.dir.join(file).exists()
    }

    /// Time that it was throttled by its own quota, in nanoseconds summed over CPUs (`cpu.stat`).
    ///
    /// # Errors
    /// When the controller is not there.
    pub fn throttled(&self) -> Result<u64> {
        if self.unified() {
            Ok(self.number("cpu.stat", "throttled_usec")? * 1000)
        } else {
            self.number("cpu.stat", "throttled_time")
        }
    }

    /// Enables controllers in the cgroups below; v1 needs no telling.
    ///
    /// # Errors
    /// When a controller is not there.
    pub fn delegate(&self, controllers: &str) -> Result<()> {
        if self.unified() {
            self.write("cgroup.subtree_control", controllers)?;
        }
        Ok(())
    }

    /// Moves a task and its threads into it.
    ///
    /// # Errors
    /// When the task has ended.
    pub fn take(&self, pid: libc::pid_t) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Forks a process that enters the group, does `work` and ends.
    ///
    /// # Errors
    /// When it cannot be forked.
    pub fn spawn(&self, work: impl FnOnce() -> Result<()>) -> Result<Task> {
        let procs = self.entrance()?;
        task::fork(move || {
            (&procs).write_all(b"0")?;
            work()
        })
    }

    /// Opens the file to which a process writes `0` to enter.
    pub(crate) fn entrance(&self) -> Result<fs::File> {
        let path = self.dir.join("cgroup.procs");
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// Starts `count` processes that only count, and waits until they have entered the group.
    ///
    /// # Errors
    /// When one cannot be forked or does not enter.
    pub fn spin(&self, count: usize) -> Result<Vec<Task>> {
        let tasks: Vec<Task> = (0..count)
            .map(|_| self.spawn(task::spin))
            .collect::<Result<_>>()?;
        let deadline = Instant::now() + PATIENCE;
        // A task that is stopped before it enters waits in its parent's cgroup when it goes on.
        while !self.holds(&tasks)? {
            ensure!(Instant::now() < deadline, "a task does not enter its group");
            sleep(Duration::from_millis(5));
        }
        Ok(tasks)
    }

    /// Returns whether all of these tasks are in the group.
    fn holds(&self, tasks: &[Task]) -> Result<bool> {
        let text = self.read("cgroup.procs")?;
        let inside: Vec<&str> = text.lines().collect();
        let holds = |task: &Task| inside.contains(&task.pid().to_string().as_str());
        Ok(tasks.iter().all(holds))
    }

    /// Starts a process that only counts, on one CPU.
    ///
    /// # Errors
    /// When it cannot be forked.
    pub fn spin_on(&self, cpu: usize) -> Result<Task> {
        self.spawn(move || {
            task::pin(0, &[cpu])?;
            task::spin()
        })
    }

    /// Starts such a process stopped on that CPU: it counts once it is told to go on.
    ///
    /// # Errors
    /// When it cannot be forked or does not stop.
    pub fn stopped_on(&self, cpu: usize) -> Result<Task> {
        let task = self.spawn(move || {
            task::pin(0, &[cpu])?;
            task::stop_self();
            task::spin()
        })?;
        task.until('T')?;
        Ok(task)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let pids = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                task::signal(pid, libc::SIGKILL);
            }
            match fs::remove_dir(&self.dir) {
                Err(error)
                    if error.kind() != io::ErrorKind::NotFound && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}
