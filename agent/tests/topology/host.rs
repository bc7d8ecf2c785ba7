//! Expectations of a fixture's host, and their comparison with the topology.

use stallscope::host::topology::{Boundary, Source};

use crate::read;

pub const GIB: u64 = 1 << 30;

/// Expected level: the CPUs of its groups, or the reason for its absence.
pub enum Want {
    Sysfs(Vec<String>),
    Shared(Vec<String>),
    Absent(&'static str),
}

pub struct Host<'a> {
    pub possible_cpus: u32,
    pub online: &'a str,
    pub smt: Option<bool>,
    /// Number, CPUs and bytes of memory of each node.
    pub nodes: &'a [(u32, &'a str, Option<u64>)],
    /// Distances, a row for each node.
    pub distances: &'a [&'a [u32]],
    /// Levels: core, cluster, LLC, die, node, package.
    pub levels: [Want; 6],
    pub boundaries: &'a [(u32, u32, Boundary)],
    pub notes: &'a [&'a str],
}

/// Returns `count` CPUs in groups of `size`.
pub fn each(count: u32, size: u32) -> Vec<String> {
    let group = |first: u32| {
        if size == 1 {
            first.to_string()
        } else {
            format!("{first}-{}", first + size - 1)
        }
    };
    (0..count).step_by(size as usize).map(group).collect()
}

/// Returns the same groups, each with its SMT siblings `count` further on.
pub fn each_smt(count: u32, size: u32) -> Vec<String> {
    let range = |first: u32| {
        if size == 1 {
            first.to_string()
        } else {
            format!("{first}-{}", first + size - 1)
        }
    };
    (0..count)
        .step_by(size as usize)
        .map(|first| format!("{},{}", range(first), range(first + count)))
        .collect()
}

pub fn some(groups: &[&str]) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}

pub fn check(name: &str, host: &Host<'_>) {
    let topology = read(name);
    assert_eq!(topology.possible_cpus(), host.possible_cpus);
    assert_eq!(topology.cpus().online.to_string(), host.online);
    assert_eq!(topology.smt_active(), host.smt);

    let nodes: Vec<_> = topology
        .nodes()
        .iter()
        .map(|node| (node.id, node.cpus.to_string(), node.memory_bytes))
        .collect();
    let expected: Vec<_> = host
        .nodes
        .iter()
        .map(|(id, cpus, bytes)| (*id, (*cpus).to_owned(), *bytes))
        .collect();
    assert_eq!(nodes, expected);
    for node in topology.nodes() {
        for cpu in node.cpus.iter() {
            assert_eq!(topology.node_of(cpu), Some(node.id));
        }
    }

    let distances: Vec<Vec<u32>> = topology
        .nodes()
        .iter()
        .map(|from| {
            topology
                .nodes()
                .iter()
                .filter_map(|to| topology.distance(from.id, to.id))
                .collect()
        })
        .collect();
    assert_eq!(distances, host.distances);

    for (level, want) in topology.levels().iter().zip(&host.levels) {
        let groups: Vec<String> = level
            .groups
            .iter()
            .map(|group| group.cpus.to_string())
            .collect();
        let what = level.boundary;
        let (source, expected) = match want {
            Want::Sysfs(expected) => (Source::Sysfs, expected),
            Want::Shared(expected) => (Source::SharedCpuList, expected),
            Want::Absent(expected) => {
                let reason = level.reason.as_deref().unwrap_or_default();
                assert_eq!(level.source, Source::None, "{what}");
                assert!(
                    reason.contains(expected),
                    "{what}: `{reason}` does not say `{expected}`"
                );
                continue;
            }
        };
        assert_eq!((level.source, &groups), (source, expected), "{what}");
    }
    let order: Vec<Boundary> = topology
        .levels()
        .iter()
        .map(|level| level.boundary)
        .collect();
    assert_eq!(order, Boundary::ALL[1..]);

    for (from, to, boundary) in host.boundaries {
        assert_eq!(
            topology.boundary(*from, *to),
            *boundary,
            "CPU {from} to {to}"
        );
    }
    assert_eq!(topology.notes(), host.notes);
}
