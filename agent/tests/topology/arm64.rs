//! Hosts whose firmware and kernel leave levels out.

use stallscope::host::topology::Boundary;

use crate::host::Want::{Absent, Shared, Sysfs};
use crate::host::{GIB, Host, check, each};

#[test]
fn ampere_altra_max_in_quadrant_mode() {
    let memory = Some(64 * GIB);
    check(
        "ampere-altra-max-quadrant",
        &Host {
            possible_cpus: 128,
            online: "0-127",
            smt: Some(false),
            nodes: &[
                (0, "0-31", memory),
                (1, "32-63", memory),
                (2, "64-95", memory),
                (3, "96-127", memory),
            ],
            distances: &[
                &[10, 11, 11, 12],
                &[11, 10, 12, 11],
                &[11, 12, 10, 11],
                &[12, 11, 11, 10],
            ],
            levels: [
                Sysfs(each(128, 1)),
                Sysfs(each(128, 2)),
                Absent(
                    "no data or unified cache of level 3 or above is reported: none beyond level 2",
                ),
                Absent("die_id is missing"),
                Sysfs(each(128, 32)),
                Sysfs(each(128, 128)),
            ],
            boundaries: &[
                (0, 0, Boundary::None),
                (0, 1, Boundary::Core),
                (1, 2, Boundary::Cluster),
                (31, 32, Boundary::Node),
                (0, 127, Boundary::Node),
            ],
            notes: &[],
        },
    );
}

#[test]
fn kunpeng_920() {
    let memory = Some(64 * GIB);
    check(
        "kunpeng-920",
        &Host {
            possible_cpus: 128,
            online: "0-127",
            smt: Some(false),
            nodes: &[
                (0, "0-31", memory),
                (1, "32-63", memory),
                (2, "64-95", memory),
                (3, "96-127", memory),
            ],
            distances: &[
                &[10, 12, 20, 22],
                &[12, 10, 22, 24],
                &[20, 22, 10, 12],
                &[22, 24, 12, 10],
            ],
            levels: [
                Sysfs(each(128, 1)),
                Sysfs(each(128, 4)),
                Shared(each(128, 32)),
                Absent("die_id is missing"),
                Sysfs(each(128, 32)),
                Sysfs(each(128, 64)),
            ],
            boundaries: &[
                (0, 3, Boundary::Core),
                (3, 4, Boundary::Cluster),
                (0, 31, Boundary::Cluster),
                (31, 32, Boundary::Node),
                (63, 64, Boundary::Package),
            ],
            notes: &[],
        },
    );
}

#[test]
fn graviton3() {
    check(
        "graviton3",
        &Host {
            possible_cpus: 64,
            online: "0-63",
            smt: Some(false),
            nodes: &[(0, "0-63", Some(128 * GIB))],
            distances: &[&[10]],
            levels: [
                Sysfs(each(64, 1)),
                Absent("every cluster is a whole package"),
                Shared(each(64, 64)),
                Absent("die_id is missing"),
                Sysfs(each(64, 64)),
                Sysfs(each(64, 64)),
            ],
            boundaries: &[(0, 63, Boundary::Core), (5, 5, Boundary::None)],
            notes: &[],
        },
    );
}

#[test]
fn kernel_without_numa() {
    check(
        "no-numa",
        &Host {
            possible_cpus: 4,
            online: "0-3",
            smt: None,
            nodes: &[(0, "0-3", None)],
            distances: &[&[]],
            levels: [
                Sysfs(each(4, 1)),
                Absent("cluster_id is missing"),
                Absent("no cache at all"),
                Absent("-1"),
                Absent("without CONFIG_NUMA: one node 0 is assumed"),
                Absent("-1"),
            ],
            boundaries: &[(0, 3, Boundary::Core)],
            notes: &["node 0 is a guess that stands for the whole host"],
        },
    );
}
