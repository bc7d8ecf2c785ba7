//! Whole nodes: the findings on each kind, well and badly configured, and the comparison of two nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stallscope::doctor::{Report, Severity, compare, compared_text, samples, write_evidence};

use bytes::BytesMut;
use stallscope::doctor::{Live, Repeated};
use stallscope::exposition::{Encoder, Format};
use stallscope::host::deadline::Reads;

use crate::fixture::{NODES, audited, change, node, read, text};

/// Returns the checks with a finding of at least this severity.
fn found(report: &Report, least: Severity) -> BTreeSet<&'static str> {
    let findings = report.findings.iter();
    let severe = findings.filter(|finding| finding.severity >= least);
    severe.map(|finding| finding.check).collect()
}

/// Returns the titles of all findings, for the messages of failed tests.
fn titles(report: &Report) -> Vec<String> {
    let findings = report.findings.iter();
    findings
        .map(|each| format!("{}: {} ({})", each.check, each.title, each.value))
        .collect()
}

#[test]
fn nodes_that_are_set_up_well_have_nothing_but_what_they_are() {
    for (name, infos) in [
        ("altra", &[][..]),
        (
            "kunpeng",
            &[
                "page-size",
                "numa-distances",
                "bpf-trampolines",
                "cgroup-mode",
            ],
        ),
        ("graviton", &[]),
        ("epyc", &["numa-distances"]),
        ("vm", &[]),
        ("kind", &[]),
    ] {
        let report = audited(node(name).path());
        assert_eq!(
            found(&report, Severity::Warning),
            BTreeSet::new(),
            "{name}: {:?}",
            titles(&report)
        );
        let infos: BTreeSet<&str> = infos.iter().copied().collect();
        assert_eq!(
            found(&report, Severity::Info),
            infos,
            "{name}: {:?}",
            titles(&report)
        );
        assert_eq!((report.exit_code(), report.verdict), (0, "clean"), "{name}");
    }
}

#[test]
fn nodes_that_are_set_up_badly_have_all_of_it_and_nothing_else() {
    let text = text("bad.cases");
    let mut names = BTreeSet::new();
    for case in text.split("\n## ").skip(1) {
        let (head, changes) = case.split_once('\n').unwrap();
        let (name, checks) = head.split_once(": ").unwrap();
        let dir = node(name);
        change(dir.path(), changes);
        let report = audited(dir.path());
        let expected: BTreeSet<&str> = checks.split(' ').collect();
        assert_eq!(
            found(&report, Severity::Warning),
            expected,
            "{name}: {:?}",
            titles(&report)
        );
        assert!(report.exit_code() > 0);
        names.insert(name);
    }
    assert_eq!(names, NODES.into_iter().collect());
}

#[test]
fn cpus_and_products_are_named() {
    for (name, cpu, product, hypervisor) in [
        (
            "altra",
            "Arm Neoverse-N1 (Ampere Altra, AWS Graviton2)",
            "GIGABYTE R152-P30-00",
            None,
        ),
        (
            "kunpeng",
            "HiSilicon TSV110 (Kunpeng 920)",
            "Huawei TaiShan 200 (Model 2280)",
            None,
        ),
        (
            "graviton",
            "Arm Neoverse-V1 (AWS Graviton3)",
            "Amazon EC2 c7g.16xlarge",
            Some("Amazon EC2"),
        ),
        (
            "epyc",
            "AMD EPYC 7763 64-Core Processor",
            "Supermicro AS -2024US-TRT",
            None,
        ),
        (
            "vm",
            "Intel Xeon Processor (Icelake)",
            "QEMU Standard PC (Q35 + ICH9, 2009)",
            Some("QEMU"),
        ),
    ] {
        let machine = audited(node(name).path()).facts.machine;
        let models: Vec<&str> = machine.cpu_models.keys().map(String::as_str).collect();
        assert_eq!(models, [cpu], "{name}");
        assert_eq!(machine.product.as_deref(), Some(product));
        assert_eq!(machine.hypervisor.as_deref(), hypervisor, "{name}");
    }
}

#[test]
fn a_report_can_be_audited_again_and_says_the_same() {
    for name in NODES {
        let (dir, out) = (node(name), tempfile::tempdir().unwrap());
        change(dir.path(), "/proc/sys/vm/min_free_kbytes = 1\n");
        let seen = read(dir.path());
        let report = stallscope::doctor::audit(&seen);
        let tree = out.path().join("report");
        write_evidence(&seen, &report, &tree).unwrap();
        let again = audited(&tree);
        let json = |report: &Report| serde_json::to_value(report).unwrap();
        assert_eq!(titles(&again), titles(&report), "{name}");
        assert!(json(&again) == json(&report), "{name}");
        let saved = std::fs::read_to_string(tree.join("report.json")).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&saved).unwrap(),
            json(&report)
        );
    }
}

