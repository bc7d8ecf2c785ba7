//! Hanging, broken and stopped surroundings of a real agent, and how the agent copes.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

mod kernel;
mod serving;

#[path = "hangs/fuse.rs"]
mod fuse;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use fuse::{Fuse, State, apart};
use kernel::Group;
use serde_json::Value;
use serving::http;

/// Timeout longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(120);

const SPIN: &str = "while :; do :; done";

/// An agent as a child process. Dropping it ends the process by any means.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(change: impl FnOnce(&mut Command)) -> Self {
        let address = http::free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
        command.args(["run", "--listen", &address]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        change(&mut command);
        let child = command.spawn().expect("the agent starts");
        Self { child, address }
    }

    fn ready(self) -> Self {
        http::wait(&self.address, "/readyz", || "see its log above".to_owned());
        self
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(&self.address, path)
    }

    fn json(&self, path: &str) -> Value {
        let (_, body) = self.get(path).expect("an answer");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Returns a sample of a scrape; 0 when absent.
    fn sample(&self, series: &str) -> f64 {
        let (status, text) = self.get("/metrics").expect("a scrape");
        assert_eq!(status, 200, "{text}");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(series));
        lines
            .find_map(|rest| rest.trim().parse().ok())
            .unwrap_or(0.0)
    }

    /// Repeats a request until the answer is good.
    fn until(&self, path: &str, good: impl Fn(u16, &str) -> bool) -> String {
        let end = Instant::now() + LONG;
        loop {
            let answer = self.get(path);
            if let Some((status, body)) = &answer
                && good(*status, body)
            {
                return body.clone();
            }
            assert!(Instant::now() < end, "{path}: {answer:?}");
            sleep(Duration::from_millis(100));
        }
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: our own child, which was not waited for, so that the pid is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Returns the state from `/proc/PID/stat`.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until the process ends.
    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            sleep(Duration::from_millis(20));
        }
    }

    /// Checks, over separate connections, every answer that must work no matter what hangs.
    fn lives(&self) {
        // The first second must be over.
        self.until("/api/v1/top", |status, _| status == 200);
        for _ in 0..10 {
            for path in [
                "/healthz",
                "/readyz",
                "/metrics",
                "/api/v1/status",
                "/api/v1/top",
            ] {
                let (status, body) = self.get(path).expect(path);
                assert_eq!(status, 200, "{path}: {body}");
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system that hangs and an agent that reads it. The file system is dropped first, otherwise the agent could not
/// end.
struct Both {
    fuse: Fuse,
    agent: Agent,
}

impl Both {
    fn start(state: State) -> Self {
        let fuse = Fuse::mount(state);
        let agent = Agent::start(|command| {
            command.args(["--doctor", "10s", "--pod-source", "files"]);
            for option in ["--doctor-root", "--kubelet-logs"] {
                command.arg(option).arg(fuse.path());
            }
        });
        Self {
            fuse,
            agent: agent.ready(),
        }
    }

    fn names(&self, text: &str) -> bool {
        text.contains(&*self.fuse.path().to_string_lossy())
    }
}

/// Returns whether FUSE file systems are unavailable, and prints the reason.
fn skipped() -> bool {
    let why = fuse::unavailable();
    if let Some(why) = &why {
        println!("skipped: {why}");
    }
    why.is_some()
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and mounts a file system"]
fn a_file_system_that_hangs_stops_nothing_but_what_needs_it() {
    if skipped() {
        return;
    }
    apart(|| {
        let mut both = Both::start(State::Deaf);
        both.agent.lives();
        // The agent refuses requests that need a file there, naming the file, each time.
        for _ in 0..3 {
            let refused = both
                .agent
                .until("/api/v1/explain?worst=1", |status, _| status == 503);
            assert!(
                both.names(&refused) && refused.contains("has not answered"),
                "{refused}"
            );
        }
        for what in ["facts", "audit", "kubelet_logs"] {
            let timeouts = format!("stallscope_read_timeouts_total{{what=\"{what}\"}} ");
            let end = Instant::now() + LONG;
            while both.agent.sample(&timeouts) < 1.0 {
                assert!(Instant::now() < end, "{what} is never given up");
                sleep(Duration::from_millis(100));
            }
            let hanging = format!("stallscope_reads_hanging{{what=\"{what}\"}} ");
            assert!((both.agent.sample(&hanging) - 1.0).abs() < 1e-9, "{what}");
        }
        // One thread hangs for each file, no matter how often it is requested.
        let tasks = format!("/proc/{}/task", both.agent.child.id());
        let threads = fs::read_dir(tasks).expect("its threads").filter(|task| {
            let comm = task.as_ref().map(|task| task.path().join("comm"));
            let comm = comm.ok().and_then(|path| fs::read_to_string(path).ok());
            comm.is_some_and(|name| name.starts_with("read-facts"))
        });
        assert_eq!(threads.count(), 1);
        both.agent.lives();
        both.agent.signal(libc::SIGTERM);
        let status = both.agent.ended();
        assert!(status.success(), "{status}");
    });
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and mounts a file system"]
fn a_file_system_that_answers_again_is_read_again() {
    if skipped() {
        return;
    }
    apart(|| {
        let mut both = Both::start(State::Answers);
        let explained = "/api/v1/explain?worst=1";
        both.agent.until(explained, |status, _| status == 200);
        both.fuse.set(State::Mute);
        both.agent.until(explained, |status, _| status == 503);
        both.agent.lives();
        let down = "stallscope_pod_source_up{source=\"files\"} 0\n";
        both.agent.until("/metrics", |_, text| text.contains(down));
        both.fuse.set(State::Answers);
        both.agent.until(explained, |status, _| status == 200);
        let up = "stallscope_pod_source_up{source=\"files\"} 1\n";
        both.agent.until("/metrics", |_, text| text.contains(up));
        // The kernel cannot kill a thread whose request FUSE has read and not answered (docs/quirks.md). Everything
        // else ends, and the process is gone as soon as the file system fails or answers.
        both.fuse.set(State::Mute);
        both.agent.until(explained, |status, _| status == 503);
        both.agent.signal(libc::SIGINT);
        let end = Instant::now() + LONG;
        while both.agent.state() != Some('Z') && both.agent.get("/healthz").is_some() {
            assert!(Instant::now() < end, "it goes on");
            sleep(Duration::from_millis(20));
        }
        both.fuse.set(State::Answers);
        let status = both.agent.ended();
        assert!(status.success(), "{status}");
    });
}

/// Starts an agent whose log goes to a pipe. Returns the agent and the reading end.
fn piped(logs: &Path) -> (Agent, BufReader<std::process::ChildStderr>) {
    let mut agent = Agent::start(|command| {
        command.args(["--doctor", "off", "--pod-source", "files", "--kubelet-logs"]);
        command.arg(logs).stderr(Stdio::piped());
        command.env("RUST_LOG", "stallscope=debug");
    });
    let log = agent.child.stderr.take().expect("a pipe");
    (agent, BufReader::new(log))
}

/// Makes directories that the agent complains about in its log at its next look.
fn trouble(logs: &Path, count: usize) {
    for name in 0..count {
        let name = format!("not_a_pod_{name}_{}", "x".repeat(60));
        fs::create_dir_all(logs.join("pods").join(name)).expect("a folder");
    }
}

/// Waits until log lines are lost, and for further looks after that.
fn goes_on(agent: &Agent) {
    agent.until("/metrics", |_, text| {
        let mut lost = text.lines();
        lost.any(|line| {
            let count = line.strip_prefix("stallscope_log_lines_lost_total ");
            count.is_some_and(|count| count != "0")
        })
    });
    let recorded = || agent.json("/api/v1/top?window=1s")["time"].as_f64();
    let before = recorded();
    agent.until("/api/v1/top?window=1s", |_, body| {
        let top: Value = serde_json::from_str(body).unwrap_or_default();
        top["time"].as_f64() > before.map(|time| time + 2.0)
    });
    agent.lives();
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn a_log_that_nobody_can_read_any_more_stops_nothing() {
    let logs = tempfile::tempdir().expect("a folder");
    let (agent, mut log) = piped(logs.path());
    let mut first = String::new();
    log.read_line(&mut first).expect("a line");
    let mut agent = agent.ready();
    drop(log);
    trouble(logs.path(), 3);
    goes_on(&agent);
    agent.signal(libc::SIGTERM);
    assert!(agent.ended().success());
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn a_log_that_nobody_reads_stops_nothing() {
    let logs = tempfile::tempdir().expect("a folder");
    let (agent, log) = piped(logs.path());
    // SAFETY: the descriptor of a pipe, which is open.
    let size = unsafe { libc::fcntl(log.get_ref().as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert!(size > 0, "{}", std::io::Error::last_os_error());
    let mut agent = agent.ready();
    // The agent logs a line for each client that leaves in the middle of its request: the pipe fills, and then the
    // queue.
    let end = Instant::now() + LONG;
    while agent.sample("stallscope_log_lines_lost_total ") < 1.0 {
        assert!(Instant::now() < end, "no line is ever lost");
        for _ in 0..200 {
            let mut client = TcpStream::connect(&agent.address).expect("a connection");
            client.write_all(b"GET /metr").expect("a part of a request");
        }
    }
    goes_on(&agent);
    agent.signal(libc::SIGTERM);
    assert!(agent.ended().success());
    drop(log);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes a cgroup and loads a CPU"]
fn of_the_time_for_which_it_was_stopped_only_the_sum_is_known() {
    let mut agent = Agent::start(|command| {
        command.args(["--doctor", "off", "--pod-source", "none"]);
    })
    .ready();
    let group = Group::new("stopped");
    let _task = group.spawn(SPIN);
    let cgroup = http::encoded(&group.label);
    let line = format!("/api/v1/timeline?cgroup={cgroup}&window=1m");
    agent.until(&line, |status, _| status == 200);
    agent.signal(libc::SIGSTOP);
    while agent.state() != Some('T') {
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_secs(6));
    agent.signal(libc::SIGCONT);
    // The record must have some seconds after the gap.
    let gap = |line: &Value| {
        let gaps = line["gaps"].as_array().cloned().unwrap_or_default();
        let longest = gaps.into_iter().max_by_key(|gap| gap["seconds"].as_u64());
        longest.filter(|gap| gap["seconds"].as_u64() >= Some(5))
    };
    let body = agent.until(&line, |_, body| {
        let line: Value = serde_json::from_str(body).unwrap_or_default();
        let cpu = line["cpu_seconds"].as_array().cloned().unwrap_or_default();
        gap(&line).is_some() && cpu.last().is_some_and(Value::is_number)
    });
    let found: Value = serde_json::from_str(&body).expect("json");
    let gap = gap(&found).expect("a gap");
    // No second has zeros that nobody measured, nor much more than one task can run between the looks at its two ends,
    // which are less than two seconds apart.
    let cpu = found["cpu_seconds"].as_array().expect("seconds");
    let start = found["start"].as_f64().expect("a time");
    #[expect(
        clippy::cast_sign_loss,
        reason = "no gap starts before the timeline does"
    )]
    let first = (gap["start"].as_f64().expect("a time") - start).round() as usize;
    let length = gap["seconds"].as_u64().expect("a number") as usize;
    assert!(
        cpu[first..first + length].iter().all(Value::is_null),
        "{cpu:?}"
    );
    for (second, value) in cpu.iter().enumerate() {
        let value = value.as_f64().unwrap_or(0.0);
        assert!(value <= 3.0, "{value} s in second {second}: {cpu:?}");
    }
    assert!(gap["cpu_seconds"].as_f64() > Some(0.0), "{gap}");
    // The sums contain all of it. The agent reads wall clock and record one after the other, so the middle of the next
    // second identifies this end, and is in the past by then.
    let end = start + found["steps"].as_f64().expect("a number") + 0.5;
    sleep(Duration::from_secs(1));
    let top = format!("/api/v1/top?cgroup={cgroup}&window=1m&at={end}");
    let top = agent.json(&top);
    let whole = top["containers"][0]["cpu_seconds"].as_f64();
    let gaps = found["gaps"].as_array().expect("gaps").iter();
    let of_gaps: f64 = gaps.filter_map(|gap| gap["cpu_seconds"].as_f64()).sum();
    let of_seconds: f64 = cpu.iter().filter_map(Value::as_f64).sum();
    let whole = whole.expect("a sum");
    assert!(
        (whole - of_gaps - of_seconds).abs() < 1e-4,
        "{whole} is not {of_gaps} + {of_seconds}"
    );
    agent.signal(libc::SIGTERM);
    assert!(agent.ended().success());
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn no_thread_keeps_a_capability() {
    let logs = tempfile::tempdir().expect("a folder");
    let agent = Agent::start(|command| {
        command.args(["--drop-capabilities", "--doctor", "10s", "--kubelet-logs"]);
        command.arg(logs.path());
    })
    .ready();
    let status = agent.json("/api/v1/status");
    if status["capabilities"]
        .as_array()
        .is_some_and(|all| !all.is_empty())
    {
        println!("skipped: this kernel does not let the agent measure without: {status}");
        return;
    }
    // Threads that are started for a request count too.
    agent.until("/api/v1/explain?worst=1", |status, _| status == 200);
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.child.id())).expect("its threads");
    let mut names = Vec::new();
    for task in tasks.flatten() {
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let name = field("Name:").unwrap_or_default().trim().to_owned();
        for set in ["CapEff:", "CapPrm:"] {
            let bits = field(set).unwrap_or_default().trim();
            assert_eq!(
                u64::from_str_radix(bits, 16),
                Ok(0),
                "{name} has {set} {bits}"
            );
        }
        names.push(name);
    }
    for name in ["agent", "log", "signals", "read-facts"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
}
