//! Malformed files: each gives a finding, and the audit continues with the rest.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use stallscope::doctor::{Report, Severity};

use crate::fixture::{audited, node};

/// Returns whether the audit reports that it could not read the file, for this reason among others.
fn told(report: &Report, path: &str, reason: &str) -> bool {
    report.findings.iter().any(|finding| {
        finding.check == "unreadable"
            && finding.severity == Severity::Warning
            && finding
                .title
                .starts_with(&format!("could not read {path} because"))
            && finding.value.contains(reason)
    })
}

/// Files of every kind of reader.
const FILES: [&str; 18] = [
    "/proc/sys/vm/swappiness",
    "/proc/sys/vm/min_free_kbytes",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/interrupts",
    "/proc/cmdline",
    "/proc/version",
    "/proc/sys/fs/file-nr",
    "/proc/sys/kernel/osrelease",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/security/lockdown",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/node/node0/meminfo",
    "/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/cpu_manager_state",
    "/etc/containerd/config.toml",
    "/live.json",
];

#[test]
fn no_content_of_any_file_stops_the_audit() {
    let long = "1".repeat(3 << 20);
    let nested = format!("{}{}", "{a: ".repeat(20_000), "}".repeat(20_000));
    let aliases = (1..30).fold("a0: &a0 [x,x,x,x]\n".to_owned(), |text, n| {
        let above = n - 1;
        text + &format!("a{n}: &a{n} [*a{above},*a{above},*a{above},*a{above}]\n")
    });
    let contents: [&[u8]; 10] = [
        b"",
        b"\n",
        b"\0\0\0\0",
        b"\xff\xfe\xfa",
        b"-1",
        b"99999999999999999999999999999999",
        b"[",
        long.as_bytes(),
        nested.as_bytes(),
        aliases.as_bytes(),
    ];
    let dir = node("altra");
    for path in FILES {
        let file = dir.path().join(path.trim_start_matches('/'));
        let before = fs::read(&file).unwrap();
        for content in contents {
            fs::write(&file, content).unwrap();
            let report = audited(dir.path());
            assert!(report.checks.len() > 50, "{path}");
        }
        fs::write(&file, before).unwrap();
    }
    assert_eq!(
        audited(dir.path()).exit_code(),
        0,
        "everything is as it was"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    for (path, content, reason) in [
        ("/proc/sys/vm/swappiness", &b""[..], "it is empty"),
        (
            "/proc/sys/vm/min_free_kbytes",
            b"lots",
            "a number was expected, and it reads `lots`",
        ),
        ("/proc/sys/vm/min_free_kbytes", b"1\0", "it is binary"),
        ("/proc/sys/vm/min_free_kbytes", b"\xff1", "not text"),
        (
            "/proc/meminfo",
            b"MemTotal:",
            "it has no line `MemTotal` with a number",
        ),
        (
            "/proc/stat",
            b"cpu 1 2",
            "its first line has no eight numbers",
        ),
        (
            "/sys/kernel/mm/transparent_hugepage/enabled",
            b"always madvise",
            "one in brackets",
        ),
        (
            "/var/lib/kubelet/config.yaml",
            b"a: b: c: [",
            "it is not YAML",
        ),
        (
            "/var/lib/kubelet/config.yaml",
            b"just words",
            "no list of settings",
        ),
        (
            "/var/lib/kubelet/cpu_manager_state",
            b"{\"policyName\":\"sta",
            "it is not YAML",
        ),
        (
            "/etc/containerd/config.toml",
            b"version = ",
            "it is not TOML",
        ),
        (
            "/sys/devices/system/cpu/online",
            b"0-x",
            "neither an id nor a range",
        ),
        (
            "/sys/devices/system/node/node0/distance",
            b"10",
            "distances, one for each",
        ),
        (
            "/proc/self/smaps",
            b"KernelPageSize: 18014398509481983 kB",
            "a page of at most 1024 kB was expected",
        ),
        ("/live.json", b"7", "not what --report writes"),
    ] {
        let dir = node("altra");
        if path == "/proc/sys/vm/swappiness" {
            fs::write(
                dir.path().join("proc/swaps"),
                "Filename\n/dev/x partition 1 0 -2\n",
            )
            .unwrap();
        }
        fs::write(dir.path().join(path.trim_start_matches('/')), content).unwrap();
        let report = audited(dir.path());
        assert!(
            told(&report, path, reason),
            "{path}: {reason}: {:#?}",
            report.findings
        );
    }
}

#[test]
fn settings_that_cannot_be_read_are_not_taken_for_defaults() {
    let dir = node("altra");
    fs::write(
        dir.path().join("var/lib/kubelet/config.yaml"),
        "cpuManagerPolicy: [",
    )
    .unwrap();
    let report = audited(dir.path());
    assert!(report.facts.kubernetes.is_none());
    for made in &report.checks {
        let of_settings = ["cpu-manager-policy", "topology-manager", "cgroup-driver"];
        if of_settings.contains(&made.check) {
            assert_eq!(made.state, "unknown", "{}", made.check);
        }
    }
}

#[test]
fn huge_files_devices_pipes_and_links_are_no_files() {
    let dir = node("vm");
    let at = |path: &str| dir.path().join(path);
    let huge = fs::File::create(at("proc/sys/vm/min_free_kbytes")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(at("proc/sys/vm/pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    fs::rename(at("proc/sys/vm/pipe"), at("proc/sys/net/core/somaxconn")).unwrap();
    fs::remove_file(at("proc/sys/kernel/perf_event_paranoid")).unwrap();
    symlink(
        "perf_event_paranoid",
        at("proc/sys/kernel/perf_event_paranoid"),
    )
    .unwrap();
    fs::remove_file(at("proc/stat")).unwrap();
    fs::create_dir(at("proc/stat")).unwrap();
    let report = audited(dir.path());
    assert!(told(
        &report,
        "/proc/sys/vm/min_free_kbytes",
        "larger than 1048576 bytes"
    ));
    assert!(told(
        &report,
        "/proc/sys/net/core/somaxconn",
        "no regular file"
    ));
    assert!(told(
        &report,
        "/proc/sys/kernel/perf_event_paranoid",
        "symbolic links"
    ));
    assert!(told(&report, "/proc/stat", "no regular file"));
}

#[test]
fn no_link_leads_out_of_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "128\n").unwrap();
    let dir = node("vm");
    let file = dir.path().join("proc/sys/net/core/somaxconn");
    for target in [
        outside.path().join("secret"),
        Path::new("../../../../../../../../..").join("etc/hostname"),
    ] {
        fs::remove_file(&file).unwrap();
        symlink(&target, &file).unwrap();
        let report = audited(dir.path());
        assert_eq!(report.facts.system.somaxconn, None, "{}", target.display());
    }
}

#[test]
fn an_empty_tree_is_a_node_of_which_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let report = audited(dir.path());
    assert_eq!(report.findings, [], "absent is not zero");
    let unknown = report
        .checks
        .iter()
        .filter(|made| made.state == "unknown")
        .count();
    assert!(unknown > 25, "{unknown}");
    let clean: Vec<&str> = report
        .checks
        .iter()
        .filter(|made| made.state == "clean")
        .map(|made| made.check)
        .collect();
    assert_eq!(clean, ["unreadable"]);
    assert!(report.to_text(false).contains("not known"));
}
