//! Every expression of the dashboards, rules and alerts, evaluated by a Prometheus that scrapes the agent while the
//! test causes each stall.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "kernel_prometheus/agents.rs"]
mod agents;
#[path = "kernel_prometheus/asked.rs"]
mod asked;
#[path = "kernel_prometheus/columns.rs"]
mod columns;
#[path = "kernel_prometheus/daemons.rs"]
mod daemons;
#[path = "dashboards/model.rs"]
#[allow(dead_code, reason = "the dashboards' tests use the rest")]
mod dashboards;
#[path = "dashboards/expression.rs"]
#[allow(dead_code, reason = "the dashboards' tests use the rest")]
mod expression;
#[path = "doctor/fixture.rs"]
#[allow(dead_code, reason = "the audit's tests use the rest")]
mod fixture;
#[path = "kernel_prometheus/grafana.rs"]
mod grafana;
mod kernel;
#[path = "pod_source_files/node.rs"]
#[allow(dead_code, reason = "the tests of that source use the rest")]
mod names;
#[path = "kernel_prometheus/needs.rs"]
mod needs;
#[path = "kernel_prometheus/node.rs"]
mod node;
#[path = "kernel_prometheus/others.rs"]
mod others;
#[path = "kernel_prometheus/page.rs"]
mod page;
#[path = "kernel_prometheus/prometheus.rs"]
mod prometheus;
#[path = "kernel_prometheus/proof.rs"]
mod proof;
#[path = "kernel_prometheus/rollout.rs"]
mod rollout;
mod serving;
mod shipped;
#[path = "topology/fixture.rs"]
#[allow(dead_code, reason = "the topology's tests use the rest")]
mod sysfs;

use serde_json::json;

use agents::{AUDITED, Agent};
use daemons::Collapsible;
use node::{NAMESPACE, Pods, STALLS};
use prometheus::{Prometheus, Target, When, now};
use proof::Proof;
use serving::http;

const CLUSTER: &str = "lab";

#[test]
#[ignore = "needs root, BPF and Prometheus: attaches the probes, makes cgroups and loads the CPUs"]
fn every_expression_gives_what_it_is_asked_for() {
    let kubelet = names::Node::new();
    let agent = Agent::measuring(&kubelet.path("log"));
    let [alike, other] = AUDITED.each_ref().map(Agent::auditing);
    let target = |address: &str, cluster: &str, node: &str| Target {
        job: "stallscope",
        address: address.to_owned(),
        labels: json!({"cluster": cluster, "node": node}),
    };
    // Two nodes have the same settings and a third one differs.
    let mut twin = target(&alike.address, "audited", "node-b");
    twin.labels["instance"] = json!("node-b:9750");
    let targets = [
        target(&agent.address, CLUSTER, "node-1"),
        target(&alike.address, "audited", "node-a"),
        twin,
        target(&other.address, "audited", "node-c"),
        // No agent listens there.
        target(&http::free_address(), CLUSTER, "node-down"),
        Target {
            job: "others",
            address: others::serve(),
            labels: json!({"cluster": CLUSTER}),
        },
    ];
    let Some(prometheus) = Prometheus::start(&targets) else {
        println!(
            "skipped: there is no prometheus to start; `cargo xtask test` fetches it, and the package `prometheus` has it"
        );
        return;
    };
    let began = now();
    prometheus.wait(
        "a scrape of each agent",
        "count(stallscope_uptime_seconds) == 4",
    );
    let pods = Pods::start(&kubelet);
    let huge = Collapsible::new();
    await_stalls(&prometheus);
    for daemon in ["kcompactd"]
        .into_iter()
        .chain(huge.is_some().then_some("khugepaged"))
    {
        let ran =
            format!("increase(stallscope_daemon_cpu_seconds_total{{daemon=\"{daemon}\"}}[1m]) > 0");
        prometheus.wait(daemon, &ran);
    }
    // The agent reads all limits every ten seconds, and a rate needs several samples.
    while now() < began + 25 {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    await_records(&prometheus);
    let hosts = targets[..4].iter().map(|target| {
        let named = target.labels["instance"].as_str();
        named.unwrap_or(&target.address).to_owned()
    });
    let choices = asked::Choices {
        hosts: hosts.collect(),
        cluster: CLUSTER.to_owned(),
        namespace: NAMESPACE.to_owned(),
        pods: STALLS.iter().map(|stall| stall.pod.to_owned()).collect(),
        containers: vec![node::CONTAINER.to_owned()],
        range: now() - began,
    };
    let mut proof = Proof::new(&prometheus, choices);
    // All queries are about the time up to now.
    drop(pods);
    println!("stalls were seen after {} s", now() - began);
    proof.needs();
    proof.rules();
    for dashboard in dashboards::dashboards() {
        proof.dashboard(&dashboard);
    }
    proof.end();
}

/// Waits until Prometheus has seen each stall that the test causes.
fn await_stalls(prometheus: &Prometheus) {
    for stall in &STALLS {
        for series in stall.grows {
            let series = series.replace("$pod", stall.pod);
            let grows = format!("sum(increase({series}[1m])) > 0");
            prometheus.wait(stall.pod, &grows);
        }
    }
}

/// Waits until every recording rule has recorded, and rules that depend on recorded series too.
fn await_records(prometheus: &Prometheus) {
    let rules = asked::recorded();
    let gives = |expr: &str| {
        let found = prometheus.query(expr, When::At(now()));
        found.is_ok_and(|found| !found.is_empty())
    };
    loop {
        let late = rules
            .iter()
            .filter(|(name, expr)| !gives(name) && gives(expr));
        let late: Vec<&String> = late.map(|(name, _)| name).collect();
        if late.is_empty() {
            return;
        }
        for name in late {
            prometheus.wait("a rule's series", name);
        }
    }
}
