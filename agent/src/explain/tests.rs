//! Tests that run every remedy's command, with hostile names, through a shell in which nothing may
//! happen.

use std::{collections::BTreeSet, fs, path::Path};

use stallscope_ebpf::{Cause, Reclaim};

use super::*;
use crate::{
    attribution::pods::{QosClass, Workload},
    text::shell_command::{made_at, tests::harmless::Harmless},
};

/// Names that only an attacker would give, and one harmless name.
const NAMES: [&str; 9] = [
    "cart",
    "q; touch PWNED $(id)",
    "`touch PWNED`",
    "$(touch PWNED)",
    "a' > PWNED '",
    "b\" > PWNED \"",
    "-c\n> PWNED\n",
    "\x1b]0;title\x07\u{9b}2J",
    "* && touch PWNED #",
];

const KINDS: [&str; 8] = [
    "Deployment",
    "StatefulSet",
    "CronJob",
    "Job",
    "ReplicaSet",
    "Rollout",
    "Node",
    "d; touch PWNED",
];

fn limit(dir: &str, quota_us: u64) -> Limit {
    Limit {
        file: format!("{dir}/cpu.max"),
        burst_file: Some(format!("{dir}/cpu.max.burst")),
        quota_us,
        period_us: 100_000,
    }
}

/// Makes a case in which every cause took time and all facts of a cgroup are known.
fn everything(path: &str, unified: bool) -> Case {
    let waits = Cause::ALL.map(Quantity::wait).into_iter();
    let times = waits.chain(Reclaim::ALL.map(Quantity::stall));
    let mut window: Sums = times.map(|quantity| (quantity, 5_000_000)).collect();
    window.extend([
        (Quantity::Cpu(Some(0)), 30_000_000),
        (Quantity::Cpu(Some(1)), 10_000_000),
        (Quantity::NodeMigrations, 10),
        (Quantity::MigrationDistance, 200),
        (Quantity::RemoteFaults, 90_000),
        (Quantity::LocalFaults, 10_000),
    ]);
    let dir = format!("/sys/fs/cgroup{path}");
    let text = str::to_owned;
    Case {
        subject: Subject {
            labels: [("cgroup".to_owned(), path.to_owned())].into(),
            containers: 1,
            cgroups: vec![path.to_owned()],
        },
        end: 60.0,
        recorded_seconds: 60.0,
        window,
        others: vec![Other {
            name: path.to_owned(),
            cpu_seconds: 9.0,
            of_host: false,
        }],
        facts: Facts {
            threads: Some(64),
            quotas: vec![limit(&dir, 100_000)],
            limits: vec![limit("/sys/fs/cgroup/above", 120_000), limit(&dir, 100_000)],
            cpus: Some(text("0-1")),
            cpu_count: Some(2),
            memory_limit: Some((1 << 30, 1 << 30, format!("{dir}/memory.max"))),
            share_file: Some(format!("{dir}/cpu.weight")),
            cpuset_dir: Some(dir),
            ..Facts::default()
        },
        node: NodeFacts {
            unified,
            cpus: 8,
            nodes: [(0, text("0-3")), (1, text("4-7"))].into(),
            far: Some(20.0),
            thp: Some((text("always"), text("madvise"))),
            watermark_scale_factor: Some(10),
            min_free_kbytes: Some(67584),
            numa_balancing: Some(0),
        },
        ..Case::default()
    }
}

/// Makes all kinds of cases, with a name in every place.
fn cases(name: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for unified in [true, false] {
        for path in [
            format!("/work/{name}"),
            format!("/system.slice/{name}.service"),
            format!("/{name}.slice/a.service"),
        ] {
            cases.push(everything(&path, unified));
        }
        let makers = KINDS.map(|kind| {
            Maker::Workload(Workload {
                kind: kind.to_owned(),
                name: name.to_owned(),
            })
        });
        let makers = makers
            .into_iter()
            .chain([Maker::Unknown, Maker::Nobody, Maker::Kubelet]);
        for maker in makers {
            for qos in [QosClass::Guaranteed, QosClass::Burstable] {
                for places in [
                    [name; 3],
                    ["shop", "cart-0", name],
                    ["shop", name, "server"],
                ] {
                    let mut case = everything(&format!("/kubepods/{name}"), unified);
                    case.pod = Some(PodFacts {
                        namespace: places[0].to_owned(),
                        name: places[1].to_owned(),
                        pods: 1,
                        containers: vec![places[2].to_owned()],
                        maker: maker.clone(),
                        qos: Some(qos),
                        resizable: Some(unified),
                    });
                    cases.push(case);
                }
            }
        }
    }
    cases
}

#[test]
fn no_remedy_runs_what_a_name_says() {
    let (shell, mut tried) = (Harmless::new(), BTreeSet::new());
    let mut wrong = Vec::new();
    for name in NAMES {
        for case in cases(name) {
            let report = case.explain();
            let shown = report.to_text();
            let steers = |c: char| c != '\n' && !crate::text::printable::is_printable(c);
            assert!(!shown.contains(steers), "{shown:?}");
            let remedies = report.causes.iter().flat_map(|cause| &cause.remedy);
            for command in remedies.filter_map(|remedy| remedy.command.as_ref()) {
                if tried.insert(command.as_str().to_owned()) {
                    wrong.extend(shell.run(command.as_str()).err());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried.len() > 100, "{}", tried.len());
    let missed = not_seen();
    assert!(
        missed.is_empty(),
        "no case here has the commands made at {missed:?}: add one that has"
    );
}

/// Returns the source lines that make a command which no case has tried.
fn not_seen() -> Vec<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![sources.join("doctor/groups.rs")];
    let mut folders = vec![sources.join("explain")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                files.push(path);
            }
        }
    }
    let seen: BTreeSet<_> = made_at::seen();
    let mut missed = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("it is text");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
        for (at, line) in text.lines().enumerate() {
            let makes = ["new(", "fixed(", "write(", "append(", "each("];
            let makes = makes.map(|how| format!("ShellCommand::{how}"));
            let is_seen = |(path, number): &(&str, u32)| {
                *number as usize == at + 1 && file.ends_with(path.trim_start_matches("agent/"))
            };
            if makes.iter().any(|made| line.contains(made)) && !seen.iter().any(is_seen) {
                missed.push(format!("{}:{}", file.display(), at + 1));
            }
        }
    }
    missed
}
