//! `stallscope top` with a real agent: the container that a quota throttles most is first, with an explanation.

mod kernel;
mod serving;
#[path = "top/terminal.rs"]
mod terminal;

use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::Group;
use serving::Serving;
use terminal::{LONG, Session};

fn stallscope(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
    command.args(args).env_remove("NO_COLOR");
    command
}

/// A limit of a hundredth of a CPU for a group. Dropping it removes the limit, because tasks need CPU time to start and
/// to end, too.
struct Throttle<'a>(&'a Group);

impl<'a> Throttle<'a> {
    fn new(group: &'a Group) -> Self {
        group.limit(Some(1000));
        Self(group)
    }
}

impl Drop for Throttle<'_> {
    fn drop(&mut self) {
        self.0.limit(None);
    }
}

/// Returns the names in a table, in order.
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
    let group = Group::new("top");
    // More tasks wait for the quota than any other cgroup has tasks that wait for CPUs.
    let waiting = group.spin(40);
    let throttle = Throttle::new(&group);
    let agent = Serving::start(["--doctor", "off"]);
    let address = agent.address.clone();

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
    let again = Serving::on(&address, ["--doctor", "off"]);
    session.sees_no("no agent answers");
    session.keys("q");
    assert_eq!(session.end().0.code(), Some(0));
    drop((throttle, again, waiting));
}
