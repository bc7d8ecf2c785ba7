//! The command as users see it: exit codes, output, and audits without root.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::fixture::{change, node};

fn doctor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stallscope"))
        .arg("doctor")
        .args(args)
        .output()
        .expect("the binary runs")
}

fn on(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["--root", dir.to_str().unwrap()];
    all.extend(args);
    doctor(&all)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_exit_code_is_the_worst_finding() {
    let dir = node("vm");
    assert_eq!(on(dir.path(), &[]).status.code(), Some(0));
    change(dir.path(), "/proc/sys/net/core/somaxconn = 128\n");
    let output = on(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("run: sysctl -w net.core.somaxconn=4096"),
        "{said}"
    );
    assert!(said.contains("docs/doctor/somaxconn.md"), "{said}");
    assert!(!said.contains('\x1b'), "no colours where no terminal is");
    change(dir.path(), "/proc/sys/net/core/bpf_jit_enable = 0\n");
    assert_eq!(on(dir.path(), &["--json"]).status.code(), Some(2));
}

#[test]
fn what_is_no_audit_exits_with_3() {
    for args in [
        &["--root", "/no/such/directory"][..],
        &["--diff", "/no/such/a.json", "/no/such/b.json"],
        &["--no-such-flag"],
        &["--diff", "only-one"],
    ] {
        let output = doctor(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(doctor(&["--help"]).status.code(), Some(0));
}

#[test]
fn json_has_facts_findings_and_what_became_of_each_check() {
    let dir = node("altra");
    change(dir.path(), "/proc/sys/vm/watermark_scale_factor = 1\n");
    let report = json(&on(dir.path(), &["--json"]));
    assert_eq!(report["verdict"], "warnings");
    assert_eq!(
        report["facts"]["memory"]["settings"]["watermark_scale_factor"],
        1
    );
    let finding = &report["findings"][0];
    assert_eq!(finding["check"], "watermark-scale-factor");
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["read"][0], "/proc/sys/vm/watermark_scale_factor");
    assert_eq!(
        finding["mend"][0]["text"],
        "sysctl -w vm.watermark_scale_factor=10"
    );
    assert!(report["checks"].as_array().unwrap().len() > 50);
}

#[test]
fn reports_and_comparisons_are_made_from_the_command_line() {
    let (dir, out) = (node("kunpeng"), tempfile::tempdir().unwrap());
    let report = out.path().join("new/report");
    let made = on(dir.path(), &["--report", report.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0));
    let first = report.join("report.json");
    assert_eq!(
        on(&report, &["--json"]).stdout,
        fs::read(&first)
            .unwrap()
            .into_iter()
            .chain([b'\n'])
            .collect::<Vec<_>>()
    );
    change(dir.path(), "/proc/sys/vm/zone_reclaim_mode = 1\n");
    let second = out.path().join("b.json");
    fs::write(&second, on(dir.path(), &["--json"]).stdout).unwrap();
    let paths = [first.to_str().unwrap(), second.to_str().unwrap()];
    let same = doctor(&["--diff", paths[0], paths[0]]);
    assert_eq!(same.status.code(), Some(0));
    let differ = doctor(&["--diff", paths[0], paths[1]]);
    assert_eq!(differ.status.code(), Some(1));
    let said = String::from_utf8(differ.stdout).unwrap();
    assert!(
        said.contains("memory.settings.zone_reclaim_mode: 0 | 1"),
        "{said}"
    );
}

#[test]
fn without_root_it_says_what_it_could_not_read() {
    let dir = node("vm");
    let locked = dir.path().join("proc/sys/net/core/bpf_jit_enable");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(locked, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
    command.args(["doctor", "--json", "--root"]).arg(dir.path());
    // SAFETY: geteuid(2) has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.output().expect("the binary runs for everybody");
    assert_eq!(output.status.code(), Some(0));
    let report = json(&output);
    let finding = &report["findings"][0];
    assert_eq!(finding["check"], "unreadable");
    assert_eq!(finding["severity"], "info");
    assert!(
        finding["title"]
            .as_str()
            .unwrap()
            .contains("this user may not (run as root)")
    );
    let jit = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|made| made["check"] == "bpf-jit");
    assert_eq!(jit.unwrap()["state"], "unknown");
}

#[test]
fn this_host_is_audited_and_its_report_says_the_same() {
    let out = tempfile::tempdir().unwrap();
    let tree = out.path().join("report");
    let output = doctor(&["--json", "--report", tree.to_str().unwrap()]);
    assert!(matches!(output.status.code(), Some(0..=2)), "{output:?}");
    let checks = |report: &Value| -> Vec<(String, String)> {
        let list = report["checks"].as_array().unwrap().iter();
        let words = list.map(|made| (made["check"].to_string(), made["state"].to_string()));
        words.collect()
    };
    let again = on(&tree, &["--json"]);
    assert_eq!(checks(&json(&again)), checks(&json(&output)));
    let machine = &json(&output)["facts"]["machine"];
    assert_eq!(machine["page_bytes"], rustix::param::page_size());
    assert_ne!(machine["cpus"], 0);
}
