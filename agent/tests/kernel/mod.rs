//! What kernel tests have in common: a cgroup of their own, a process in it, and the value of a series.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use stallscope::{
    agent::{Agent, Config},
    cgroup::Hierarchy,
    exposition::Format,
};

/// An agent with all probes.
pub fn agent(config: Config) -> Agent {
    Agent::start(config, prometheus::Registry::new()).unwrap()
}

/// One scrape.
pub fn scrape(agent: &mut Agent) -> String {
    agent.tick();
    let text = agent.collect(Format::Text).unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

/// The value of the series of `family` that has all of `labels`; `None` if there is none.
pub fn value(scrape: &str, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut values = scrape.lines().filter_map(|line| {
        let rest = line.strip_prefix(family)?;
        let (found, value) = rest
            .strip_prefix('{')
            .map_or(("", rest), |rest| rest.rsplit_once("} ").unwrap());
        let has = |(name, value): &(&str, &str)| {
            let label = format!("{name}=\"{value}\"");
            found.starts_with(&label) || found.contains(&format!(",{label}"))
        };
        (rest.starts_with(['{', ' ']) && labels.iter().all(has))
            .then(|| value.trim().parse().unwrap())
    });
    let value = values.next();
    assert!(
        values.next().is_none(),
        "{family} {labels:?} is not one series"
    );
    value
}

/// A cgroup at the top of the hierarchy that the agent follows, removed when dropped.
pub struct Group {
    folder: PathBuf,
    /// The value of its `cgroup` label.
    pub label: String,
}

impl Group {
    pub fn new(name: &str) -> Self {
        let hierarchy = Hierarchy::discover(Path::new("/proc"), None).unwrap();
        let label = format!("/stallscope-{name}-{}", std::process::id());
        let folder = hierarchy.mount().join(&label[1..]);
        // On v2 a group has the controller only if its parent passes it on; v1 has no such file.
        let _ = fs::write(hierarchy.mount().join("cgroup.subtree_control"), "+cpu");
        fs::create_dir(&folder).unwrap();
        Self { folder, label }
    }

    /// The file that takes processes.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The same file of the group above.
    pub fn parent_procs(&self) -> PathBuf {
        self.folder.with_file_name("cgroup.procs")
    }

    /// Starts a process that does `outside`, enters the group, does `inside` and ends.
    ///
    /// Both run between `fork` and `exec`, and may do no more than is allowed there: system calls.
    pub fn spawn(
        &self,
        outside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        inside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Child {
        let mut procs = fs::OpenOptions::new()
            .write(true)
            .open(self.procs())
            .unwrap();
        let mut command = Command::new("true");
        // SAFETY: between `fork` and `exec` there are only system calls.
        unsafe {
            command.pre_exec(move || {
                outside()?;
                procs.write_all(b"0")?;
                inside()
            });
        }
        command.spawn().unwrap()
    }

    /// Like [`Group::spawn`], and waits for the end.
    pub fn run(
        &self,
        outside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        inside: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) {
        assert!(self.spawn(outside, inside).wait().unwrap().success());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended keeps the group busy for a moment.
        let until = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.folder) {
            if Instant::now() > until {
                eprintln!("cannot remove {}: {error}", self.folder.display());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Lets the calling thread run on one CPU only; it runs there when this returns.
pub fn pin(cpu: usize) -> io::Result<()> {
    pin_thread(0, cpu)
}

/// Lets a thread, 0 for the calling one, run on one CPU only, from its next wakeup if it sleeps.
pub fn pin_thread(thread: libc::pid_t, cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is a valid set, and the size is its own.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
