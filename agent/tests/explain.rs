//! Explanations of made-up windows, word for word, and the rules that rank causes.

use std::{collections::BTreeMap, path::Path};

use stallscope::{
    api::{DaemonTime, NotMeasured},
    attribution::pods::{QosClass, Workload},
    explain::{Case, Facts, Limit, Maker, NodeFacts, Other, PodFacts, Report, Subject},
    ledger::history::{Quantity, Sums},
};
use stallscope_ebpf::{Cause, Reclaim};

const CPU0: Quantity = Quantity::Cpu(Some(0));
const CPU1: Quantity = Quantity::Cpu(Some(1));

/// Builds sums from times in seconds and from counts.
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

/// Returns a window of a minute of a host cgroup on a node with two NUMA nodes. Hardly any time was lost in it or in
/// the ten windows before.
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
            share_file: Some("/sys/fs/cgroup/work/flink/cpu.weight".to_owned()),
            cpuset_dir: Some("/sys/fs/cgroup/work/flink".to_owned()),
            ..Facts::default()
        },
        pod: None,
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

/// Returns a calm case with more in its window.
fn with(more: &[(Quantity, f64)]) -> Case {
    let mut case = calm();
    for (quantity, value) in sums(more) {
        *case.window.entry(quantity).or_default() += value;
    }
    case
}

fn limited(mut case: Case) -> Case {
    case.facts.limits = vec![limit("/work/flink", 100_000)];
    case.facts.quotas.clone_from(&case.facts.limits);
    case
}

fn limit(path: &str, quota_us: u64) -> Limit {
    Limit {
        file: format!("/sys/fs/cgroup{path}/cpu.max"),
        burst_file: Some(format!("/sys/fs/cgroup{path}/cpu.max.burst")),
        quota_us,
        period_us: 100_000,
    }
}

/// Turns a case into that of a container in a Deployment's pod.
fn on_kubernetes(case: Case) -> Case {
    let cart = Workload {
        kind: "Deployment".to_owned(),
        name: "cart".to_owned(),
    };
    made_by(Maker::Workload(cart), case)
}

