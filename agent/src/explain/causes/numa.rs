//! Causes of NUMA: threads that run away from their memory. The kernel measures no time for them, so the agent
//! estimates it, and says so.

use super::{Case, Evidence, Remedy, sysctl};
use crate::{
    explain::{amount, cpu_seconds, text::number},
    ledger::history::{Quantity, Sums},
};

/// Time for which a thread that migrated to another node runs on memory that it left behind, in seconds: the shortest
/// interval after which NUMA balancing scans its memory again (`numa_balancing_scan_period_min_ms`, 1000 unless set).
const BEHIND: f64 = 1.0;

/// SLIT distance of a node to itself.
const LOCAL: f64 = 10.0;

/// Minimum number of faults in a window from which their nodes are evidence.
const ENOUGH: f64 = 100.0;

/// Returns the share of its time that a thread loses if it uses only memory at this SLIT distance: the time that it
/// would not have spent at distance 10.
fn part_lost(distance: f64) -> f64 {
    ((distance - LOCAL) / distance).clamp(0.0, 1.0)
}

/// Returns the time on CPUs soon after a migration to another node, in seconds.
fn behind(sums: &Sums) -> f64 {
    (amount(sums, Quantity::NodeMigrations) * BEHIND).min(cpu_seconds(sums))
}

/// Returns the mean distance of the migrations between nodes; the mean distance of the nodes if it was not counted.
fn distance(case: &Case, sums: &Sums) -> f64 {
    let moves = amount(sums, Quantity::NodeMigrations);
    let crossed = amount(sums, Quantity::MigrationDistance);
    if moves > 0.0 && crossed > 0.0 {
        crossed / moves
    } else {
        case.node.far.unwrap_or(LOCAL)
    }
}

pub(super) fn migration_seconds(case: &Case, sums: &Sums) -> f64 {
    behind(sums) * part_lost(distance(case, sums))
}

/// Returns the share of the faulted pages that were on another node; none if there were too few faults.
fn remote_part(sums: &Sums) -> Option<f64> {
    let (local, remote) = [
        (Quantity::LocalFaults, Quantity::RemoteFaults),
        (Quantity::LocalHints, Quantity::RemoteHints),
    ]
    .into_iter()
    .map(|(local, remote)| (amount(sums, local), amount(sums, remote)))
    .fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    (local + remote >= ENOUGH).then(|| remote / (local + remote))
}

/// Estimates the time lost to remote memory, in seconds, by the share of pages on other nodes. It excludes time on CPUs
/// that a migration explains.
pub(super) fn remote_seconds(case: &Case, sums: &Sums) -> f64 {
    let (Some(far), Some(part)) = (case.node.far, remote_part(sums)) else {
        return 0.0;
    };
    (cpu_seconds(sums) - behind(sums)) * part * part_lost(far)
}

fn by_node(case: &Case) -> Vec<Evidence> {
    let all = case.cpu_seconds();
    let mut nodes: Vec<_> = case
        .window
        .keys()
        .filter_map(|quantity| match quantity {
            Quantity::Cpu(Some(node)) => Some((*node, case.of(*quantity))),
            _ => None,
        })
        .collect();
    nodes.sort_by_key(|(node, _)| *node);
    let text = |(node, seconds): &(u16, f64)| {
        format!("{} % on node {node}", number(seconds / all * 100.0))
    };
    let mut evidence = Vec::new();
    if !nodes.is_empty() {
        let parts: Vec<_> = nodes.iter().map(text).collect();
        evidence.push(Evidence::text(
            "cpu_by_node",
            format!("ran {}", parts.join(", ")),
        ));
    }
    if let Some(memory) = &case.facts.memory_by_node {
        let all: u64 = memory.values().sum();
        if all > 0 {
            let part = |(node, bytes): (&String, &u64)| {
                format!(
                    "{} % on node {node}",
                    number(*bytes as f64 / all as f64 * 100.0)
                )
            };
            let parts: Vec<_> = memory
                .iter()
                .filter(|(_, bytes)| **bytes > 0)
                .map(part)
                .collect();
            evidence.push(Evidence::text(
                "memory_by_node",
                format!("its memory is {} now (memory.numa_stat)", parts.join(", ")),
            ));
        }
    }
    evidence
}

pub(super) fn migration_evidence(case: &Case) -> Vec<Evidence> {
    let (between, all) = (
        case.of(Quantity::NodeMigrations),
        case.of(Quantity::Migrations),
    );
    let mut evidence = vec![
        Evidence::number(
            "migrations_between_nodes",
            between,
            "moves",
            format!("{between} of {all} moves of its threads went to another NUMA node"),
        ),
        Evidence::text(
            "reckoning",
            format!(
                "an estimate: {BEHIND} s of CPU time after each such move, {} % of it lost at a distance of {}",
                number(part_lost(distance(case, &case.window)) * 100.0),
                number(distance(case, &case.window))
            ),
        ),
    ];
    evidence.extend(by_node(case));
    evidence
}

pub(super) fn remote_evidence(case: &Case) -> Vec<Evidence> {
    let far = case.node.far.unwrap_or(LOCAL);
    let mut evidence = Vec::new();
    for (name, what, remote, local) in [
        (
            "remote_faults",
            "pages it placed or mapped were",
            Quantity::RemoteFaults,
            Quantity::LocalFaults,
        ),
        (
            "remote_hinting_faults",
            "pages that NUMA balancing sampled were",
            Quantity::RemoteHints,
            Quantity::LocalHints,
        ),
    ] {
        let (remote, all) = (case.of(remote), case.of(remote) + case.of(local));
        if all > 0.0 {
            evidence.push(Evidence::number(
                name,
                remote,
                "faults",
                format!("{remote} of {all} {what} on another NUMA node"),
            ));
        }
    }
    evidence.push(Evidence::text(
        "reckoning",
        format!(
            "an estimate: that part of its CPU time, {} % of it lost at a distance of {}",
            number(part_lost(far) * 100.0),
            number(far)
        ),
    ));
    evidence.extend(by_node(case));
    evidence
}

pub(super) fn remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = case.keep_on_a_node();
    if case.node.numa_balancing == Some(0) {
        remedies.push(Remedy::run(
            "Or let memory follow the threads",
            sysctl("kernel.numa_balancing", 1),
        ));
    }
    remedies
}

impl Case {
    /// Returns the node on which the subject ran most, with its CPUs.
    pub(in crate::explain) fn busiest_node(&self) -> Option<(u32, &str)> {
        let of_node = |node: &u32| self.of(Quantity::Cpu(u16::try_from(*node).ok()));
        let (node, cpus) = self
            .node
            .nodes
            .iter()
            .max_by(|a, b| of_node(a.0).total_cmp(&of_node(b.0)))?;
        Some((*node, cpus))
    }
}
