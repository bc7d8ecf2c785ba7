//! A scrape with the series of cAdvisor and kube-state-metrics, joined by Prometheus' own engine.

use std::{fmt::Write as _, process::Command};

use serde_json::{Value, json};

use super::kubelet::{NAMESPACE, Pod};
use crate::kernel::Scrape;

/// A container, with the values that other exporters would have for it.
pub struct Known<'a> {
    pub pod: &'a Pod,
    pub container: &'a str,
    /// CPU limit in cores, as the test set it.
    pub limit: f64,
    /// CPU time in seconds from the kernel, which is cAdvisor's source too.
    pub usage: f64,
}

/// The agent's CPU time divided by cAdvisor's: 1 where both agree within a tenth.
const USAGE: &str = "
    abs(sum by (namespace, pod, container) (stallscope_cpu_seconds_total{container!=\"\"})
      / on (namespace, pod, container)
      container_cpu_usage_seconds_total{container!=\"\"} - 1) < bool 0.1";
/// Limits in the kernel that equal those of the pods' specifications.
const LIMITS: &str = "
    max by (namespace, pod, container) (stallscope_cpu_limit_cores{container!=\"\"})
      == on (namespace, pod, container)
      max by (namespace, pod, container) (kube_pod_container_resource_limits{resource=\"cpu\"})";
/// Pods that lost time, by their creator.
const WORKLOADS: &str = "
    sum by (created_by_name) (
      (sum by (namespace, pod) (stallscope_stall_seconds_total{pod!=\"\"}) > bool 0)
        * on (namespace, pod) group_left (created_by_name) kube_pod_info)";

/// Runs the joins on this scrape with promtool. Skipped where it is not installed.
pub fn check(scrape: &Scrape, known: &[Known<'_>]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("joins.yaml");
    // JSON is valid YAML.
    let text = tests(scrape, known).to_string();
    std::fs::write(&file, text).expect("it takes a file");
    match Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output()
    {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{said}");
            println!("promtool joined {} containers", known.len());
        }
        Err(error) => println!("joins skipped: promtool cannot be run ({error})"),
    }
}

fn tests(scrape: &Scrape, known: &[Known<'_>]) -> Value {
    let mut series: Vec<Value> = scrape
        .0
        .lines()
        .filter(|line| line.starts_with("stallscope_") && line.contains("namespace="))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| given(series, value))
        .collect();
    for each in known {
        series.extend(of_others(each));
    }
    let expected = |value: &dyn Fn(&Known<'_>) -> f64| -> Vec<Value> {
        known
            .iter()
            .map(|each| json!({"labels": format!("{{{}}}", labels(each)), "value": value(each)}))
            .collect()
    };
    let workload = json!([{"labels": "{created_by_name=\"made-by-hand\"}", "value": pods(known)}]);
    json!({
        "rule_files": [],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [
                {"expr": USAGE, "eval_time": "0m", "exp_samples": expected(&|_| 1.0)},
                {"expr": LIMITS, "eval_time": "0m", "exp_samples": expected(&|each| each.limit)},
                {"expr": WORKLOADS, "eval_time": "0m", "exp_samples": workload},
            ],
        }],
    })
}

fn given(series: &str, value: &str) -> Value {
    json!({"series": series, "values": value})
}

/// Formats `namespace="…",pod="…",container="…"`.
fn labels(known: &Known<'_>) -> String {
    let Known { pod, container, .. } = known;
    let mut text = of_pod(pod);
    // Writing to a string cannot fail.
    let _ = write!(text, ",container=\"{container}\"");
    text
}

fn of_pod(pod: &Pod) -> String {
    format!("namespace=\"{NAMESPACE}\",pod=\"{}\"", pod.name)
}

fn pods(known: &[Known<'_>]) -> usize {
    let mut names: Vec<_> = known.iter().map(|each| &each.pod.name).collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}

/// Returns the series that cAdvisor and kube-state-metrics would have for a container.
fn of_others(known: &Known<'_>) -> Vec<Value> {
    let Known {
        pod,
        container,
        limit,
        usage,
    } = known;
    let own = labels(known);
    let id = pod.container_cgroup(container);
    let mut series = vec![
        given(
            &format!(
                "container_cpu_usage_seconds_total{{{own},cpu=\"total\",id=\"{id}\",image=\"shell\",job=\"kubelet\"}}"
            ),
            &usage.to_string(),
        ),
        given(
            &format!(
                "kube_pod_container_resource_limits{{{own},uid=\"{}\",resource=\"cpu\",unit=\"core\"}}",
                pod.uid
            ),
            &limit.to_string(),
        ),
    ];
    // The pod's own series appear once per pod.
    if pod.containers[0].name == *container {
        let info = format!(
            "kube_pod_info{{{},uid=\"{}\",created_by_kind=\"\",created_by_name=\"made-by-hand\"}}",
            of_pod(pod),
            pod.uid
        );
        series.push(given(&info, "1"));
    }
    series
}
