//! Hosts that report nearly everything, and unusual ones: nodes without CPUs or memory, gaps, hybrids.

use stallscope::host::topology::Boundary;

use crate::host::Want::{Absent, Sysfs};
use crate::host::{GIB, Host, check, each, each_smt, some};
use crate::read;

#[test]
fn epyc_7763_with_four_nodes_a_package() {
    let nodes: Vec<(u32, String, Option<u64>)> = (0..8)
        .zip(each_smt(128, 16))
        .map(|(id, cpus)| (id, cpus, Some(64 * GIB)))
        .collect();
    let nodes: Vec<(u32, &str, Option<u64>)> = nodes
        .iter()
        .map(|(id, cpus, bytes)| (*id, cpus.as_str(), *bytes))
        .collect();
    let distance = |from: usize, to: usize| match (from == to, from / 4 == to / 4) {
        (true, _) => 10,
        (false, true) => 12,
        (false, false) => 32,
    };
    let distances: Vec<Vec<u32>> = (0..8)
        .map(|from| (0..8).map(|to| distance(from, to)).collect())
        .collect();
    check(
        "epyc-7763-nps4",
        &Host {
            possible_cpus: 256,
            online: "0-255",
            smt: Some(true),
            nodes: &nodes,
            distances: &distances.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            levels: [
                Sysfs(each_smt(128, 1)),
                Absent("every cluster is one core"),
                Sysfs(each_smt(128, 8)),
                Sysfs(each_smt(128, 64)),
                Sysfs(each_smt(128, 16)),
                Sysfs(each_smt(128, 64)),
            ],
            boundaries: &[
                (0, 128, Boundary::None),
                (0, 1, Boundary::Core),
                (0, 129, Boundary::Core),
                (7, 8, Boundary::Llc),
                (0, 143, Boundary::Llc),
                (15, 16, Boundary::Node),
                (0, 63, Boundary::Node),
                (0, 64, Boundary::Package),
            ],
            notes: &[],
        },
    );
}

#[test]
fn intel_with_two_nodes_inside_one_l3() {
    let memory = Some(65_536_000 * 1024);
    check(
        "intel-snc2",
        &Host {
            possible_cpus: 128,
            online: "0-127",
            smt: Some(true),
            nodes: &[
                (0, "0-15,64-79", memory),
                (1, "16-31,80-95", memory),
                (2, "32-47,96-111", memory),
                (3, "48-63,112-127", memory),
            ],
            distances: &[
                &[10, 12, 21, 21],
                &[12, 10, 21, 21],
                &[21, 21, 10, 12],
                &[21, 21, 12, 10],
            ],
            levels: [
                Sysfs(each_smt(64, 1)),
                Absent("every cluster is one core"),
                Sysfs(each_smt(64, 32)),
                Sysfs(each_smt(64, 32)),
                Sysfs(each_smt(64, 16)),
                Sysfs(each_smt(64, 32)),
            ],
            boundaries: &[
                (0, 64, Boundary::None),
                (0, 15, Boundary::Core),
                (15, 16, Boundary::Node),
                (0, 80, Boundary::Node),
                (31, 32, Boundary::Package),
            ],
            notes: &[],
        },
    );
}

#[test]
fn virtual_machine_of_two_cpus() {
    check(
        "vm-2-cpus",
        &Host {
            possible_cpus: 2,
            online: "0-1",
            smt: Some(false),
            nodes: &[(0, "0-1", Some(6_645_964 * 1024))],
            distances: &[&[10]],
            levels: [
                Sysfs(each(2, 1)),
                Absent("every cluster is one core"),
                Sysfs(each(2, 2)),
                Sysfs(each(2, 2)),
                Sysfs(each(2, 2)),
                Sysfs(each(2, 2)),
            ],
            boundaries: &[(0, 1, Boundary::Core)],
            notes: &[],
        },
    );
}

#[test]
fn memory_only_node() {
    check(
        "cxl-memory-only-node",
        &Host {
            possible_cpus: 8,
            online: "0-7",
            smt: Some(false),
            nodes: &[
                (0, "0-3", Some(32 * GIB)),
                (1, "4-7", Some(32 * GIB)),
                (2, "", Some(128 * GIB)),
            ],
            distances: &[&[10, 21, 14], &[21, 10, 24], &[14, 24, 10]],
            levels: [
                Sysfs(each(8, 1)),
                Absent("cluster_id is missing or unknown"),
                Sysfs(each(8, 4)),
                Sysfs(each(8, 4)),
                Sysfs(each(8, 4)),
                Sysfs(each(8, 4)),
            ],
            boundaries: &[(0, 3, Boundary::Core), (3, 4, Boundary::Package)],
            notes: &["node 2 is memory-only: it has no online CPUs"],
        },
    );
}

