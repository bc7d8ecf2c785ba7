//! Existing series: those of the reference, and those that the rules record.

use std::collections::{BTreeMap, BTreeSet};

use super::shipped::read;

/// Labels that the scrape configuration adds to every series, unless a series has its own.
pub const OF_TARGETS: [&str; 4] = ["cluster", "instance", "job", "node"];

/// Series of workloads in the dashboards' queries, with their labels. The scrape configuration adds `namespace`.
///
/// Source: the names of gauges in Flink's Prometheus reporter, of histograms in `TiKV` and in Envoy's statistics.
const OF_WORKLOADS: [(&str, &[&str]); 10] = [
    ("flink_jobmanager_job_lastCheckpointDuration", &["job_name"]),
    (
        "flink_taskmanager_job_task_checkpointStartDelayNanos",
        &["job_name", "task_name"],
    ),
    (
        "flink_taskmanager_job_task_checkpointAlignmentTime",
        &["job_name", "task_name"],
    ),
    ("tikv_raftstore_append_log_duration_seconds_bucket", &["le"]),
    ("tikv_raftstore_commit_log_duration_seconds_bucket", &["le"]),
    ("tikv_raftstore_apply_log_duration_seconds_bucket", &["le"]),
    (
        "tikv_raftstore_store_write_loop_duration_seconds_bucket",
        &["le"],
    ),
    (
        "tikv_storage_engine_async_request_duration_seconds_bucket",
        &["le", "type"],
    ),
    (
        "envoy_http_downstream_rq_time_bucket",
        &["le", "envoy_http_conn_manager_prefix"],
    ),
    (
        "envoy_cluster_upstream_rq_time_bucket",
        &["le", "envoy_cluster_name"],
    ),
];

/// Returns the labels by series name, without those of targets.
pub fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = metrics(&read("docs/metrics.md"));
    assert!(series.len() > 40, "{series:?}");
    for (name, labels) in OF_WORKLOADS {
        let labels = labels.iter().chain(&["namespace"]);
        series.insert(name.to_owned(), labels.map(|l| (*l).to_owned()).collect());
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

/// Returns the series that rules record, with the labels of their outermost sum or their level.
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
