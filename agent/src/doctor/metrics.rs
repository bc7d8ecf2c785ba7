//! Metrics of findings and facts.

use std::collections::BTreeMap;

use super::{Report, Severity};
use crate::exposition::metric::{Kind, Metric, Scope, Value};

/// Metric families of this module, in the order in which [`samples`] returns them.
pub static METRICS: &[&Metric] = &[
    &FINDINGS,
    &MACHINE_INFO,
    &KERNEL_INFO,
    &MEMORY_INFO,
    &CGROUP_INFO,
    &KUBELET_INFO,
];

static FINDINGS: Metric = Metric {
    name: "stallscope_doctor_findings",
    kind: Kind::Gauge,
    help: "Findings of the node audit by check and severity, looked for at the interval of --doctor. A check that found nothing is 0; one that could not be made here is absent.",
    labels: &["check", "severity"],
    scope: Scope::Host,
    source: "`stallscope doctor`",
};

static MACHINE_INFO: Metric = Metric {
    name: "stallscope_node_machine_info",
    kind: Kind::Info,
    help: "The machine: its CPUs' model, product, hypervisor, NUMA nodes, SMT and page size in bytes; what is not known is empty.",
    labels: &[
        "cpu_model",
        "product",
        "hypervisor",
        "nodes",
        "smt",
        "page_bytes",
        "governor",
    ],
    scope: Scope::Host,
    source: "`/sys/devices/system/{cpu,node}`, `/proc/cpuinfo`, DMI or device tree",
};

static KERNEL_INFO: Metric = Metric {
    name: "stallscope_node_kernel_info",
    kind: Kind::Info,
    help: "The kernel: release, preemption model, lockdown and clock source; what is not known is empty.",
    labels: &["release", "preemption", "lockdown", "clocksource"],
    scope: Scope::Host,
    source: "`/proc/sys/kernel`, `/sys/kernel`",
};

static MEMORY_INFO: Metric = Metric {
    name: "stallscope_node_memory_info",
    kind: Kind::Info,
    help: "Memory settings: transparent huge pages, NUMA balancing, zone reclaim, swappiness and watermarks; what is not known is empty.",
    labels: &[
        "thp",
        "thp_defrag",
        "numa_balancing",
        "zone_reclaim_mode",
        "swappiness",
        "watermark_scale_factor",
    ],
    scope: Scope::Host,
    source: "`/sys/kernel/mm/transparent_hugepage`, `/proc/sys/vm`, `/proc/sys/kernel/numa_balancing`",
};

static CGROUP_INFO: Metric = Metric {
    name: "stallscope_node_cgroup_info",
    kind: Kind::Info,
    help: "Control groups: version (v1, hybrid, v2), container runtime and its cgroup driver; what is not known is empty.",
    labels: &["mode", "runtime", "driver"],
    scope: Scope::Host,
    source: "`/sys/fs/cgroup`, the runtime's configuration",
};

static KUBELET_INFO: Metric = Metric {
    name: "stallscope_node_kubelet_info",
    kind: Kind::Info,
    help: "The kubelet's settings as it has them after defaults; absent where no kubelet is in sight.",
    labels: &[
        "cgroup_driver",
        "cpu_manager_policy",
        "topology_manager_policy",
        "topology_manager_scope",
        "memory_manager_policy",
        "reserved_cpus",
    ],
    scope: Scope::Host,
    source: "the kubelet's command line and configuration file",
};

/// Returns every sample of [`METRICS`], with its label values in the order of the definition's
/// labels.
#[must_use]
pub fn samples(report: &Report) -> Vec<(&'static Metric, Vec<String>, Value)> {
    let mut samples = findings(report);
    let facts = &report.facts;
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let number = |value: Option<i64>| value.map_or_else(String::new, |value| value.to_string());
    let machine = &facts.machine;
    let names =
        |counts: &BTreeMap<String, usize>| counts.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut info = |metric, labels| samples.push((metric, labels, Value::Count(1)));
    info(
        &MACHINE_INFO,
        vec![
            names(&machine.cpu_models),
            or_empty(&machine.product),
            or_empty(&machine.hypervisor),
            machine.node_cpus.len().to_string(),
            machine
                .smt
                .map_or("", |on| if on { "on" } else { "off" })
                .to_owned(),
            machine
                .page_bytes
                .map_or_else(String::new, |bytes| bytes.to_string()),
            names(&machine.governors),
        ],
    );
    let kernel = &facts.kernel;
    info(
        &KERNEL_INFO,
        [
            &kernel.release,
            &kernel.preemption,
            &kernel.lockdown,
            &facts.system.clocksource,
        ]
        .map(or_empty)
        .to_vec(),
    );
    let setting = |name| number(facts.memory.settings.get(name).copied().flatten());
    info(
        &MEMORY_INFO,
        vec![
            or_empty(&facts.memory.thp),
            or_empty(&facts.memory.thp_defrag),
            setting("numa_balancing"),
            setting("zone_reclaim_mode"),
            setting("swappiness"),
            setting("watermark_scale_factor"),
        ],
    );
    let cgroups = &facts.cgroups;
    info(
        &CGROUP_INFO,
        vec![
            cgroups.mode.unwrap_or_default().to_owned(),
            cgroups.runtime.unwrap_or_default().to_owned(),
            or_empty(&cgroups.runtime_driver),
        ],
    );
    if let Some(kubelet) = &facts.kubernetes {
        info(
            &KUBELET_INFO,
            [
                &kubelet.cgroup_driver,
                &kubelet.cpu_manager_policy,
                &kubelet.topology_manager_policy,
                &kubelet.topology_manager_scope,
                &kubelet.memory_manager_policy,
                &kubelet.reserved_cpus,
            ]
            .map(Clone::clone)
            .to_vec(),
        );
    }
    samples
}

fn findings(report: &Report) -> Vec<(&'static Metric, Vec<String>, Value)> {
    let made = report
        .checks
        .iter()
        .filter(|made| matches!(made.state, "clean" | "found"));
    let pairs = made.flat_map(|made| {
        let check = super::CHECKS.iter().find(|check| check.name == made.check);
        let severities = check.map_or(&[][..], |check| check.severities);
        severities.iter().map(|severity| (made.check, *severity))
    });
    let count = |check: &str, severity: Severity| {
        let mut all = report.findings.iter();
        all.by_ref()
            .filter(|f| f.check == check && f.severity == severity)
            .count() as u64
    };
    pairs
        .map(|(check, severity)| {
            let labels = vec![check.to_owned(), severity.name().to_owned()];
            (&FINDINGS, labels, Value::Count(count(check, severity)))
        })
        .collect()
}
