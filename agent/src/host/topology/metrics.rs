//! Metrics of the topology, with which a query can relate a pod's time to CPUs, nodes and distances.

use super::{Boundary, Topology};
use crate::exposition::metric::{Kind, Metric, Scope, Value};

/// Metric families of this module, in the order in which [`Topology::samples`] returns them.
pub static METRICS: &[&Metric] = &[&CPU_INFO, &NUMA_DISTANCE, &MEMORY_BYTES, &LEVEL_INFO];

static CPU_INFO: Metric = Metric {
    name: "stallscope_topology_cpu_info",
    kind: Kind::Info,
    help: "Where each online CPU is: node is the kernel's number, the other ids count from 0 on this host, and an \
           empty label is a level the host does not report.",
    labels: &["cpu", "node", "package", "die", "llc", "cluster"],
    scope: Scope::Host,
    source: "/sys/devices/system/cpu/cpu*/{topology,cache}, /sys/devices/system/node/node*/cpulist",
};

static NUMA_DISTANCE: Metric = Metric {
    name: "stallscope_topology_numa_distance",
    kind: Kind::Gauge,
    help: "Distance between two NUMA nodes as the firmware states it, where 10 is local.",
    labels: &["from", "to"],
    scope: Scope::Host,
    source: "/sys/devices/system/node/node*/distance",
};

static MEMORY_BYTES: Metric = Metric {
    name: "stallscope_topology_memory_bytes",
    kind: Kind::Gauge,
    help: "Memory of each NUMA node when the topology was read; hypervisors can change it later.",
    labels: &["node"],
    scope: Scope::Host,
    source: "MemTotal in /sys/devices/system/node/node*/meminfo",
};

static LEVEL_INFO: Metric = Metric {
    name: "stallscope_topology_level_info",
    kind: Kind::Info,
    help: "How each level of the topology is known, or why it is absent.",
    labels: &["level", "source", "reason"],
    scope: Scope::Host,
    source: "/sys/devices/system/cpu/cpu*/{topology,cache}, /sys/devices/system/node",
};

impl Topology {
    /// Returns every sample of [`METRICS`], with its label values in the order of the definition's labels.
    #[must_use]
    pub fn samples(&self) -> Vec<(&'static Metric, Vec<String>, Value)> {
        let mut samples = Vec::new();
        for cpu in self.cpus.online.iter() {
            let place = self.place(cpu);
            let id = |level| {
                place
                    .id(level)
                    .map_or_else(String::new, |id: u16| id.to_string())
            };
            let mut labels = vec![cpu.to_string()];
            labels.extend(
                [
                    Boundary::Node,
                    Boundary::Package,
                    Boundary::Die,
                    Boundary::Llc,
                    Boundary::Cluster,
                ]
                .map(id),
            );
            samples.push((&CPU_INFO, labels, Value::Count(1)));
        }
        for node in &self.nodes {
            for (to, distance) in &node.distances {
                let labels = vec![node.id.to_string(), to.to_string()];
                samples.push((&NUMA_DISTANCE, labels, Value::Count(u64::from(*distance))));
            }
        }
        for node in &self.nodes {
            if let Some(bytes) = node.memory_bytes {
                samples.push((
                    &MEMORY_BYTES,
                    vec![node.id.to_string()],
                    Value::Count(bytes),
                ));
            }
        }
        for level in &self.levels {
            // The reason dates from when the topology was read, so the label does not change from scrape to scrape.
            let reason = level.reason.clone().unwrap_or_default();
            let labels = vec![
                level.boundary.to_string(),
                level.source.as_str().to_owned(),
                reason,
            ];
            samples.push((&LEVEL_INFO, labels, Value::Count(1)));
        }
        samples
    }
}
