//! Shared parts of the kernel tests: cgroups, tasks in them, and the exported values.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use stallscope::{
    agent::{Agent, Config},
    exposition::Format,
    host::cgroup::Hierarchy,
};

/// Starts an agent whose programs are attached.
pub fn agent(config: Config) -> Agent {
    stallscope::host::preflight::raise_memlock_limit();
    Agent::start(config, prometheus::Registry::new()).expect("the agent starts")
}

/// A cgroup of the hierarchy that the agent follows. Dropping it kills its tasks and removes it.
pub struct Group {
    /// Directory of the cgroup.
    pub dir: PathBuf,
    /// Value of its label `cgroup`.
    pub label: String,
}

impl Group {
    /// Makes `stallscope-test-<pid>-<name>` below the root.
    pub fn new(name: &str) -> Self {
        let hierarchy =
            Hierarchy::discover(Path::new("/proc"), None).expect("a cgroup hierarchy is mounted");
        let name = format!("stallscope-test-{}-{name}", std::process::id());
        let dir = hierarchy.mount().join(&name);
        fs::create_dir(&dir)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        Self {
            dir,
            label: format!("/{name}"),
        }
    }

    /// Writes one of the cgroup's files.
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.join(file), text)
            .unwrap_or_else(|error| panic!("cannot write {text} to {file}: {error}"));
    }

    /// Gives it nearly all of a busy machine's CPU time, as far as its quota goes.
    pub fn prefer(&self) {
        if self.dir.join("cpu.weight").exists() {
            self.write("cpu.weight", "10000");
        } else {
            self.write("cpu.shares", "262144");
        }
    }

    /// Sets a CPU quota in microseconds per 100 ms, or none.
    pub fn limit(&self, quota_us: Option<u64>) {
        if self.dir.join("cpu.max").exists() {
            let quota = quota_us.map_or("max".to_owned(), |quota| quota.to_string());
            self.write("cpu.max", &format!("{quota} 100000"));
        } else {
            let quota = quota_us.map_or("-1".to_owned(), |quota| quota.to_string());
            self.write("cpu.cfs_period_us", "100000");
            self.write("cpu.cfs_quota_us", &quota);
        }
    }

    /// Returns the time for which the quota throttled it, summed over CPUs, in nanoseconds.
    pub fn throttled(&self) -> u64 {
        let text = self.read("cpu.stat");
        let value = |key: &str| -> Option<u64> {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        };
        let throttled = value("throttled_time ").or_else(|| Some(value("throttled_usec ")? * 1000));
        throttled.expect("cpu.stat has the quota's numbers")
    }

    /// Reads one of the cgroup's files.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// Starts `sh -c script` in it.
    pub fn spawn(&self, script: &str) -> Task {
        let procs = self.dir.join("cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        // SAFETY: between fork and exec it only writes a file.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
        Task(command.spawn().expect("sh starts"))
    }

    /// Forks a process that does `outside`, enters the group, does `inside` and ends, and waits for it.
    ///
    /// Both run between fork and exec: they may only make system calls.
    pub fn run(
        &self,
        outside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        inside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) {
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(self.dir.join("cgroup.procs"))
            .expect("the group takes processes");
        let mut command = Command::new("true");
        // SAFETY: between fork and exec it only makes system calls.
        unsafe {
            command.pre_exec(move || {
                outside()?;
                (&procs).write_all(b"0")?;
                inside()
            });
        }
        let status = command
            .status()
            .expect("the work is done and `true` starts");
        assert!(status.success());
    }

    /// Starts `count` shells that spin.
    pub fn spin(&self, count: usize) -> Vec<Task> {
        (0..count)
            .map(|_| self.spawn("while :; do :; done"))
            .collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for pid in self.read("cgroup.procs").split_whitespace() {
            if let Ok(pid) = pid.parse() {
                signal(pid, libc::SIGKILL);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.dir) {
            if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
                break;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// A memory cgroup with a limit: one of v1, or the group itself on v2.
pub struct Memory {
    /// Directory of the cgroup.
    pub dir: PathBuf,
    own: bool,
}

impl Memory {
    /// Limits the memory of tasks in its `cgroup.procs` to `bytes`.
    pub fn limited(group: &Group, bytes: u64) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (dir, file, own) = if v1.join("memory.limit_in_bytes").exists() {
            let dir = v1.join(format!("stallscope-test-{}", std::process::id()));
            fs::create_dir(&dir).expect("a memory cgroup");
            (dir, "memory.limit_in_bytes", true)
        } else {
            (group.dir.clone(), "memory.max", false)
        };
        let memory = Self { dir, own };
        fs::write(memory.dir.join(file), bytes.to_string()).expect("a memory limit");
        memory
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.own {
            for _ in 0..100 {
                if fs::remove_dir(&self.dir).is_ok() {
                    break;
                }
                sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A child process, killed when dropped.
pub struct Task(Child);

impl Task {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid fits")
    }

    /// Stops it and waits until it has stopped.
    pub fn stop(&self) {
        signal(self.pid(), libc::SIGSTOP);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.state() != Some('T') {
            assert!(
                Instant::now() < deadline,
                "pid {} does not stop",
                self.pid()
            );
            sleep(Duration::from_millis(5));
        }
    }

    pub fn resume(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    /// Returns its state, `T` while it is stopped (proc(5)).
    pub fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit_once(')')?.1.trim().chars().next()
    }

    /// Returns its wait on run queues so far, in nanoseconds (`/proc/PID/schedstat`).
    pub fn run_delay(&self) -> u64 {
        self.schedstat(1)
    }

    /// Returns its time on CPUs so far, in nanoseconds.
    pub fn on_cpu(&self) -> u64 {
        self.schedstat(0)
    }

    fn schedstat(&self, field: usize) -> u64 {
        fs::read_to_string(format!("/proc/{}/schedstat", self.pid()))
            .expect("schedstat is there")
            .split_whitespace()
            .nth(field)
            .and_then(|word| word.parse().ok())
            .expect("schedstat has three numbers")
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        let _ = self.0.wait();
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) has no preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// Pins a thread (0 for the calling one) to one CPU. The calling thread runs there when this returns, a sleeping one
/// once it wakes.
pub fn pin(thread: libc::pid_t, cpu: usize) -> io::Result<()> {
    set_affinity(thread, |each| each == cpu)
}

/// Lets the calling thread run on all CPUs.
pub fn unpin() -> io::Result<()> {
    set_affinity(0, |_| true)
}

fn set_affinity(thread: libc::pid_t, allowed: impl Fn(usize) -> bool) -> io::Result<()> {
    // SAFETY: all zeros is a valid set, each CPU is inside it, and the size is its own.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in (0..libc::CPU_SETSIZE as usize).filter(|cpu| allowed(*cpu)) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One scrape.
pub struct Scrape(pub String);

impl Scrape {
    pub fn of(agent: &mut Agent) -> Self {
        agent.tick();
        // The agent learns the name of a new cgroup at the second scrape.
        for _ in 0..2 {
            agent.collect(Format::Text).expect("a scrape works");
        }
        let text = agent.collect(Format::Text).expect("a scrape works");
        Self(String::from_utf8(text.to_vec()).expect("an exposition is UTF-8"))
    }

    /// Returns the lines of `family` that carry all of `labels` (such as `cause="own"`).
    pub fn series<'a>(
        &'a self,
        family: &'a str,
        labels: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(family)?;
            (rest.is_empty() || rest.starts_with('{')).then_some(())?;
            labels
                .iter()
                .all(|label| rest.contains(label.as_str()))
                .then_some((series, value))
        })
    }

    /// Returns the sum of those series in nanoseconds (or counts), without rounding; `None` if there are none.
    pub fn exact(&self, family: &str, labels: &[String]) -> Option<u64> {
        let nanoseconds = family.contains("_seconds");
        self.series(family, labels)
            .map(|(_, value)| {
                if nanoseconds {
                    nanos(value)
                } else {
                    value.parse().expect("a count")
                }
            })
            .reduce(|a, b| a + b)
    }
}

/// Converts seconds such as `1.5` to nanoseconds.
pub fn nanos(value: &str) -> u64 {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let whole: u64 = whole.parse().expect("decimal seconds");
    let part: u64 = format!("{part:0<9}").parse().expect("decimal seconds");
    whole * 1_000_000_000 + part
}

/// Formats `name="value"`.
pub fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}
