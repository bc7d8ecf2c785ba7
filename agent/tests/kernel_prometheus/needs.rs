//! Series and labels that do not exist everywhere, with the reason. The test checks the list in both directions.

use std::collections::BTreeMap;

use super::expression::names;

/// Series that exist under a condition, and only then.
pub struct Need {
    pub series: &'static [&'static str],
    /// Condition in words, for the page.
    pub what: &'static str,
    /// Expression that has a result where the condition holds.
    pub here: &'static str,
}

/// Series that not every machine and kernel has.
pub const NEEDS: [Need; 4] = [
    Need {
        series: &[
            "stallscope_cpu_throttle_seconds_bucket",
            "stallscope_cpu_throttle_seconds_sum",
            "stallscope_cpu_throttle_seconds_count",
        ],
        what: "a kernel that lets single throttles be probed",
        here: r#"stallscope_probe_hook_status{hook="single throttles", state="attached"} == 1"#,
    },
    Need {
        series: &[
            "stallscope_file_map_faults_total",
            "stallscope_file_map_pages_total",
        ],
        what: "a kernel that lets the mapping of files be probed",
        here: r#"stallscope_probe_hook_status{hook="file mapping", state="attached"} == 1"#,
    },
    Need {
        series: &["stallscope_numa_hinting_faults_total"],
        what: "NUMA balancing that is on",
        here: r#"stallscope_probe_hook_status{hook="hinting", state="attached"} == 1"#,
    },
    Need {
        series: &[
            "stallscope_task_migrations_between_nodes_total",
            "stallscope_task_migration_distance_total",
        ],
        what: "several NUMA nodes",
        here: "count by (instance) (stallscope_topology_memory_bytes) > 1",
    },
];

/// A label that not every machine has values for.
pub struct LabelNeed {
    pub label: &'static str,
    pub series: &'static str,
    pub what: &'static str,
    pub here: &'static str,
}

/// Labels of columns that stay empty here.
pub const LABELS: [LabelNeed; 1] = [LabelNeed {
    label: "cluster",
    series: "stallscope_topology_cpu_info",
    what: "CPUs in clusters",
    here: r#"stallscope_topology_level_info{level="cluster", source!="none"} == 1"#,
}];

/// An expression that has a result only while something is wrong or a threshold is exceeded, which the test does not
/// cause.
pub struct Quiet {
    pub place: &'static str,
    /// Part of the expression that always has a result.
    pub part: &'static str,
    /// Condition for a result of the whole expression.
    pub when: &'static str,
    /// True if the condition is impossible here; false if it depends on this machine's load.
    pub never: bool,
}

/// Expressions that may have no result here.
pub const QUIET: [Quiet; 9] = [
    Quiet {
        place: "alerts.yaml: StallscopeAbsent",
        part: r#"up{job="stallscope"}"#,
        when: "only when no agent is scraped",
        never: true,
    },
    Quiet {
        place: "alerts.yaml: StallscopeProbeFailed",
        part: "stallscope_probe_status",
        when: "only when a probe fails that the kernel should have taken",
        never: true,
    },
    Quiet {
        place: "alerts.yaml: StallscopeLostEvents",
        part: "sum by (job, instance, node, probe, reason) (rate(stallscope_lost_events_total[10m]))",
        when: "only when more than 10 events a second are lost",
        never: true,
    },
    Quiet {
        place: "alerts.yaml: StallscopeOwnThreadsWait",
        part: r#"sum without (cause) (instance_cgroup_cause:stallscope_stall:rate5m{cause="own", cgroup!~"[(].*"})
            / instance_cgroup:stallscope_wanted:rate5m"#,
        when: "when own threads have the CPU for more than half of the time",
        never: false,
    },
    Quiet {
        place: "alerts.yaml: StallscopeMemoryDaemonBusy",
        part:
            "instance_daemon:stallscope_daemon_cpu:rate5m
            * on (cluster, instance) group_left (node)
            (bottomk by (cluster, instance) (1, last_over_time(stallscope_uptime_seconds[5m])) ^ 0)",
        when: "when a memory daemon uses a fifth of a CPU",
        never: false,
    },
    Quiet {
        place: "alerts.yaml: StallscopeReclaimStalls",
        part: r#"instance_cgroup_cause:stallscope_task_stall:rate5m{cgroup!~"[(].*"}
            / ignoring (cause) group_left () instance_cgroup:stallscope_wanted:rate5m"#,
        when: "when reclaim takes a tenth of a second each second",
        never: false,
    },
    Quiet {
        place: "alerts.yaml: StallscopeMovesBetweenNodes",
        part: "instance_cgroup:stallscope_task_migrations_between_nodes:rate5m",
        when: "when tasks move between NUMA nodes all the time",
        never: false,
    },
    Quiet {
        place: "alerts.yaml: StallscopeRemoteMemory",
        part: r#"instance_cgroup_locality:stallscope_first_touch_pages:rate5m{locality="remote", cgroup!~"[(].*"}
            / ignoring (locality) group_left ()
            sum without (locality) (instance_cgroup_locality:stallscope_first_touch_pages:rate5m)"#,
        when: "when a quarter of new memory is on another NUMA node",
        never: false,
    },
    Quiet {
        place: "alerts.yaml: StallscopeUnattributed",
        part: "instance:stallscope_stall_unattributed:ratio_rate5m",
        when: "when a tenth of the waits has no cause",
        never: false,
    },
];

/// Returns the needs of an expression. A recorded series has the needs of its rule.
pub fn needs(expr: &str, rules: &BTreeMap<String, String>) -> Vec<&'static Need> {
    let mut read: Vec<&str> = Vec::new();
    let mut exprs = vec![expr];
    while let Some(expr) = exprs.pop() {
        let more = names(expr).series.into_iter().map(|(name, _)| name);
        let more: Vec<&str> = more.filter(|name| !read.contains(name)).collect();
        exprs.extend(
            more.iter()
                .filter_map(|name| rules.get(*name).map(String::as_str)),
        );
        read.extend(more);
    }
    let reads = |need: &&Need| need.series.iter().any(|name| read.contains(name));
    NEEDS.iter().filter(reads).collect()
}

/// Returns the entry for a place, if there is one.
pub fn quiet(place: &str) -> Option<&'static Quiet> {
    QUIET.iter().find(|quiet| quiet.place == place)
}
