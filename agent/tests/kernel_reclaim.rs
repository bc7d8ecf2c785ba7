//! Direct reclaim against the kernel's tracepoints, which the test reads through tracefs instead of BPF.

mod kernel;

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kernel::{Group, Memory, Scrape, agent, label};
use stallscope::{agent::Config, probe::State};

/// A tracefs instance for the test. It mounts tracefs if needed.
struct Tracing {
    instance: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Tracing {
    /// Records `events` (such as `vmscan/mm_vmscan_memcg_reclaim_begin`) of one thread, with the clock that
    /// `bpf_ktime_get_ns` reads.
    fn of(pid: u32, events: &[&str]) -> Self {
        let usual = Path::new("/sys/kernel/tracing");
        let mut mounted = None;
        let mut root = PathBuf::from(usual);
        if !usual.join("instances").exists() {
            let dir = tempfile::tempdir().expect("a directory");
            let done = Command::new("mount")
                .args(["-t", "tracefs", "none"])
                .arg(dir.path())
                .status();
            assert!(done.expect("mount starts").success());
            root = dir.path().into();
            mounted = Some(dir);
        }
        let name = format!("stallscope-test-{}-{pid}", std::process::id());
        let instance = root.join("instances").join(name);
        fs::create_dir(&instance).expect("an instance of tracefs");
        let tracing = Self { instance, mounted };
        tracing.write("trace_clock", "mono");
        tracing.write("buffer_size_kb", "16384");
        for event in events {
            tracing.write(
                &format!("events/{event}/filter"),
                &format!("common_pid == {pid}"),
            );
            tracing.write(&format!("events/{event}/enable"), "1");
        }
        tracing
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.instance.join(file), text)
            .unwrap_or_else(|error| panic!("cannot write {text} to {file}: {error}"));
    }

    /// Returns the nanoseconds from each begin to the end that follows.
    fn pairs(&self) -> Vec<u64> {
        self.write("tracing_on", "0");
        let text = fs::read_to_string(self.instance.join("trace")).expect("the trace is readable");
        let mut pairs = Vec::new();
        let mut began = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split_whitespace().rev().collect::<Vec<_>>();
            fields.reverse();
            let at = fields
                .iter()
                .position(|field| field.starts_with("mm_"))
                .unwrap_or_else(|| panic!("an event: {line}"));
            let micros: u64 = fields[at - 1]
                .trim_end_matches(':')
                .replace('.', "")
                .parse()
                .expect("seconds with six decimals");
            if fields[at].contains("_begin") {
                assert_eq!(began.replace(micros), None, "no nesting: {line}");
            } else {
                pairs.push((micros - began.take().expect("a begin before")) * 1000);
            }
        }
        pairs
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        if let Some(dir) = &self.mounted {
            let _ = Command::new("umount").arg(dir.path()).status();
        }
    }
}

/// Starts a shell in the given cgroups that runs `script` on command.
fn shell(cgroups: &[&Path], script: &str) -> Child {
    let procs: Vec<PathBuf> = cgroups.iter().map(|dir| dir.join("cgroup.procs")).collect();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec it only writes files.
    unsafe {
        command.pre_exec(move || procs.iter().try_for_each(|file| fs::write(file, "0")));
    }
    command.spawn().expect("sh starts")
}

/// Runs the shell's script and returns how long it took.
fn run(mut shell: Child) -> Duration {
    let started = Instant::now();
    let mut input = shell.stdin.take().expect("a pipe");
    input.write_all(b"go\n").expect("the shell reads");
    drop(input);
    let status = shell.wait().expect("the shell ends");
    assert!(status.success(), "{status}");
    started.elapsed()
}

/// Returns the exported total and histogram sum of a cgroup and cause in nanoseconds, and the count, which must equal
/// the last bucket.
fn exported(scrape: &Scrape, group: &Group, cause: &str) -> (u64, u64, u64) {
    let labels = [label("cgroup", &group.label), label("cause", cause)];
    let seconds = |family| {
        scrape
            .exact(family, &labels)
            .unwrap_or_else(|| panic!("{family}"))
    };
    let count: u64 = scrape
        .series("stallscope_reclaim_seconds_count", &labels)
        .map(|(_, value)| value.parse::<u64>().expect("a count"))
        .sum();
    let bucket = [&labels[..], &[label("le", "+Inf")]].concat();
    let last: u64 = scrape
        .series("stallscope_reclaim_seconds_bucket", &bucket)
        .map(|(_, value)| value.parse::<u64>().expect("a count"))
        .sum();
    assert_eq!(count, last);
    let total = seconds("stallscope_task_stall_seconds_total");
    (total, seconds("stallscope_reclaim_seconds_sum"), count)
}

