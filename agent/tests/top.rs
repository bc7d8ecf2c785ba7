//! `stallscope top` as users see it: in a pipe, and at a terminal, with the real server behind it.

#[path = "top/terminal.rs"]
mod terminal;

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread::JoinHandle,
};

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use stallscope::{
    api::Refusal,
    server::{Answers, Config, Handlers, bind, serve},
};
use terminal::Session;
use tokio::sync::oneshot;

const SIZE: (u16, u16) = (24, 80);

fn fixture(name: &str) -> String {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/top")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&fixture(name)).expect("JSON")
}

/// The agent's server, with constant answers.
struct Agent {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(address: &str) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let address = address.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = bind(&address).expect("the port is free");
                tell.send(listener.local_addr().expect("an address").to_string())
                    .expect("somebody waits");
                let registry = prometheus::Registry::new();
                let stopped = async { drop(stopped.await) };
                serve(Config::default(), listener, handlers(), &registry, stopped)
                    .await
                    .expect("it serves");
            });
        });
        Self {
            address: told.recv().expect("it listens"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn handlers() -> Handlers {
    let top = json("busy.json");
    let always =
        |answer: Value| -> stallscope::server::Answer { Arc::new(move |_| Ok(answer.clone())) };
    Handlers {
        health: Arc::new(|| Ok(())),
        collect: Arc::new(|_| Ok(Bytes::new())),
        ready: Arc::new(|| Ok(())),
        status: Arc::new(|| Value::Null),
        topology: Value::Null,
        answers: Answers {
            top: Arc::new(move |request| match request.window.as_deref() {
                Some("9h") => Err(Refusal::bad("`window=9h` is longer than what is kept")),
                _ => Ok(top.clone()),
            }),
            timeline: always(json("timeline.json")),
            explain: always(json("explain.json")),
        },
    }
}

fn top(agent: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
    command
        .args(["top", "--agent", agent])
        .args(args)
        .env_remove("NO_COLOR");
    command
}

fn output(agent: &str, args: &[&str]) -> Output {
    top(agent, args).output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn its_help_has_examples() {
    let output = output("x", &["--help"]);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        help.contains("Examples:") && help.contains("stallscope top --once"),
        "{help}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (args, named) in [
        (
            ["--sort", "foo"],
            "lost, cpu, migrations, remote, own, neighbour",
        ),
        (["--window", "0s"], "expected 1s or more"),
        (["--window", "soon"], "expected 1s or more"),
        (["--interval", "1ms"], "expected 500ms to 1h"),
    ] {
        let output = output("127.0.0.1:1", &args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said(&output).contains(named), "{}", said(&output));
    }
}

#[test]
fn an_agent_that_does_not_answer_is_named_with_what_to_do() {
    for args in [&[][..], &["--once"], &["--json"]] {
        let output = output("127.0.0.1:1", args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
        for named in [
            "no agent answers at 127.0.0.1:1",
            "stallscope run",
            "--agent",
        ] {
            assert!(said(&output).contains(named), "{}", said(&output));
        }
    }
    let (status, text) = Session::start(&mut top("127.0.0.1:1", &[]), SIZE).end();
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("no agent answers at 127.0.0.1:1"), "{text}");
}

#[test]
fn what_the_agent_refuses_is_said_in_its_words() {
    let agent = Agent::start("127.0.0.1:0");
    let output = output(&agent.address, &["--once", "--window", "9h"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("`window=9h` is longer than what is kept"));
    assert!(
        !said(&output).contains("stallscope run"),
        "it runs: {}",
        said(&output)
    );
}

#[test]
fn in_a_pipe_it_is_a_table() {
    let agent = Agent::start("127.0.0.1:0");
    for args in [&[][..], &["--once"]] {
        let output = output(&agent.address, args);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            fixture("once.golden")
        );
    }
    let dumb = top(&agent.address, &["--filter", "CART"])
        .env("TERM", "dumb")
        .output();
    let text = String::from_utf8(dumb.expect("the binary runs").stdout).expect("text");
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("shop/cart-0 server\n"), "{text}");
}

#[test]
fn json_is_sorted_and_filtered_too() {
    let agent = Agent::start("127.0.0.1:0");
    let output = output(
        &agent.address,
        &["--json", "--sort", "cpu", "--filter", "/"],
    );
    assert!(output.status.success(), "{}", said(&output));
    let top: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let containers = top["containers"].as_array().expect("containers");
    assert_eq!(containers[0]["labels"]["container"], "clickhouse");
    assert_eq!(
        containers.len(),
        json("busy.json")["containers"]
            .as_array()
            .map_or(0, Vec::len)
            - 1
    );
    assert_eq!(top["agent"], json("busy.json")["agent"]);
}

#[test]
fn a_pipe_that_closes_early_is_no_error() {
    let agent = Agent::start("127.0.0.1:0");
    let mut child = top(&agent.address, &["--once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn a_session_from_the_list_to_one_container_and_back() {
    let agent = Agent::start("127.0.0.1:0");
    let mut session = Session::start(&mut top(&agent.address, &["--interval", "500ms"]), SIZE);
    session.sees("shop/cart-0 server");
    session.until("an alternate screen", vt100::Screen::alternate_screen);
    session.keys("/clickh");
    session.sees("1 of 7");
    session.keys("\r\x1b[B\r");
    session.sees("12.7 s in 60 s");
    session.keys("\x1b");
    session.sees("Enter why");
    session.keys("s?");
    session.sees("page faults on another NUMA node");
    session.keys("x");
    session.sees("by cpu");
    session.keys("q");
    let (status, text) = session.end();
    assert_eq!(status.code(), Some(0));
    assert!(!text.contains("shop"), "nothing is left: {text}");
}

#[test]
fn names_cannot_touch_the_terminal() {
    let agent = Agent::start("127.0.0.1:0");
    let mut session = Session::start(&mut top(&agent.address, &["--filter", "evil"]), (24, 140));
    session.sees(r"l\x1b[2J\x0d\x0a\x09name");
    session.keys("\x03");
    assert_eq!(session.end().0.code(), Some(0));
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let agent = Agent::start("127.0.0.1:0");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut session = Session::start(&mut top(&agent.address, &[]), SIZE);
        session.sees("shop/cart-0 server");
        session.signal(signal);
        assert_eq!(session.end().0.signal(), Some(signal.as_raw()));
    }
}

#[test]
fn it_ends_with_its_terminal() {
    let agent = Agent::start("127.0.0.1:0");
    let mut session = Session::start(&mut top(&agent.address, &[]), SIZE);
    session.sees("shop/cart-0 server");
    assert!(!session.hang_up().success());
}

#[test]
fn an_agent_that_goes_is_said_to_and_one_that_comes_back_is_followed() {
    let agent = Agent::start("127.0.0.1:0");
    let address = agent.address.clone();
    let mut session = Session::start(&mut top(&address, &["--interval", "500ms"]), (24, 120));
    session.sees("shop/cart-0 server");
    drop(agent);
    session.sees(&format!("s old: no agent answers at {address}"));
    assert!(
        session.text().contains("shop/cart-0 server"),
        "{}",
        session.text()
    );
    let agent = Agent::start(&address);
    session.sees_no("no agent answers");
    assert!(
        session.text().contains("shop/cart-0 server"),
        "{}",
        session.text()
    );
    session.keys("q");
    assert_eq!(session.end().0.code(), Some(0));
    drop(agent);
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let agent = Agent::start("127.0.0.1:0");
    let coloured = |screen: &vt100::Screen| {
        let (lines, columns) = screen.size();
        let (lines, columns) = (lines.get(), columns.get());
        (0..lines)
            .flat_map(|line| (0..columns).map(move |column| (line, column)))
            .filter_map(|(line, column)| screen.cell(line, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default)
    };
    for (value, expected) in [("1", false), ("", true)] {
        let mut command = top(&agent.address, &[]);
        let mut session = Session::start(command.env("NO_COLOR", value), SIZE);
        session.sees("Enter why");
        assert_eq!(coloured(session.screen()), expected, "NO_COLOR={value}");
        session.keys("q");
        assert_eq!(session.end().0.code(), Some(0));
    }
}

#[test]
fn the_smallest_terminal_will_do() {
    let agent = Agent::start("127.0.0.1:0");
    for size in [(1, 1), (3, 10), (6, 20)] {
        let mut session = Session::start(&mut top(&agent.address, &[]), size);
        session.until("an alternate screen", vt100::Screen::alternate_screen);
        session.keys("\rq");
        assert_eq!(session.end().0.code(), Some(0), "{size:?}");
    }
}
