//! Explanations of made-up windows, word for word, and the rules by which causes are ranked.

use std::{collections::BTreeMap, path::Path};

use stallscope::{
    api::{DaemonTime, NotMeasured},
    explain::{Case, Facts, NodeFacts, Other, Quota, Report, Subject},
    history::{Quantity, Sums},
};
use stallscope_ebpf::{Cause, Reclaim};

const CPU0: Quantity = Quantity::Cpu(Some(0));
const CPU1: Quantity = Quantity::Cpu(Some(1));

/// Sums from seconds for times, and from counts.
#[expect(clippy::cast_sign_loss, reason = "none is negative")]
fn sums(all: &[(Quantity, f64)]) -> Sums {
    let value = |(quantity, value): &(Quantity, f64)| {
        let scale = if quantity.is_time() { 1e6 } else { 1.0 };
        (*quantity, (value * scale) as u64)
    };
    all.iter().map(value).collect()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// A window of a minute of a host cgroup on a node of two NUMA nodes, in which next to nothing was lost, as in the ten
/// before.
fn calm() -> Case {
    let usual = [
        (CPU0, 30.0),
        (Quantity::wait(Cause::Own), 0.2),
        (Quantity::wait(Cause::Neighbour), 0.1),
        (Quantity::Migrations, 40.0),
        (Quantity::LocalFaults, 9000.0),
        (Quantity::RemoteFaults, 90.0),
    ];
    Case {
        subject: Subject {
            labels: labels(&[("cgroup", "/work/flink")]),
            containers: 1,
            cgroups: vec!["/work/flink".to_owned()],
        },
        start: 1_772_334_660.0,
        end: 1_772_334_720.0,
        recorded_seconds: 60.0,
        window: sums(&usual),
        before: vec![sums(&usual); 10],
        others: vec![
            Other {
                name: "/work/batch".to_owned(),
                cpu_seconds: 118.0,
                of_host: false,
            },
            Other {
                name: "/system.slice/backup.service".to_owned(),
                cpu_seconds: 12.0,
                of_host: true,
            },
        ],
        daemons: Vec::new(),
        facts: Facts {
            threads: Some(64),
            cpu_dir: Some("/sys/fs/cgroup/work/flink".to_owned()),
            cpuset_dir: Some("/sys/fs/cgroup/work/flink".to_owned()),
            ..Facts::default()
        },
        node: NodeFacts {
            unified: true,
            cpus: 8,
            nodes: [(0, "0-3".to_owned()), (1, "4-7".to_owned())].into(),
            far: Some(20.0),
            thp: Some(("always".to_owned(), "madvise".to_owned())),
            watermark_scale_factor: Some(10),
            min_free_kbytes: Some(67584),
            numa_balancing: Some(0),
        },
        not_measured: Vec::new(),
    }
}

/// A calm case to whose window something was added.
fn with(more: &[(Quantity, f64)]) -> Case {
    let mut case = calm();
    for (quantity, value) in sums(more) {
        *case.window.entry(quantity).or_default() += value;
    }
    case
}

fn limited(mut case: Case) -> Case {
    case.facts.quotas = vec![Quota {
        file: "/sys/fs/cgroup/work/flink/cpu.max".to_owned(),
        quota_us: 100_000,
        period_us: 100_000,
    }];
    case.facts.burst_file = Some("/sys/fs/cgroup/work/flink/cpu.max.burst".to_owned());
    case
}

fn on_kubernetes(mut case: Case) -> Case {
    case.subject.labels = labels(&[
        ("namespace", "shop"),
        ("pod", "cart-6d4b75cb6d-hqz2x"),
        ("container", "server"),
    ]);
    case
}

const THROTTLED: [(Quantity, f64); 3] = [
    (Quantity::wait(Cause::Throttled), 21.5),
    (Quantity::Periods, 600.0),
    (Quantity::ThrottledPeriods, 412.0),
];

fn cases() -> Vec<(&'static str, Case)> {
    let mut pressure = with(&[
        (Quantity::wait(Cause::Kswapd), 6.0),
        (Quantity::stall(Reclaim::Direct), 4.5),
        (Quantity::stall(Reclaim::Compaction), 2.5),
    ]);
    pressure.daemons = vec![DaemonTime {
        daemon: "kswapd".to_owned(),
        node: "0".to_owned(),
        cpu_seconds: 7.2,
    }];
    let mut memcg = with(&[(Quantity::stall(Reclaim::Memcg), 9.0)]);
    memcg.facts.memory_limit = Some((
        1_070_000_000,
        1 << 30,
        "/sys/fs/cgroup/work/flink/memory.max".to_owned(),
    ));
    let mut remote = with(&[(Quantity::RemoteFaults, 80_000.0)]);
    remote.facts.memory_by_node =
        Some([("0".to_owned(), 1 << 20), ("1".to_owned(), 1 << 30)].into());
    let mut first = with(&THROTTLED);
    first.before.clear();
    first.recorded_seconds = 12.0;
    first.not_measured = vec![NotMeasured {
        what: "page_faults: hinting".to_owned(),
        reason: "NUMA balancing was off when the agent started".to_owned(),
    }];
    let mut nothing = calm();
    nothing.window.clear();
    let moves = [
        (CPU1, 12.0),
        (Quantity::Migrations, 300.0),
        (Quantity::NodeMigrations, 210.0),
        (Quantity::MigrationDistance, 4200.0),
    ];
    let mut always = limited(with(&THROTTLED));
    always.before = vec![always.window.clone(); 10];
    vec![
        ("calm", calm()),
        ("always", always),
        ("nothing", nothing),
        ("throttled", limited(with(&THROTTLED))),
        ("throttled_pod", on_kubernetes(limited(with(&THROTTLED)))),
        ("no_baseline", limited(first)),
        (
            "neighbour",
            with(&[(Quantity::wait(Cause::Neighbour), 14.0)]),
        ),
        (
            "neighbour_pod",
            on_kubernetes(with(&[(Quantity::wait(Cause::Neighbour), 14.0)])),
        ),
        ("host", with(&[(Quantity::wait(Cause::Host), 5.0)])),
        ("own", with(&[(Quantity::wait(Cause::Own), 240.0)])),
        ("pressure", pressure),
        ("memory_limit", memcg),
        ("node_migrations", with(&moves)),
        ("remote_memory", remote),
    ]
}

/// Run with `UPDATE_GOLDEN=1` to accept what is written now.
#[test]
fn explanations_are_these_word_for_word() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/explain");
    let write = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        let file = folder.join(name).with_extension("txt");
        let text = case.explain().to_text();
        if write {
            std::fs::write(&file, &text).expect("the fixture can be written");
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as in {}; if that is meant, run this test with UPDATE_GOLDEN=1:\n{}",
        folder.display(),
        wrong.join("\n")
    );
}

