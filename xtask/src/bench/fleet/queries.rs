//! Panels of a dashboard over the whole fleet, computed from the agents' own series and from recorded ones.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::estimate::median;
use super::super::figure::Figures;
use super::super::interrupt;
use super::prometheus::{Answer, Prometheus};

const STEP: Duration = Duration::from_secs(30);
const TIMES: usize = 3;

/// Panels: the name, the query over the agents' series, the query over the series that the rules record.
const PANELS: [(&str, &str, &str); 5] = [
    (
        "lost_by_cause",
        "sum by (cause) (rate(stallscope_stall_seconds_total[5m]))",
        "sum by (cause) (cluster_cause:stallscope_stall:rate5m)",
    ),
    (
        "worst_nodes",
        "topk(20, sum by (node) (rate(stallscope_stall_seconds_total{cause=~\"neighbour|throttled\"}[5m])))",
        "topk(20, sum by (node) (cluster_node_cause:stallscope_stall:rate5m{cause=~\"neighbour|throttled\"}))",
    ),
    (
        "wait_p99_by_namespace",
        "histogram_quantile(0.99, sum by (namespace, le) (rate(stallscope_run_queue_wait_seconds_bucket[5m])))",
        "histogram_quantile(0.99, sum by (namespace, le) (cluster_namespace_le:stallscope_run_queue_wait_seconds_bucket:rate5m))",
    ),
    (
        "throttled_share_by_namespace",
        "sum by (namespace) (rate(stallscope_cpu_cfs_throttled_periods_total[5m])) / (sum by (namespace) (rate(stallscope_cpu_cfs_periods_total[5m])) > 0)",
        "cluster_namespace:stallscope_cpu_cfs_throttled_periods:ratio_rate5m",
    ),
    (
        "lost_by_workload",
        "topk(20, sum by (namespace, workload) (sum by (namespace, pod) (rate(stallscope_stall_seconds_total{pod!=\"\"}[5m])) * on (namespace, pod) group_left (workload) max by (namespace, pod, workload) (namespace_workload_pod:kube_pod_owner:relabel)))",
        "topk(20, sum by (namespace, workload) (cluster_namespace_workload_cause:stallscope_stall:rate5m))",
    ),
];

/// Runs each panel's two queries over the measured time, with a value each half minute. It compares their results
/// first, because a cheap answer to another question would be worth nothing.
pub fn measure(prometheus: &Prometheus, time: Duration, figures: &mut Figures) -> Result<()> {
    for (name, raw, recorded) in PANELS {
        let raw = times(prometheus, raw, time)?;
        let recorded = times(prometheus, recorded, time)?;
        let (ours, theirs) = (last_sum(&recorded.0), last_sum(&raw.0));
        ensure!(
            (ours / theirs - 1.0).abs() < 0.1,
            "{name} is {theirs} by the agents' series and {ours} by the recorded ones"
        );
        figures.number(format!("query_{name}_raw"), raw.1 * 1e3, "ms");
        figures.number(format!("query_{name}_recorded"), recorded.1 * 1e3, "ms");
        figures.number(
            format!("query_{name}_samples_ratio"),
            raw.0.samples / recorded.0.samples.max(1.0),
            "ratio",
        );
    }
    Ok(())
}

/// Runs a query repeatedly. Returns the last answer and the median of the times.
fn times(prometheus: &Prometheus, query: &str, time: Duration) -> Result<(Answer, f64)> {
    let mut seconds = Vec::new();
    loop {
        interrupt::check()?;
        let answer = prometheus.range(query, time, STEP)?;
        ensure!(!answer.result.is_empty(), "nothing for {query}");
        seconds.push(answer.seconds);
        if seconds.len() == TIMES {
            return Ok((answer, median(&seconds)));
        }
    }
}

/// Returns the sum of all series at the third last moment, which both kinds have: recorded series are up to half a
/// minute older.
fn last_sum(answer: &Answer) -> f64 {
    let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
    for series in &answer.result {
        for value in series["values"].as_array().into_iter().flatten() {
            let at = value[0].as_f64().unwrap_or_default();
            let text = value[1].as_str().unwrap_or_default();
            if let Ok(number) = text.parse::<f64>()
                && number.is_finite()
            {
                // Timestamps are seconds since 1970.
                #[expect(clippy::cast_sign_loss, reason = "see above")]
                let at = at as u64;
                *sums.entry(at).or_default() += number;
            }
        }
    }
    sums.into_values().rev().nth(2).unwrap_or(f64::NAN)
}
