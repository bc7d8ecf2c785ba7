//! Series that there are: those of the reference, and what the rules record of them.

use std::collections::{BTreeMap, BTreeSet};

use super::model::read;

/// Labels that the scrape configuration gives to every series, unless a series has its own.
pub const OF_TARGETS: [&str; 4] = ["cluster", "instance", "job", "node"];

/// Families of the node audit, whose reference comes with it.
const AUDIT: [(&str, &[&str]); 6] = [
    ("stallscope_doctor_findings", &["check", "severity"]),
    (
        "stallscope_node_machine_info",
        &[
            "cpu_model",
            "product",
            "hypervisor",
            "nodes",
            "smt",
            "page_bytes",
            "governor",
        ],
    ),
    (
        "stallscope_node_kernel_info",
        &["release", "preemption", "lockdown", "clocksource"],
    ),
    (
        "stallscope_node_memory_info",
        &[
            "thp",
            "thp_defrag",
            "numa_balancing",
            "zone_reclaim_mode",
            "swappiness",
            "watermark_scale_factor",
        ],
    ),
    (
        "stallscope_node_cgroup_info",
        &["mode", "runtime", "driver"],
    ),
    (
        "stallscope_node_kubelet_info",
        &[
            "cgroup_driver",
            "cpu_manager_policy",
            "topology_manager_policy",
            "topology_manager_scope",
            "memory_manager_policy",
            "reserved_cpus",
        ],
    ),
];

/// Labels by name of series, those of targets left out.
pub fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = metrics(&read("docs/metrics.md"));
    assert!(series.len() > 40, "{series:?}");
    for (name, labels) in AUDIT {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        if let Some(kept) = series.insert(name.to_owned(), labels) {
            assert_eq!(kept, series[name], "{name} is in the reference");
        }
    }
    for rules in ["rules", "fleet-rules"] {
        series.extend(recorded(&read(&format!("dashboards/{rules}.yaml"))));
    }
    series
}

fn metrics(reference: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for section in reference.split("\n## `").skip(1) {
        let (name, section) = section.split_once('`').expect("a name in backticks");
        let labels = section
            .lines()
            .find_map(|line| line.strip_prefix("- Labels: "))
            .unwrap_or_else(|| panic!("{name} has no line of labels"));
        let labels: BTreeSet<String> = labels
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        if section.contains("- Type: histogram") {
            let mut with_bound = labels.clone();
            with_bound.insert("le".to_owned());
            found.insert(format!("{name}_bucket"), with_bound);
            found.insert(format!("{name}_sum"), labels.clone());
            found.insert(format!("{name}_count"), labels);
        } else {
            found.insert(name.to_owned(), labels);
        }
    }
    found
}

/// What rules record, with the labels that their outermost sum or their level leaves.
fn recorded(rules: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rules = rules.split("- record: ").skip(1);
    rules
        .map(|rule| {
            let (name, rule) = rule.split_once('\n').expect("an expression");
            let level = name.split(':').next().unwrap_or_default();
            let summed = rule
                .split(" by (")
                .nth(1)
                .and_then(|rest| rest.split(')').next());
            let labels = summed.map_or_else(
                || level.split('_').map(str::to_owned).collect(),
                |labels| labels.split(", ").map(str::to_owned).collect(),
            );
            (name.to_owned(), labels)
        })
        .collect()
}