#[test]
fn offline_cpus() {
    check(
        "offline-cpus",
        &Host {
            possible_cpus: 16,
            online: "0-2,4-6",
            smt: Some(true),
            nodes: &[(0, "0-2,4-6", Some(16 * GIB))],
            distances: &[&[10]],
            levels: [
                Sysfs(some(&["0,4", "1,5", "2,6"])),
                Absent("cluster_id is missing"),
                Sysfs(some(&["0-2,4-6"])),
                Sysfs(some(&["0-2,4-6"])),
                Sysfs(some(&["0-2,4-6"])),
                Sysfs(some(&["0-2,4-6"])),
            ],
            boundaries: &[
                (0, 4, Boundary::None),
                (0, 1, Boundary::Core),
                (0, 3, Boundary::None),
                (0, 15, Boundary::None),
            ],
            notes: &["CPUs 3,7 are offline: nothing is known of their place until they are online"],
        },
    );
}

#[test]
fn holes_in_the_numbering() {
    check(
        "node-holes",
        &Host {
            possible_cpus: 8192,
            online: "0-3,8188-8191",
            smt: Some(false),
            nodes: &[
                (0, "0-3", Some(32 * GIB)),
                (2, "8188-8191", Some(0)),
                (1023, "", Some(32 * GIB)),
            ],
            distances: &[&[10, 20, 40], &[20, 10, 30], &[40, 30, 10]],
            levels: [
                Sysfs(some(&["0", "1", "2", "3", "8188", "8189", "8190", "8191"])),
                Absent("cluster_id is missing or unknown"),
                Absent("no cache at all"),
                Absent("die_id is missing"),
                Sysfs(some(&["0-3", "8188-8191"])),
                Sysfs(some(&["0-3", "8188-8191"])),
            ],
            boundaries: &[
                (0, 1, Boundary::Core),
                (3, 8188, Boundary::Package),
                (0, 4, Boundary::None),
            ],
            notes: &[
                "node 2 has CPUs only: its memory is always remote",
                "node 1023 is memory-only: it has no online CPUs",
            ],
        },
    );
    assert_eq!(
        read("node-holes").distance(0, 1),
        None,
        "node 1 does not exist"
    );
}

#[test]
fn one_node_over_two_packages_of_two_dies() {
    check(
        "numa-off",
        &Host {
            possible_cpus: 8,
            online: "0-7",
            smt: Some(false),
            nodes: &[(0, "0-7", Some(32 * GIB))],
            distances: &[&[10]],
            levels: [
                Sysfs(each(8, 1)),
                Absent("cluster_id is missing"),
                Sysfs(each(8, 2)),
                Sysfs(each(8, 2)),
                Sysfs(each(8, 8)),
                Sysfs(each(8, 4)),
            ],
            boundaries: &[
                (0, 1, Boundary::Core),
                (1, 2, Boundary::Die),
                (0, 4, Boundary::Package),
            ],
            notes: &[],
        },
    );
}

#[test]
fn clusters_and_an_l3_for_some_cores_only() {
    check(
        "hybrid-client",
        &Host {
            possible_cpus: 10,
            online: "0-9",
            smt: Some(true),
            nodes: &[(0, "0-9", Some(32 * GIB))],
            distances: &[&[10]],
            levels: [
                Sysfs(some(&["0-1", "2-3", "4", "5", "6", "7", "8", "9"])),
                Sysfs(some(&["0-1", "2-3", "4-7", "8-9"])),
                Sysfs(some(&["0-7"])),
                Sysfs(some(&["0-9"])),
                Sysfs(some(&["0-9"])),
                Sysfs(some(&["0-9"])),
            ],
            boundaries: &[
                (0, 1, Boundary::None),
                (1, 2, Boundary::Cluster),
                (4, 7, Boundary::Core),
                (7, 8, Boundary::Cluster),
            ],
            notes: &["no llc is reported for CPUs 8-9"],
        },
    );
}