fn first(report: &Report) -> (&str, bool) {
    let cause = report.causes.first().expect("a cause");
    (&cause.cause, cause.unusual)
}

#[test]
fn the_cause_that_is_unusual_comes_first_though_others_take_more() {
    let expected = [
        ("throttled", "throttled"),
        ("throttled_pod", "throttled"),
        ("neighbour", "neighbour"),
        ("host", "host"),
        ("own", "own"),
        ("pressure", "kswapd"),
        ("memory_limit", "memcg_reclaim"),
        ("node_migrations", "node_migrations"),
        ("remote_memory", "remote_memory"),
    ];
    let cases: BTreeMap<_, _> = cases().into_iter().collect();
    for (name, cause) in expected {
        let mut case = cases[name].clone();
        assert_eq!(first(&case.explain()), (cause, true), "{name}");
        // It always loses much to its neighbours.
        for sums in case.before.iter_mut().chain([&mut case.window]) {
            *sums.entry(Quantity::wait(Cause::Idle)).or_default() += 500_000_000;
        }
        // What is judged by the time lost needs more of it then.
        let report = case.explain();
        let (first, unusual) = first(&report);
        assert_eq!(first == cause, unusual, "{name}: {first}");
    }
}

#[test]
fn what_is_lost_is_the_sum_of_the_measured_causes() {
    for (name, case) in cases() {
        let report = case.explain();
        let measured = report.causes.iter().filter(|cause| !cause.estimate);
        let sum = measured.fold(0.0, |sum, cause| sum + cause.seconds);
        let recorded: f64 = case
            .window
            .iter()
            .filter(|(quantity, _)| quantity.cause().is_some())
            .map(|(_, us)| *us as f64 / 1e6)
            .sum();
        assert!((report.lost_seconds - sum).abs() < 1e-9, "{name}");
        assert!((sum - recorded).abs() < 1e-9, "{name}: {sum} of {recorded}");
        let shares = report
            .causes
            .iter()
            .fold(0.0, |sum, cause| sum + cause.share);
        assert!(
            report.causes.is_empty() || (shares - 1.0).abs() < 1e-9,
            "{name}"
        );
    }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    for (name, case) in cases() {
        let report = case.explain();
        let json = serde_json::to_string(&report).expect("json");
        let read: Report = serde_json::from_str(&json).expect(name);
        assert_eq!(read.to_text(), report.to_text());
    }
}

#[test]
fn one_bad_window_before_is_not_what_is_usual() {
    let mut case = with(&THROTTLED);
    case.before[3] = case.window.clone();
    case.before[4] = case.window.clone();
    assert_eq!(first(&case.explain()), ("throttled", true));
    // Half of them is.
    for sums in &mut case.before {
        sums.clone_from(&case.window);
    }
    let report = case.explain();
    assert!(!report.unusual, "{}", report.summary);
    assert!(report.much && report.summary.starts_with("Nothing unusual, but much: "));
    assert!(!calm().explain().much);
}

#[test]
fn moves_explain_remote_pages_before_their_placement_does() {
    let moves = [
        (Quantity::NodeMigrations, 100.0),
        (Quantity::MigrationDistance, 2000.0),
        (Quantity::RemoteHints, 50_000.0),
    ];
    let report = with(&moves).explain();
    assert_eq!(first(&report), ("node_migrations", true));
    let remote = report
        .causes
        .iter()
        .find(|cause| cause.cause == "remote_memory");
    assert!(remote.is_none_or(|cause| !cause.unusual), "{remote:?}");
}

#[test]
fn a_node_alone_has_no_remote_memory() {
    let mut case = with(&[(Quantity::RemoteFaults, 80_000.0)]);
    case.node.far = None;
    let report = case.explain();
    assert!(
        report.causes.iter().all(|cause| !cause.estimate),
        "{report:?}"
    );
}
