//! Processes that do something known, and the kernel's numbers of them.

use std::{
    fs,
    io::{self, Write as _},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Longest time for anything that only waits for the scheduler; emulated machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A child process, killed when dropped.
#[derive(Debug)]
pub struct Task(libc::pid_t);

/// Forks a process that does `work` and ends, with status 1 when that fails.
///
/// # Errors
/// When it cannot be forked.
pub fn fork(work: impl FnOnce() -> Result<()>) -> Result<Task> {
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot fork"),
        0 => {
            // SAFETY: no preconditions; a parent that dies takes its children along.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Ok(Err(error)) = &done {
                let _ = writeln!(io::stderr(), "a process of the lab: {error:#}");
            }
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(i32::from(!matches!(done, Ok(Ok(()))))) }
        }
        pid => Ok(Task(pid)),
    }
}

/// Counts and never ends.
///
/// # Errors
/// Never; the type is that of a process's work.
pub fn spin() -> Result<()> {
    let mut count = 0_u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

/// Counts until the process has used so much CPU time.
pub fn spin_for(time: Duration) {
    let start = cpu_time();
    while cpu_time().saturating_sub(start) < time {
        for _ in 0..1000 {
            std::hint::black_box(());
        }
    }
}

/// CPU time of the calling thread so far.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

impl Task {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> libc::pid_t {
        self.0
    }

    /// The ids of its threads.
    #[must_use]
    pub fn threads(&self) -> Vec<libc::pid_t> {
        fs::read_dir(format!("/proc/{}/task", self.0))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it did not end well.
    pub fn wait(self) -> Result<()> {
        let mut status = 0;
        // SAFETY: our own child, and room for its status.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        let ended = pid == self.0;
        std::mem::forget(self);
        ensure!(
            ended && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "a process of the lab failed (status {status:#x})"
        );
        Ok(())
    }

    /// Returns whether every thread is in the state (proc(5): `T` is stopped, `S` sleeps).
    #[must_use]
    pub fn is(&self, state: char) -> bool {
        let threads = self.threads();
        !threads.is_empty() && threads.iter().all(|tid| thread_state(*tid) == Some(state))
    }

    /// Waits until every thread is in the state.
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub fn until(&self, state: char) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is(state) {
            if Instant::now() > deadline {
                bail!("process {} does not come to state {state}", self.0);
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops it and waits until it has stopped.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&self) -> Result<()> {
        signal(self.0, libc::SIGSTOP);
        self.until('T')
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.0, libc::SIGCONT);
    }

    /// The wait of its threads on run queues so far, in nanoseconds (`/proc/PID/task/*/schedstat`).
    ///
    /// # Errors
    /// When it has ended.
    pub fn run_delay(&self) -> Result<u64> {
        self.schedstat(1)
    }

    /// The time of its threads on CPUs so far, in nanoseconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn on_cpu(&self) -> Result<u64> {
        self.schedstat(0)
    }

    fn schedstat(&self, field: usize) -> Result<u64> {
        let threads = self.threads();
        ensure!(!threads.is_empty(), "process {} has ended", self.0);
        threads
            .iter()
            .map(|tid| {
                let path = format!("/proc/{}/task/{tid}/schedstat", self.0);
                let text = fs::read_to_string(&path).with_context(|| path.clone())?;
                let word = text.split_whitespace().nth(field);
                word.and_then(|word| word.parse::<u64>().ok())
                    .with_context(|| format!("{path} should hold three numbers: {text}"))
            })
            .sum()
    }

    /// Its moves to another CPU so far, those of its threads included (`se.nr_migrations` in
    /// `/proc/PID/task/*/sched`); `None` where the kernel does not show them.
    #[must_use]
    pub fn migrations(&self) -> Option<u64> {
        let threads = self.threads();
        let counts = threads.iter().map(|tid| {
            let text = fs::read_to_string(format!("/proc/{}/task/{tid}/sched", self.0)).ok()?;
            text.lines().find_map(|line| {
                let (_, value) = line.strip_prefix("se.nr_migrations")?.split_once(':')?;
                value.trim().parse::<u64>().ok()
            })
        });
        counts.sum()
    }

    /// A number of its `/proc/PID/status`, such as `nonvoluntary_ctxt_switches`.
    ///
    /// # Errors
    /// When there is none.
    pub fn status(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        text.lines()
            .find_map(|line| {
                let value = line.strip_prefix(key)?.strip_prefix(':')?;
                value.split_whitespace().next()?.parse().ok()
            })
            .with_context(|| format!("{path} has no number {key}"))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        signal(self.0, libc::SIGKILL);
        // SAFETY: our own child; nothing is to be told about how it ended.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// Several processes that are measured together.
pub trait Tasks {
    /// Stops all and waits for the last switch of each to be over.
    ///
    /// # Errors
    /// When one does not stop.
    fn stop_all(&self) -> Result<()>;
    /// Lets all go on.
    fn resume_all(&self);
    /// Their wait so far, in nanoseconds.
    ///
    /// # Errors
    /// When one has ended.
    fn run_delays(&self) -> Result<u64>;
    /// Their time on CPUs so far, in nanoseconds.
    ///
    /// # Errors
    /// When one has ended.
    fn on_cpus(&self) -> Result<u64>;
}

impl Tasks for [Task] {
    fn stop_all(&self) -> Result<()> {
        // All signals first: a task that is stopped late competes with nobody.
        for task in self {
            signal(task.0, libc::SIGSTOP);
        }
        self.iter().try_for_each(|task| task.until('T'))?;
        sleep(Duration::from_millis(100));
        Ok(())
    }

    fn resume_all(&self) {
        self.iter().for_each(Task::resume);
    }

    fn run_delays(&self) -> Result<u64> {
        self.iter().map(Task::run_delay).sum()
    }

    fn on_cpus(&self) -> Result<u64> {
        self.iter().map(Task::on_cpu).sum()
    }
}

/// The state of a thread (proc(5)).
#[must_use]
pub fn thread_state(tid: libc::pid_t) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

/// Sends a signal; one to a process that has ended is no error.
pub fn signal(pid: libc::pid_t, signal: i32) {
    // SAFETY: kill(2) has no preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// The kernel thread of this name, if there is one.
#[must_use]
pub fn kthread(name: &str) -> Option<libc::pid_t> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim() == name).then_some(pid)
    })
}

