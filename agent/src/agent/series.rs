//! Number of series that an owner can have: every family with every combination of its label values.

use stallscope_ebpf::{Boundary, Cause, Daemon, Reclaim, WAIT_BOUNDS_NS};

use crate::{
    exposition::metric::{Kind, Metric, Scope},
    probes::{PROBES, cpu_wait, task_migrations::MOST_PAIRED_NODES},
};

/// A family of which each owner has its own series, on a host of a given size.
#[derive(Clone, Debug)]
pub struct OwnerFamily {
    /// Definition of the family.
    pub metric: &'static Metric,
    /// Every possible combination of label values, in the order of the definition.
    pub values: Vec<Vec<String>>,
}

impl OwnerFamily {
    /// Returns the maximum number of series that one owner has in this family.
    #[must_use]
    pub fn series(&self) -> usize {
        let each = match self.metric.kind {
            // Buckets with `+Inf`, the sum, and the count.
            Kind::Histogram => WAIT_BOUNDS_NS.len() + 3,
            Kind::Counter | Kind::Gauge | Kind::Info => 1,
        };
        self.values.len() * each
    }
}

/// Returns every family with owners that the probes define, for a host with `nodes` NUMA nodes with CPUs. If the node
/// of a CPU is not known, CPU time has one value more.
#[must_use]
pub fn owner_families(nodes: u16) -> Vec<OwnerFamily> {
    let families = owner_metrics().filter_map(|(probe, metric)| {
        let values = values(probe, metric, nodes)?;
        Some(OwnerFamily { metric, values })
    });
    families.collect()
}

/// Returns the maximum number of series of one owner on a host with `nodes` NUMA nodes with CPUs: see
/// [`owner_families`].
#[must_use]
pub fn series_bound(nodes: u16) -> usize {
    owner_families(nodes).iter().map(OwnerFamily::series).sum()
}

/// Returns the families with owners, with the names of their probes.
fn owner_metrics() -> impl Iterator<Item = (&'static str, &'static Metric)> {
    let all = PROBES
        .iter()
        .flat_map(|probe| probe.metrics.iter().map(|metric| (probe.name, *metric)));
    all.filter(|(_, metric)| metric.scope == Scope::Owner)
}

/// Returns every combination of a family's label values; none for a family that is not known here.
fn values(probe: &str, metric: &Metric, nodes: u16) -> Option<Vec<Vec<String>>> {
    let one = |values: &[&str]| -> Vec<Vec<String>> {
        values.iter().map(|v| vec![(*v).to_owned()]).collect()
    };
    Some(match metric.labels {
        // Exported only where there are several nodes.
        [] if metric.name == DISTANCE => vec![Vec::new(); usize::from(nodes > 1)],
        [] => vec![Vec::new()],
        ["cause"] if probe == cpu_wait::PROBE.name => one(&Cause::ALL.map(Cause::label)),
        ["cause"] => one(&Reclaim::ALL.map(Reclaim::label)),
        ["daemon"] => one(&Daemon::ALL.map(Daemon::label)),
        ["boundary"] => one(&Boundary::ALL.map(Boundary::as_str)),
        ["locality"] => one(&["local", "remote"]),
        ["node"] => (0..nodes).map(|node| vec![node.to_string()]).collect(),
        ["from", "to"] => pairs(nodes),
        _ => return None,
    })
}

const DISTANCE: &str = "stallscope_task_migration_distance_total";

fn pairs(nodes: u16) -> Vec<Vec<String>> {
    let nodes = if usize::from(nodes) > MOST_PAIRED_NODES {
        0
    } else {
        nodes
    };
    let all = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    all.filter(|(from, to)| from != to)
        .map(|(from, to)| vec![from.to_string(), to.to_string()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_with_owners_is_counted() {
        for (probe, metric) in owner_metrics() {
            let values = values(probe, metric, 2);
            let values = values.unwrap_or_else(|| {
                panic!(
                    "{}: which values its labels can have is not known here",
                    metric.name
                )
            });
            assert!(!values.is_empty(), "{}", metric.name);
            for set in values {
                assert_eq!(set.len(), metric.labels.len(), "{}", metric.name);
            }
        }
        assert_eq!(owner_families(2).len(), owner_metrics().count());
    }

    #[test]
    fn the_bound_is_what_docs_cardinality_states() {
        let stated = |nodes: usize| 103 + nodes * nodes + usize::from(nodes > 1);
        for nodes in [1_u16, 2, 4, 8, 32] {
            assert_eq!(series_bound(nodes), stated(usize::from(nodes)), "{nodes}");
        }
        // With so many nodes, pairs of nodes are not exported.
        assert_eq!(series_bound(33), 103 + 33 + 1);
    }
}
