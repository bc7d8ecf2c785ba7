//! A rollout in Prometheus: another pod with another name and address replaces the agent's pod on a node.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    agents::Agent,
    names,
    node::{Pods, STALLS},
    prometheus::{Prometheus, When, now},
    shipped::{read, root},
};

const NODE: &str = "node-1";
/// An alert on a workload, which waits for 15 minutes.
const ALERT: &str = "StallscopeThrottled";

/// Returns the shipped configuration for a cluster, with an interval of a second instead of half a minute, pods from a
/// file instead of an API server, and the alerts.
fn configuration(pods: &Path) -> String {
    let discovery = "kubernetes_sd_configs:\n      - role: pod\n";
    let file = format!("file_sd_configs:\n      - files: [{}]\n", pods.display());
    let rules = root().join("dashboards").display().to_string();
    let fleet = format!("  - {rules}/fleet-rules.yaml\n");
    let text = read("deploy/prometheus/kubernetes.yaml")
        .replace(discovery, &file)
        .replace("_interval: 30s", "_interval: 1s")
        .replace("../../dashboards", &rules);
    assert!(text.contains(&file) && text.contains(&fleet), "{text}");
    text.replace(&fleet, &format!("  - {rules}/alerts.yaml\n"))
}

/// Writes the discovery result for the agent's pod on that node.
fn found(pods: &Path, name: &str, address: &str) {
    let pod = json!([{"targets": [address], "labels": {
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "stallscope",
        "__meta_kubernetes_pod_container_port_name": "metrics",
        "__meta_kubernetes_pod_node_name": NODE,
        "__meta_kubernetes_pod_name": name,
    }}]);
    // The file is replaced atomically, because Prometheus may read it at any time.
    let new = pods.with_extension("new");
    fs::write(&new, pod.to_string()).expect("it is written");
    fs::rename(&new, pods).expect("it is replaced");
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        sleep(Duration::from_millis(100));
    }
}

/// Returns the alert on the throttled pod; none while it does not wait.
fn alert(prometheus: &Prometheus) -> Option<Value> {
    let mut all = prometheus.alerts(ALERT);
    all.retain(|alert| alert["labels"]["pod"] == STALLS[0].pod);
    assert!(all.len() < 2, "one pod, several alerts: {all:#?}");
    all.pop()
}

#[test]
#[ignore = "needs root, BPF and Prometheus: attaches the probes, makes cgroups and loads the CPUs"]
fn an_alert_goes_on_when_a_rollout_replaces_the_agent() {
    let kubelet = names::Node::new();
    let folder = tempfile::tempdir().expect("a folder");
    let pods = folder.path().join("pods.json");
    let first = Agent::measuring(&kubelet.path("log"));
    found(&pods, "stallscope-1", &first.address);
    let Some(prometheus) = Prometheus::with(&configuration(&pods)) else {
        println!(
            "skipped: there is no prometheus to start; `cargo xtask test` fetches it, and the package `prometheus` has it"
        );
        return;
    };
    let _workloads = Pods::start(&kubelet);
    wait("the alert waits", || alert(&prometheus).is_some());
    let before = alert(&prometheus).expect("it waits");
    println!("before: {before:#}");

    drop(first);
    let second = Agent::measuring(&kubelet.path("log"));
    found(&pods, "stallscope-2", &second.address);
    wait("the second agent is scraped", || {
        prometheus.scrapes_only(&second.address)
    });
    // The recorded series contain the pod's waits, and Prometheus has evaluated the alert on them.
    let began = now();
    let grows = format!("increase({}[10s]) > 0", STALLS[0].grows[0]);
    let grows = grows.replace("$pod", STALLS[0].pod);
    wait("the second agent measures the pod", || {
        now() > began + 10
            && prometheus
                .query(&grows, When::At(now()))
                .is_ok_and(|found| !found.is_empty())
    });
    let after = alert(&prometheus);
    println!("after: {after:#?}");
    let after = after.expect("it waits still");
    assert_eq!(before["activeAt"], after["activeAt"], "it began anew");
    assert_eq!(before["labels"], after["labels"]);

    let hosts = prometheus
        .label_values("stallscope_uptime_seconds", "instance")
        .expect("it has agents");
    assert_eq!(hosts, [NODE], "what the Host dashboard lists");
}
