//! Every command that prints, into a pipe that nobody reads (`stallscope … | head -0`).

// Clippy takes only the test functions themselves for tests, not what they share.
#![allow(clippy::unwrap_used)]

#[path = "server/client.rs"]
#[allow(dead_code, reason = "a part is for other tests")]
mod client;

use std::fs;
use std::io::pipe;
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use client::{Server, answers, handlers};
use serde_json::{Value, json};
use stallscope::server::{Answers, Config, Handlers};

/// An agent one of whose probes failed, so that `status` exits with 1.
fn agent() -> Server {
    let explained: Value = serde_json::from_str(include_str!("top/explain.json")).unwrap();
    let top: Value = serde_json::from_str(include_str!("top/busy.json")).unwrap();
    let status =
        json!({"version": "test", "probes": [{"probe": "p", "state": "failed", "error": "e"}]});
    let handlers = Handlers {
        status: std::sync::Arc::new(move || status.clone()),
        answers: Answers {
            top: answers(move |_| Ok(top.clone())).top,
            ..answers(move |_| Ok(explained.clone()))
        },
        ..handlers(|_| Ok(Bytes::new()))
    };
    Server::with(Config::default(), handlers)
}

fn run(args: &[&str], stdout: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stallscope"))
        .args(args)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs")
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_changes_no_exit_code_and_is_no_reason_to_complain() {
    let server = agent();
    let address = server.address.to_string();
    // A node with a problem, so that `doctor` exits with 2.
    let node = tempfile::tempdir().unwrap();
    let core = node.path().join("proc/sys/net/core");
    fs::create_dir_all(&core).unwrap();
    fs::write(core.join("bpf_jit_enable"), "0\n").unwrap();
    let commands = tokio::task::spawn_blocking(move || {
        let (node, agent) = (node.path().to_str().unwrap(), address.as_str());
        for (args, code) in [
            (&["status", "--agent", agent][..], 1),
            (&["status", "--agent", agent, "--json"], 1),
            (&["explain", "--agent", agent, "--worst"], 0),
            (&["explain", "--agent", agent, "--worst", "--json"], 0),
            (&["top", "--agent", agent, "--once"], 0),
            (&["top", "--agent", agent, "--json"], 0),
            (&["topology"], 0),
            (&["topology", "--json"], 0),
            (&["doctor", "--root", node], 2),
            (&["doctor", "--root", node, "--json"], 2),
            (&["--help"], 0),
            (&["doctor", "--help"], 0),
            (&["--version"], 0),
        ] {
            let output = run(args, Stdio::piped());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.stdout.is_empty(), "{args:?}: {said}");
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");

            let (reader, writer) = pipe().unwrap();
            drop(reader);
            let output = run(args, writer.into());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert_eq!(said, "", "{args:?}");
        }
    });
    commands.await.unwrap();
}