fn made_by(maker: Maker, mut case: Case) -> Case {
    case.pod = Some(PodFacts {
        namespace: "shop".to_owned(),
        name: "cart-6d4b75cb6d-hqz2x".to_owned(),
        pods: 1,
        containers: vec!["server".to_owned()],
        maker,
        qos: Some(QosClass::Burstable),
        resizable: Some(true),
    });
    if !case.facts.quotas.is_empty() {
        let pod = "/kubepods.slice/pod1";
        let container = format!("{pod}/cri-1.scope");
        case.facts.limits = vec![limit(pod, 250_000), limit(&container, 100_000)];
        case.facts.quotas = vec![limit(&container, 100_000)];
    }
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
        (
            "throttled_pod_of_nobody",
            made_by(Maker::Nobody, limited(with(&THROTTLED))),
        ),
        (
            "throttled_pod_unknown",
            made_by(Maker::Unknown, limited(with(&THROTTLED))),
        ),
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

/// Compares explanations with the golden files. `UPDATE_GOLDEN=1` accepts the current output.
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
        ("throttled_pod_of_nobody", "throttled"),
        ("throttled_pod_unknown", "throttled"),
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
        // The container always loses much to its neighbours.
        for sums in case.before.iter_mut().chain([&mut case.window]) {
            *sums.entry(Quantity::wait(Cause::Idle)).or_default() += 500_000_000;
        }
        // Causes that are judged by the time lost then need more of it.
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
    // Half of the windows before are like this one.
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

/// Returns the first command for a cause, and the note on it.
fn first_remedy(case: &Case, of: &str) -> (String, Option<String>) {
    let report = case.explain();
    let found = report.causes.iter().find(|each| each.cause == of);
    let remedy = &found.expect(of).remedy[0];
    let command = remedy.command.as_ref().map(ToString::to_string);
    (remedy.text.clone(), command)
}

#[test]
fn limits_are_changed_where_a_pod_is_made_from() {
    let workload = |kind: &str, name: &str| {
        Maker::Workload(Workload {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    };
    let set = "-c server --limits=cpu=1500m";
    for (maker, command, said) in [
        (workload("Deployment", "cart"), Some(format!("kubectl -n shop set resources deployment/cart {set}")), "its pods are replaced"),
        (workload("StatefulSet", "db"), Some(format!("kubectl -n shop set resources statefulset/db {set}")), "its pods are replaced"),
        (workload("daemonset", "log"), Some(format!("kubectl -n shop set resources daemonset/log {set}")), "its pods are replaced"),
        (workload("CronJob", "night"), Some(format!("kubectl -n shop set resources cronjob/night {set}")), "from its next run on"),
        (workload("Job", "once"), None, "edit the manifest of Job once, and make it anew"),
        (workload("Node", "node-7"), None, "staticPodPath"),
        (workload("Rollout", "cart"), None, "edit the manifest of Rollout cart (container server: resources.limits.cpu: 1500m)"),
        (
            workload("ReplicaSet", "cart-1"),
            Some("kubectl -n shop get replicaset cart-1 -o 'jsonpath={range .metadata.ownerReferences[*]}{.kind}/{.name}{\"\\n\"}{end}'".to_owned()),
            "in the manifest of the owner of ReplicaSet cart-1",
        ),
        (Maker::Nobody, None, "edit its manifest, and create the pod anew"),
        (Maker::Kubelet, None, "staticPodPath"),
        (
            Maker::Unknown,
            Some("kubectl -n shop get pod cart-6d4b75cb6d-hqz2x -o 'jsonpath={range .metadata.ownerReferences[*]}{.kind}/{.name}{\"\\n\"}{end}'".to_owned()),
            "in the manifest of the pod's owner",
        ),
    ] {
        let case = made_by(maker.clone(), limited(with(&THROTTLED)));
        let (text, found) = first_remedy(&case, "throttled");
        assert_eq!(found, command, "{maker:?}: {text}");
        assert!(text.contains(said), "{maker:?}: {text}");
    }
}

/// Returns the commands for a cause.
fn commands(case: &Case, of: &str) -> Vec<String> {
    let report = case.explain();
    let found = report.causes.iter().find(|each| each.cause == of);
    let remedies = found.expect(of).remedy.iter();
    let commands = remedies.filter_map(|remedy| remedy.command.as_ref());
    commands.map(ToString::to_string).collect()
}

#[test]
fn pods_are_resized_where_the_version_can_and_their_class_stays() {
    let resize = |change: &dyn Fn(&mut PodFacts)| {
        let mut case = on_kubernetes(limited(with(&THROTTLED)));
        change(case.pod.as_mut().expect("a pod"));
        let all = commands(&case, "throttled");
        all.into_iter().find(|each| each.contains(" patch "))
    };
    let patch = "kubectl -n shop patch pod cart-6d4b75cb6d-hqz2x --subresource=resize --patch '{\"spec\":{\"containers\":[{\"name\":\"server\",\"resources\":{\"limits\":{\"cpu\":\"1500m\"}}}]}}'";
    assert_eq!(resize(&|_| ()).as_deref(), Some(patch));
    assert_eq!(resize(&|pod| pod.resizable = None).as_deref(), Some(patch));
    assert_eq!(resize(&|pod| pod.resizable = Some(false)), None);
    assert_eq!(resize(&|pod| pod.maker = Maker::Kubelet), None);
    assert_eq!(resize(&|pod| pod.qos = Some(QosClass::BestEffort)), None);
    assert_eq!(resize(&|pod| pod.pods = 2), None);
    let guaranteed = resize(&|pod| pod.qos = Some(QosClass::Guaranteed)).expect("a command");
    let both = "{\"limits\":{\"cpu\":\"2\"},\"requests\":{\"cpu\":\"2\"}}";
    assert!(guaranteed.contains(both), "{guaranteed}");
}

#[test]
fn of_several_containers_none_is_changed() {
    let mut case = on_kubernetes(limited(with(&THROTTLED)));
    for containers in [&["proxy", "server"][..], &[]] {
        let containers = containers.iter().map(|name| (*name).to_owned()).collect();
        case.pod.as_mut().expect("a pod").containers = containers;
        let all = commands(&case, "throttled");
        assert!(all.iter().all(|each| !each.contains("kubectl")), "{all:?}");
    }
}

#[test]
fn no_request_is_above_the_limit() {
    let wait = [(Quantity::wait(Cause::Neighbour), 600.0)];
    let request = |case: &Case| commands(case, "neighbour").swap_remove(0);
    // In a minute the container ran for 30 s and waited for 600 s.
    let free = request(&on_kubernetes(with(&wait)));
    assert!(free.ends_with("--requests=cpu=10600m"), "{free}");
    let limited = request(&on_kubernetes(limited(with(&wait))));
    assert!(limited.ends_with("--requests=cpu=1"), "{limited}");
    let mut guaranteed = on_kubernetes(with(&wait));
    guaranteed.pod.as_mut().expect("a pod").qos = Some(QosClass::Guaranteed);
    let (text, command) = first_remedy(&guaranteed, "neighbour");
    assert!(command.is_none() && text.contains("requests all that it may use"));
}

#[test]
fn bursts_are_advised_where_every_quota_above_can_have_them() {
    let burst = |case: &Case| {
        let all = commands(case, "throttled");
        all.into_iter().find(|each| each.contains("burst"))
    };
    let mut case = on_kubernetes(limited(with(&THROTTLED)));
    let both = "echo 250000 > /sys/fs/cgroup/kubepods.slice/pod1/cpu.max.burst && echo 100000 > /sys/fs/cgroup/kubepods.slice/pod1/cri-1.scope/cpu.max.burst";
    assert_eq!(burst(&case).as_deref(), Some(both));
    case.facts.limits[0].burst_file = None;
    assert_eq!(burst(&case), None);
}

#[test]
fn a_quota_is_raised_with_those_above_it_that_allow_less() {
    let mut case = limited(with(&THROTTLED));
    let above = [limit("/work", 120_000), limit("/work/a", 800_000)];
    case.facts.limits.splice(0..0, above);
    assert_eq!(
        commands(&case, "throttled")[0],
        "echo '170000 100000' > /sys/fs/cgroup/work/cpu.max && echo '150000 100000' > /sys/fs/cgroup/work/flink/cpu.max"
    );
}

#[test]
fn the_root_is_told_nothing_that_it_refuses() {
    let mut case = with(&[(Quantity::wait(Cause::Neighbour), 14.0)]);
    case.subject.labels = labels(&[("cgroup", "/")]);
    case.facts = Facts {
        root: true,
        ..Facts::default()
    };
    let (text, command) = first_remedy(&case, "neighbour");
    assert!(command.is_none() && text.contains("root cgroup"), "{text}");
}

#[test]
fn only_services_of_the_systems_manager_are_called_services() {
    let first = |cgroup: &str| {
        let mut case = with(&[(Quantity::wait(Cause::Neighbour), 14.0)]);
        case.subject.labels = labels(&[("cgroup", cgroup)]);
        commands(&case, "neighbour").swap_remove(0)
    };
    let set = "systemctl set-property nginx.service CPUWeight=1000";
    assert_eq!(first("/system.slice/nginx.service"), set);
    assert_eq!(first("/a.slice/a-b.slice/nginx.service"), set);
    for cgroup in [
        "/evil/nginx.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
        "/nginx.service",
        "/system.slice/--now.service",
    ] {
        assert!(first(cgroup).starts_with("echo 1000 > "), "{cgroup}");
    }
}

#[test]
fn names_steer_no_terminal() {
    let name = "/a\x1b]0;title\x07\u{9b}31m\nb\u{202e}";
    let mut case = limited(with(&[(Quantity::wait(Cause::Neighbour), 14.0)]));
    case.others[0].name = name.to_owned();
    case.subject.labels = labels(&[("cgroup", name)]);
    case.facts.share_file = Some(format!("/sys/fs/cgroup{name}/cpu.weight"));
    let text = case.explain().to_text();
    let shown = "/a\\x1b]0;title\\x07\\xc2\\x9b31m\\x0ab\\xe2\\x80\\xae";
    assert!(
        text.contains(&format!("Limit {shown}, or move it")),
        "{text}"
    );
    let command = r#"echo 1000 > "$(printf '/sys/fs/cgroup/a\033]0;title\007\302\23331m\012b\342\200\256/cpu.weight')""#;
    assert!(text.contains(command), "{text}");
    assert!(
        text.chars()
            .all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')),
        "{text}"
    );
}