/// Stops the calling process until it is told to go on, or ended.
pub fn stop_self() {
    signal(std::process::id().cast_signed(), libc::SIGSTOP);
}

/// Lets a thread, 0 for the calling one, run on these CPUs only. The calling one runs on one of them
/// when this returns.
///
/// # Errors
/// When none of them is online.
pub fn pin(thread: libc::pid_t, cpus: &[usize]) -> Result<()> {
    // SAFETY: all zeros is a valid set, the macro checks its limits, and the size is its own.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
    };
    system(result).with_context(|| format!("cannot run on CPUs {cpus:?} only"))
}

/// Gives a thread, 0 for the calling one, a scheduling policy (sched(7)).
///
/// # Errors
/// When the kernel refuses, as where real-time tasks have no bandwidth in their cgroup.
pub fn schedule(thread: libc::pid_t, policy: i32, priority: i32) -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: a pointer to a value of our own.
    let result = unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) };
    system(result).with_context(|| format!("cannot use scheduling policy {policy}"))
}

/// Gives a thread, 0 for the calling one, a nice value.
///
/// # Errors
/// When the thread has ended.
pub fn nice(thread: libc::pid_t, value: i32) -> Result<()> {
    // SAFETY: setpriority(2) has no preconditions.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.cast_unsigned(), value) };
    system(result).with_context(|| format!("cannot set the nice value {value}"))
}

/// The result of a system call that returns -1 when it fails.
pub(crate) fn system(result: i32) -> Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