#[test]
fn a_report_holds_no_secrets() {
    let (dir, out) = (node("altra"), tempfile::tempdir().unwrap());
    let seen = read(dir.path());
    let report = stallscope::doctor::audit(&seen);
    write_evidence(&seen, &report, out.path()).unwrap();
    let said = std::process::Command::new("grep")
        .args(["-r", "hunter2"])
        .arg(out.path())
        .output()
        .unwrap();
    assert_eq!(
        said.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&said.stdout)
    );
    let refused = write_evidence(&seen, &report, out.path())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("empty or a new directory"), "{refused}");
}

#[test]
fn two_nodes_are_compared_by_what_matters() {
    let json = |report: &Report| serde_json::to_value(report).unwrap();
    let (good, bad) = (node("altra"), node("altra"));
    change(
        bad.path(),
        "/sys/kernel/mm/transparent_hugepage/enabled = [always] madvise never\n\
         /proc/sys/vm/max_map_count = 300000\n\
         /proc/meminfo = MemTotal:       268435400 kB\n\
         /proc/sys/kernel/numa_balancing = 0\n",
    );
    let (good, bad) = (json(&audited(good.path())), json(&audited(bad.path())));
    assert_eq!(compare(&good, &good).unwrap(), []);
    let differences = compare(&good, &bad).unwrap();
    let named: Vec<(&str, bool)> = differences
        .iter()
        .map(|each| (each.what.as_str(), each.matters.is_some()))
        .collect();
    // Memory that differs by a few KiB counts as the same size. The facts already report the two infos.
    let expected = [
        ("finding: thp-enabled (warning)", true),
        ("memory.settings.numa_balancing", true),
        ("memory.thp", true),
        ("memory.settings.max_map_count", false),
    ];
    assert_eq!(named, expected);
    let text = compared_text(&differences);
    assert!(text.contains("memory.thp: madvise | always"), "{text}");
    assert!(compare(&good, &json!({"probes": []})).is_err());
}

#[test]
fn metrics_have_a_zero_for_what_is_clean_and_nothing_for_what_is_not_known() {
    let dir = node("vm");
    change(
        dir.path(),
        "- /proc/sys/vm/min_free_kbytes\n/proc/sys/net/core/somaxconn = 128\n",
    );
    let report = audited(dir.path());
    let samples = samples(&report);
    let value = |check: &str| {
        let labels = [check.to_owned(), "warning".to_owned()];
        let mut found = samples.iter().filter(|(_, values, _)| *values == labels);
        found.next().map(|(_, _, value)| format!("{value:?}"))
    };
    assert_eq!(value("somaxconn").as_deref(), Some("Count(1)"));
    assert_eq!(value("unprivileged-bpf").as_deref(), Some("Count(0)"));
    assert_eq!(value("min-free-kbytes"), None);
    assert_eq!(value("zone-reclaim"), None, "there is one node");
    for (metric, values, _) in &samples {
        assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    }
    let kubelet = samples
        .iter()
        .any(|(metric, ..)| metric.name == "stallscope_node_kubelet_info");
    assert!(!kubelet, "no kubelet is in sight");
}

#[test]
fn an_agent_audits_by_itself_and_again_when_something_changed() {
    let dir = node("vm");
    let repeated = Repeated::default();
    let exported = || {
        let mut out = Encoder::new(Format::Text, BytesMut::new());
        repeated.encode(&mut out);
        String::from_utf8(out.finish().to_vec()).unwrap()
    };
    let comes = |line: &str| {
        (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            exported().lines().any(|exported| exported == line)
        })
    };
    assert_eq!(exported(), "", "nothing before the first audit");
    let every = std::time::Duration::from_millis(100);
    let root = dir.path().to_owned();
    let reads = Reads::register(&prometheus::Registry::new()).unwrap();
    let started = repeated.start(root, every, Live::default(), &reads);
    started.unwrap();
    let line = "stallscope_doctor_findings{check=\"somaxconn\",severity=\"warning\"}";
    assert!(comes(&format!("{line} 0")), "{}", exported());
    change(dir.path(), "/proc/sys/net/core/somaxconn = 128\n");
    assert!(comes(&format!("{line} 1")), "{}", exported());
    let nowhere = "/no/such/directory".into();
    let nowhere = repeated.start(nowhere, every, Live::default(), &reads);
    assert!(nowhere.unwrap_err().to_string().contains("--doctor-root"));
}

#[test]
fn of_a_pod_and_its_container_one_is_named() {
    let dir = node("altra");
    let pod =
        "/sys/fs/cgroup/kubepods.slice/kubepods-pod7a1fbd4a_0d6c_4b5b_9f0e_111111111111.slice";
    let container = format!("{pod}/cri-containerd-{}.scope", "a".repeat(64));
    for group in [pod, &container] {
        change(dir.path(), &format!("{group}/pids.current = 256\n"));
    }
    let report = audited(dir.path());
    let found: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.check == "threads-over-quota")
        .collect();
    assert_eq!(found.len(), 1);
    assert!(
        found[0].value.contains("cri-containerd-aaa"),
        "{}",
        found[0].value
    );
}
