//! Topology of hosts with documented layouts, and of the host that runs the tests.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "topology/arm64.rs"]
mod arm64;
#[path = "topology/fixture.rs"]
mod fixture;
#[path = "topology/host.rs"]
mod host;
#[path = "topology/limits.rs"]
mod limits;
#[path = "topology/malformed.rs"]
mod malformed;
#[path = "topology/output.rs"]
mod output;
#[path = "topology/x86.rs"]
mod x86;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use stallscope::host::topology::{Boundary, CpuList, CpuPlace, Level, Source, Topology};

/// Every fixture's topology, read once, because thousands of files are slow to write on a busy disk.
static HOSTS: LazyLock<BTreeMap<String, Topology>> = LazyLock::new(|| {
    let read = |name: String| {
        let sys = fixture::sys(&name);
        let topology = Topology::read(sys.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, topology)
    };
    fixture::names().into_iter().map(read).collect()
});

fn read(name: &str) -> &'static Topology {
    &HOSTS[name]
}

/// Finds the boundary between two CPUs from the levels, by looking for each CPU in each level's groups.
fn boundary_by_groups(
    groups: &BTreeMap<Boundary, Option<u16>>,
    other: &BTreeMap<Boundary, Option<u16>>,
) -> Boundary {
    let crossed = |level: &Boundary| {
        groups[level].is_some() && other[level].is_some() && groups[level] != other[level]
    };
    let far_to_near = [
        Boundary::Package,
        Boundary::Node,
        Boundary::Die,
        Boundary::Llc,
        Boundary::Cluster,
        Boundary::Core,
    ];
    far_to_near
        .into_iter()
        .find(crossed)
        .unwrap_or(Boundary::None)
}

#[test]
fn comparing_places_gives_the_boundary_of_the_levels_for_every_pair_of_cpus() {
    for (name, topology) in &*HOSTS {
        let cpus = topology.cpus();
        assert_eq!(
            topology.places().len(),
            topology.possible_cpus() as usize,
            "{name}"
        );
        // All online CPUs are compared, and one offline and one absent CPU.
        let extra = [&cpus.offline, &cpus.possible.without(&cpus.present)];
        let all: Vec<u32> = cpus
            .online
            .iter()
            .chain(extra.into_iter().filter_map(CpuList::first))
            .collect();
        let groups: BTreeMap<u32, BTreeMap<Boundary, Option<u16>>> = all
            .iter()
            .map(|&cpu| {
                let group = |level: &Level| {
                    let group = level
                        .groups
                        .iter()
                        .find(|group| group.cpus.contains(cpu))
                        .map(|group| group.id);
                    (level.boundary, group)
                };
                (cpu, topology.levels().iter().map(group).collect())
            })
            .collect();
        for &from in &all {
            for &to in &all {
                let expected = boundary_by_groups(&groups[&from], &groups[&to]);
                assert_eq!(
                    topology.boundary(from, to),
                    expected,
                    "{name}: CPU {from} to {to}"
                );
                let places = topology.places();
                assert_eq!(
                    places[from as usize].boundary(places[to as usize]),
                    expected,
                    "{name}: CPU {from} to {to}"
                );
                assert_eq!(
                    topology.boundary(to, from),
                    expected,
                    "{name}: CPU {to} to {from}"
                );
            }
        }
    }
}

#[test]
fn ids_are_dense_and_unique_on_the_host() {
    for (name, topology) in &*HOSTS {
        for level in topology.levels() {
            let ids: Vec<u32> = level
                .groups
                .iter()
                .map(|group| u32::from(group.id))
                .collect();
            if level.boundary == Boundary::Node {
                let kernel: Vec<u32> = topology
                    .nodes()
                    .iter()
                    .filter(|node| !node.cpus.is_empty())
                    .map(|node| node.id)
                    .collect();
                assert_eq!(ids, kernel, "{name}");
            } else {
                assert_eq!(
                    ids,
                    (0..ids.len() as u32).collect::<Vec<_>>(),
                    "{name}: {}",
                    level.boundary
                );
            }
        }
    }
}

#[test]
fn every_absent_level_and_no_other_has_a_reason() {
    for (name, topology) in &*HOSTS {
        for level in topology.levels() {
            assert_eq!(
                level.source == Source::None,
                level.reason.is_some(),
                "{name}: {}",
                level.boundary
            );
        }
    }
}

#[test]
fn boundaries_are_ordered_and_numbered_from_none() {
    for (number, boundary) in Boundary::ALL.into_iter().enumerate() {
        assert_eq!(boundary as usize, number);
    }
    assert!(Boundary::ALL.is_sorted());
}

#[test]
fn a_cpu_of_which_nothing_is_known_crosses_nothing() {
    let topology = read("kunpeng-920");
    assert_eq!(topology.place(100_000), CpuPlace::UNKNOWN);
    assert_eq!(topology.boundary(0, 100_000), Boundary::None);
    assert_eq!(topology.node_of(100_000), None);
}

#[test]
fn reads_this_host() {
    let sys = Path::new("/sys");
    let topology = Topology::read(sys).unwrap();
    let online = &topology.cpus().online;
    assert!(!online.is_empty());
    assert_eq!(topology.levels().len(), 6);
    for cpu in online.iter() {
        assert!(topology.node_of(cpu).is_some(), "CPU {cpu} is on no node");
        assert_eq!(topology.boundary(cpu, cpu), Boundary::None);
    }
    if sys.join("devices/system/node").exists() {
        for node in topology.nodes() {
            assert_eq!(topology.distance(node.id, node.id), Some(10));
        }
    }
    assert!(topology.to_text().contains("levels, nearest first"));
}
