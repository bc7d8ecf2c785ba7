//! Owners and their names: containers of pods, and services of the host.

use stallscope::{
    agent::OwnerFamily,
    exposition::{
        OwnerLabels,
        metric::{Kind, Metric},
    },
};
use stallscope_ebpf::WAIT_BUCKETS;

use crate::growth::{self, Cell, Random};

/// The labels that the fleet makes up values for.
pub const LABELS: [&str; 6] = [
    "namespace",
    "pod",
    "container",
    "cgroup",
    "workload",
    "workload_type",
];

/// Shares of owners that have a CPU limit, and that have reclaimed memory.
const LIMITED: f64 = 0.5;
const RECLAIMED: f64 = 0.1;

/// Numbers of namespaces and workloads in the whole cluster.
const NAMESPACES: u64 = 40;
const WORKLOADS: u64 = 400;

/// Names of a pod.
#[derive(Clone, Debug)]
pub struct Names {
    pub namespace: String,
    pub workload: String,
    pub pod: String,
    cgroup: String,
}

impl Names {
    pub fn new(random: &mut Random) -> Self {
        let workload = random.below(WORKLOADS);
        let (hash, end) = (random.below(1 << 40), random.below(1 << 20));
        let uid = u128::from(random.next()) << 64 | u128::from(random.next());
        let uid = format!("{uid:032x}");
        let parts = [
            &uid[..8],
            &uid[8..12],
            &uid[12..16],
            &uid[16..20],
            &uid[20..],
        ];
        let uid = parts.join("_");
        Self {
            namespace: format!("team-{:02}", workload % NAMESPACES),
            workload: format!("service-{workload:03}"),
            pod: format!("service-{workload:03}-{hash:010x}-{end:05x}"),
            cgroup: format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"
            ),
        }
    }

    pub fn labels(&self, names: &[String], container: &str) -> OwnerLabels {
        OwnerLabels::of(names.iter().map(|name| {
            let value = match name.as_str() {
                "namespace" => &self.namespace,
                "pod" => &self.pod,
                "container" => container,
                "cgroup" => &self.cgroup,
                "workload" => &self.workload,
                _ => "deployment",
            };
            (name.as_str(), value)
        }))
    }
}

/// Returns the labels of an owner outside pods.
pub fn outside(names: &[String], cgroup: &str) -> OwnerLabels {
    OwnerLabels::of(names.iter().map(|name| {
        let value = if name == "cgroup" { cgroup } else { "" };
        (name.as_str(), value)
    }))
}

/// A container, or a service of the host.
#[derive(Clone, Debug)]
pub struct Owner {
    pub labels: OwnerLabels,
    /// Cells by family.
    pub cells: Vec<Vec<Cell>>,
    pub limit: f64,
}

impl Owner {
    pub fn new(labels: OwnerLabels, families: &[OwnerFamily], random: &mut Random) -> Self {
        let activity = growth::activity(random);
        let limited = random.share() < LIMITED;
        let reclaimed = random.share() < RECLAIMED;
        let cells = families
            .iter()
            .map(|family| {
                if !happens(family.metric, limited, reclaimed) {
                    return Vec::new();
                }
                let sets = family.values.iter().enumerate();
                sets.filter(|(_, values)| known(family.metric, values))
                    .map(|(set, values)| cell(family.metric, set, values, activity, limited))
                    .collect()
            })
            .collect();
        Self {
            labels,
            cells,
            limit: (activity * 8.0).ceil() / 4.0,
        }
    }

    pub fn grow(&mut self, seconds: f64, random: &mut Random) {
        for cell in self.cells.iter_mut().flatten() {
            cell.grow(seconds, random);
        }
    }
}

fn cell(metric: &Metric, set: usize, values: &[String], activity: f64, limited: bool) -> Cell {
    let words = if metric.kind == Kind::Histogram {
        WAIT_BUCKETS + 1
    } else {
        1
    };
    let throttled = values.first().is_some_and(|value| value == "throttled");
    let rate = if throttled && !limited {
        0.0
    } else {
        growth::rate(metric, values) * activity
    };
    Cell {
        set,
        rate,
        words: vec![0; words].into(),
    }
}

fn happens(metric: &Metric, limited: bool, reclaimed: bool) -> bool {
    match metric.name {
        "stallscope_cpu_limit_cores" => limited,
        name if name.contains("_cfs_") || name.contains("_throttle_") => limited,
        "stallscope_reclaim_seconds" | "stallscope_task_stall_seconds_total" => reclaimed,
        _ => true,
    }
}

/// Returns whether a series exists: hosts usually have neither clusters nor dies, and most owners reclaim for one
/// reason.
fn known(metric: &Metric, values: &[String]) -> bool {
    let value = values.first().map(String::as_str);
    match metric.name {
        "stallscope_task_migrations_total" => !matches!(value, Some("cluster" | "die")),
        "stallscope_reclaim_seconds" => value == Some("memcg_reclaim"),
        _ => true,
    }
}
