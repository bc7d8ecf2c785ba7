//! Rules and configurations for many nodes: Prometheus accepts them, and their names fit what they record.

mod shipped;

use std::{collections::BTreeSet, fs, path::PathBuf};

use shipped::{promtool, read, root};

const RULES: &str = "dashboards/fleet-rules.yaml";
const TESTS: &str = "dashboards/tests/fleet-rules.yaml";

/// Returns the words that name a metric of ours, or a series that a rule records from one.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':'))
        .filter(|word| word.contains("stallscope_"))
        .collect()
}

fn recorded(rules: &str) -> Vec<&str> {
    let records = rules
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- record:").map(str::trim));
    records.collect()
}

#[test]
fn promtool_takes_the_rules_and_they_record_what_is_tested() {
    promtool(&["check", "rules", "--lint-fatal", RULES]);
    promtool(&["test", "rules", TESTS]);
}

#[test]
fn every_rule_reads_what_exists_and_is_named_by_its_level() {
    let (rules, reference) = (read(RULES), read("docs/metrics.md"));
    let records = recorded(&rules);
    assert!(records.len() > 20, "{records:?}");
    for name in names(&rules) {
        let metric = name.strip_suffix("_bucket").unwrap_or(name);
        let known = if name.contains(':') {
            records.contains(&name)
        } else {
            reference.contains(&format!("## `{metric}`\n"))
        };
        assert!(known, "{name} is neither a metric nor recorded");
    }
    for (record, expr) in records.iter().zip(rules.split("- record:").skip(1)) {
        // The level in the name says which labels remain. The type of a workload goes with the workload.
        let level = record.split(':').next().expect("a level");
        let by = expr
            .split(" by (")
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        if let Some(by) = by {
            let labels: Vec<&str> = by
                .split(", ")
                .filter(|label| *label != "workload_type")
                .collect();
            assert_eq!(labels.join("_"), level, "{record}");
        }
    }
}

#[test]
fn every_recorded_series_that_is_kept_has_a_test() {
    let (rules, tests) = (read(RULES), read(TESTS));
    // The tests of the summed series cover those that sum them.
    let whole: String = rules
        .split("- name: stallscope-fleet-levels")
        .skip(1)
        .collect();
    for record in recorded(&whole) {
        let above = ["cluster_node_cause:", "cluster_cause:"]
            .iter()
            .any(|level| record.starts_with(level));
        assert!(above || tests.contains(record), "{record} has no test");
    }
}

/// Replaces Kubernetes service discovery in a configuration: Debian's promtool is built without it.
fn without_discovery(text: &str) -> String {
    let targets = "static_configs:\n      - targets: [\"127.0.0.1:9750\"]\n";
    text.replace("kubernetes_sd_configs:\n      - role: pod\n", targets)
}

#[test]
fn promtool_takes_every_configuration() {
    let folder = root().join("deploy/prometheus");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let copies = tempfile::tempdir().expect("a folder");
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        let rules = root().join("dashboards");
        let text = without_discovery(&text).replace("../../dashboards", &rules.to_string_lossy());
        assert!(
            !text.contains("kubernetes_sd_configs"),
            "{}",
            file.display()
        );
        assert!(text.contains("honor_labels: true"), "{}", file.display());
        let copy = copies.path().join(file.file_name().expect("a name"));
        fs::write(&copy, text).expect("a copy");
        promtool(&["check", "config", &copy.to_string_lossy()]);
    }
}

#[test]
fn instances_are_nodes_and_not_addresses() {
    let of_nodes = [
        "- source_labels: [__meta_kubernetes_pod_node_name] target_label: instance",
        "- {source_labels: [__meta_kubernetes_pod_node_name], target_label: instance}",
        "- sourceLabels: [__meta_kubernetes_pod_node_name] targetLabel: instance",
    ];
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("deploy/prometheus"))
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.extend(
        ["docs/kubernetes.md", "deploy/helm/stallscope/values.yaml"].map(|f| root().join(f)),
    );
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let by_node: usize = of_nodes
            .iter()
            .map(|rule| words.matches(rule).count())
            .sum();
        let given = words
            .matches("labels: node: node-1 instance: node-1")
            .count()
            + words.matches("labels: instance: this-host").count();
        let places = words.matches("job_name: stallscope").count()
            + words
                .matches("targetLabel: job replacement: stallscope")
                .count();
        assert!(places > 0, "{}", file.display());
        assert_eq!(by_node + given, places, "{}", file.display());
    }
}
