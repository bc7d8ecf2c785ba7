//! The command line as users see it: output and exit codes.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

fn stallscope(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stallscope"))
        .args(args)
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn root() -> bool {
    // SAFETY: geteuid(2) has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn a_bad_flag_is_named_and_exits_with_2() {
    let output = stallscope(&["run", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("--no-such-flag"),
        "{}",
        said(&output)
    );
    let output = stallscope(&["run", "--controller", "io"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("expected cpu, pids or memory"),
        "{}",
        said(&output)
    );
    let output = stallscope(&["run", "--slots", "1"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["run", "status", "topology", "doctor"] {
        let output = stallscope(&[command, "--help"]);
        assert!(output.status.success());
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            help.contains("Examples:") && help.contains(&format!("stallscope {command}")),
            "{help}"
        );
    }
}

#[test]
fn a_port_in_use_is_named_with_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("an address").to_string();
    let output = stallscope(&["run", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.contains(&address) && said.contains("--listen"),
        "{said}"
    );
    assert!(
        said.contains(&std::process::id().to_string()),
        "it names the process: {said}"
    );
}

#[test]
fn a_bad_address_says_what_was_expected() {
    for address in ["9750", "localhost", "1.2.3.4:99999", "::1:9750"] {
        let output = stallscope(&["run", "--listen", address]);
        assert_eq!(output.status.code(), Some(1), "{address}");
        assert!(said(&output).contains("ADDR:PORT"), "{}", said(&output));
    }
}

#[test]
fn without_capabilities_the_missing_ones_are_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
    command.args(["status", "--try"]);
    if root() {
        // Others cannot start a binary below a home directory that they may not enter.
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path().join("stallscope");
        std::fs::copy(env!("CARGO_BIN_EXE_stallscope"), &copy).expect("a copy");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("permissions");
        let output = Command::new(&copy)
            .args(["status", "--try"])
            .uid(65534)
            .gid(65534)
            .output()
            .expect("the binary runs");
        assert_missing(&output);
    } else {
        assert_missing(&command.output().expect("the binary runs"));
    }
}

fn assert_missing(output: &Output) {
    assert_eq!(output.status.code(), Some(1));
    let said = said(output);
    assert!(said.contains("CAP_BPF and CAP_PERFMON"), "{said}");
    assert!(said.contains("run as root"), "{said}");
}

#[test]
fn an_agent_that_does_not_answer_is_named() {
    let output = stallscope(&["status", "--agent", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("no agent answers at 127.0.0.1:1"),
        "{}",
        said(&output)
    );
}

#[test]
fn something_else_at_the_agents_address_is_told_apart() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        // Closing a connection with unread data resets it, and the client would lose the answer.
        let lines = BufReader::new(&stream).lines();
        let _ = lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .count();
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n<html>");
    });
    let output = stallscope(&["status", "--agent", &address]);
    server.join().expect("the server ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("is no Stallscope agent"),
        "{}",
        said(&output)
    );
}

#[test]
fn topology_prints_text_and_json() {
    let output = stallscope(&["topology"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("CPU"));
    let output = stallscope(&["topology", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(json["levels"].is_array(), "{json}");
    let output = stallscope(&["topology", "--sys", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/nonexistent"), "{}", said(&output));
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn an_unreadable_cgroup_root_is_named() {
    let output = stallscope(&["status", "--try", "--cgroup-root", "/nonexistent/cgroup"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("/nonexistent/cgroup"),
        "{}",
        said(&output)
    );
    let plain = tempfile::tempdir().expect("a directory");
    let output = stallscope(&[
        "status",
        "--try",
        "--cgroup-root",
        &plain.path().display().to_string(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cgroup"), "{}", said(&output));
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn status_says_what_each_probe_does_and_exits_with_0_where_nothing_failed() {
    let output = stallscope(&["status", "--try", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for probe in report["probes"].as_array().expect("probes") {
        match probe["state"].as_str().expect("a state") {
            "attached" => assert!(!probe["by"].as_array().expect("hooks").is_empty()),
            "unsupported" => assert!(probe["reason"].as_str().expect("a reason").len() > 10),
            other => panic!("{other}: {probe}"),
        }
    }
}
