//! `stallscope top` with a real agent: whoever a quota holds up is first, and is explained.

mod kernel;
#[path = "top/terminal.rs"]
mod terminal;

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::Group;
use terminal::{LONG, Session};

fn stallscope(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
    command.args(args).env_remove("NO_COLOR");
    command
}

/// `stallscope run`, killed when dropped.
struct Agent(Child);

impl Agent {
    fn start(address: &str) -> Self {
        let child = stallscope(&["run", "--doctor", "off", "--listen", address])
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the binary runs"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hundredth of a CPU for a group, until this is dropped: tasks need CPU time to start and to end, too.
struct Throttle<'a>(&'a Group);

impl<'a> Throttle<'a> {
    fn new(group: &'a Group) -> Self {
        limit(group, Some(2000));
        Self(group)
    }
}

impl Drop for Throttle<'_> {
    fn drop(&mut self) {
        limit(self.0, None);
    }
}

/// A quota of `quota` us each 200 ms, or none.
fn limit(group: &Group, quota: Option<u64>) {
    if group.dir.join("cpu.max").exists() {
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        group.write("cpu.max", &format!("{quota} 200000"));
    } else {
        let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
        group.write("cpu.cfs_period_us", "200000");
        group.write("cpu.cfs_quota_us", &quota);
    }
}

/// The names in a table, in order.
fn ranking(address: &str, sort: &str) -> Vec<String> {
    let output = stallscope(&[
        "top", "--once", "--window", "5s", "--agent", address, "--sort", sort,
    ])
    .output()
    .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains('\x1b'), "{text}");
    let name = |line: &str| {
        line.split_whitespace()
            .nth(8)
            .unwrap_or_default()
            .to_owned()
    };
    text.lines().skip(1).map(name).collect()
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups with a CPU quota"]
fn whoever_a_quota_holds_up_is_first_and_is_explained() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = port.local_addr().expect("an address").to_string();
    drop(port);
    let group = Group::new("top");
    // More that wait for the quota than any other cgroup has tasks that wait for CPUs.
    let waiting = group.spin(40);
    let throttle = Throttle::new(&group);
    let agent = Agent::start(&address);

    let deadline = Instant::now() + LONG;
    for sort in ["throttled", "lost"] {
        loop {
            let names = ranking(&address, sort);
            if names.first() == Some(&group.label) {
                break;
            }
            assert!(Instant::now() < deadline, "by {sort}: {names:?}");
            sleep(Duration::from_millis(500));
        }
    }

    let args = [
        "top",
        "--agent",
        &address,
        "--filter",
        "stallscope-test",
        "--interval",
        "500ms",
    ];
    let mut session = Session::start(&mut stallscope(&args), (40, 120));
    session.sees(&group.label);
    session.keys("\r");
    session.sees("Its CPU quota was used up");
    session.sees("a second");
    let bars = |screen: &vt100::Screen| {
        let text = screen.contents();
        let line = text.lines().find(|line| line.starts_with("throttled "));
        line.is_some_and(|line| line.chars().any(|c| ('▁'..='█').contains(&c)))
    };
    session.until("bars of the time throttled", bars);

    drop(agent);
    session.sees("no agent answers");
    assert!(session.text().contains("Its CPU quota was used up"));
    let again = Agent::start(&address);
    session.sees_no("no agent answers");
    session.keys("q");
    assert_eq!(session.end().0.code(), Some(0));
    drop((throttle, again, waiting));
}