/// Pins a task to CPU 0.
fn pin(pid: i32) {
    // SAFETY: a set of plain bits, and its size.
    let done = unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(pid, size_of_val(&set), &raw const set)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Returns the group's wait for CPUs, while its tasks reclaimed or not.
fn waited(scrape: &Scrape, group: &Group) -> u64 {
    let labels = [label("cgroup", &group.label)];
    let waited = scrape.exact("stallscope_stall_seconds_total", &labels);
    waited.expect("the wait is measured")
}

/// Checks that the exported time equals the traced time without the wait for a CPU, which the probe does not count. The
/// two clocks are read at slightly different moments, between which an interrupt may come.
fn between(total: u64, traced: u64, waited: u64, count: u64) {
    let slack = count * 20_000;
    assert!(total <= traced + slack, "{total} of {traced} ns");
    assert!(
        total + waited + slack >= traced,
        "{total} + {waited} of {traced} ns"
    );
}

/// Checks that no part of the probe failed, and that it lost nothing but ends of reclaims that were under way at the
/// start.
fn sound(agent: &stallscope::agent::Agent, scrape: &Scrape) {
    for probe in agent
        .status()
        .probes
        .iter()
        .filter(|p| p.probe == "reclaim")
    {
        for hook in &probe.hooks {
            println!(
                "{}: {} {}",
                hook.hook,
                hook.state.label(),
                hook.state.detail()
            );
            assert!(matches!(hook.state, State::Attached { .. }));
        }
    }
    for reason in ["tasks_overflow", "cgroups_overflow", "end_unseen"] {
        let labels = [label("probe", "reclaim"), label("reason", reason)];
        assert_eq!(
            scrape.exact("stallscope_lost_events_total", &labels),
            Some(0),
            "{reason}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: writes 96 MB in a memory cgroup of 32 MB"]
fn reclaim_at_a_memory_limit_is_what_the_tracepoints_say() {
    let group = Group::new("memcg");
    let other = Group::new("memcg-other");
    let memory = Memory::limited(&group, 32 << 20);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    let mut agent = agent(Config::default());
    let script = format!(
        "exec dd if=/dev/zero of={} bs=64k count=1536",
        file.display()
    );
    let child = shell(&[&group.dir, &memory.dir], &script);
    let pid = child.id();
    let trace = Tracing::of(
        pid,
        &[
            "vmscan/mm_vmscan_memcg_reclaim_begin",
            "vmscan/mm_vmscan_memcg_reclaim_end",
        ],
    );
    let _ = run(shell(&[&other.dir], "true"));
    let passed = run(child);
    let truth = trace.pairs();
    let scrape = Scrape::of(&mut agent);
    sound(&agent, &scrape);
    let (total, sum, count) = exported(&scrape, &group, "memcg_reclaim");
    let traced: u64 = truth.iter().sum();
    println!(
        "{count} reclaims, {total} ns; traced {} of {traced} ns; {passed:?} passed",
        truth.len()
    );
    assert!(count > 0);
    assert_eq!(count, truth.len() as u64);
    assert_eq!(total, sum);
    assert!(total > 0 && u128::from(total) < passed.as_nanos());
    between(total, traced, waited(&scrape, &group), count);
    let labels = [label("cgroup", &other.label)];
    assert_eq!(
        scrape
            .series("stallscope_task_stall_seconds_total", &labels)
            .count(),
        0
    );
}

#[test]
#[ignore = "needs root and BPF: compacts memory"]
fn compaction_in_the_tasks_own_time_is_what_the_tracepoints_say() {
    const TIMES: usize = 31;
    let group = Group::new("compact");
    let other = Group::new("compact-other");
    let mut agent = agent(Config::default());
    let script = format!("for i in $(seq {TIMES}); do echo 1 > /proc/sys/vm/compact_memory; done");
    let child = shell(&[&group.dir], &script);
    // The two share one CPU, so that about half of the time is a wait for it.
    let rival = other.spin(1);
    for pid in [child.id().cast_signed(), rival[0].pid()] {
        pin(pid);
    }
    let trace = Tracing::of(
        child.id(),
        &[
            "compaction/mm_compaction_begin",
            "compaction/mm_compaction_end",
        ],
    );
    let passed = run(child);
    let truth = trace.pairs();
    let scrape = Scrape::of(&mut agent);
    sound(&agent, &scrape);
    let (total, sum, count) = exported(&scrape, &group, "compaction");
    let traced: u64 = truth.iter().sum();
    println!(
        "{count} compactions, {total} ns; traced {} of {traced} ns; {passed:?} passed",
        truth.len()
    );
    let on_cpu = scrape.exact(
        "stallscope_cpu_seconds_total",
        &[label("cgroup", &group.label)],
    );
    let on_cpu = on_cpu.expect("the time on CPUs is measured");
    println!("on CPUs {on_cpu} ns, waited {} ns", waited(&scrape, &group));
    // Compaction hardly sleeps: time beyond its CPU time would be a wait.
    assert!(
        total <= on_cpu + on_cpu / 8,
        "the wait for the CPU is in it"
    );
    assert!(
        waited(&scrape, &group) > on_cpu / 3,
        "there was something to leave out"
    );
    // Each write compacts every zone of every node.
    assert!(count > 0 && count.is_multiple_of(TIMES as u64), "{count}");
    assert_eq!(count, truth.len() as u64);
    assert_eq!(total, sum);
    assert!(total > 0 && u128::from(total) < passed.as_nanos());
    between(total, traced, waited(&scrape, &group), count);
}
