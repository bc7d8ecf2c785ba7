//! Numbers of CPUs and nodes at their limits, one below and one above.

use stallscope::host::topology::{CpuPlace, MAX_CPU, MAX_NODE, Topology};

use crate::fixture;

/// Reads the virtual machine with two CPUs, with other content in some files.
fn host(files: &[(&str, &str)]) -> Result<Topology, String> {
    let sys = fixture::sys("vm-2-cpus");
    for (path, content) in files {
        fixture::write(&sys, path, content);
    }
    Topology::read(sys.path()).map_err(|error| error.to_string())
}

#[test]
fn cpus_up_to_the_highest_are_possible_and_none_above() {
    for last in [1, 2, 63, 64, 4095, MAX_CPU - 1, MAX_CPU] {
        let topology = host(&[("cpu/possible", &format!("0-{last}"))]).unwrap();
        assert_eq!(topology.possible_cpus(), last + 1);
        assert_eq!(topology.places().len(), last as usize + 1);
        assert_eq!(topology.cpus().present.len(), 2);
        assert_eq!(topology.node_of(1), Some(0));
        if last > 1 {
            assert_eq!(topology.place(last), CpuPlace::UNKNOWN);
        }
    }
    for beyond in ["0-8192", "8192", "0,8192", "0-1,4294967295", "0-4294967296"] {
        let error = host(&[("cpu/possible", beyond)]).unwrap_err();
        assert!(
            error.contains("cpu/possible") && error.ends_with("goes above 8191"),
            "{error}"
        );
    }
}

#[test]
fn no_list_names_a_cpu_that_is_not_possible() {
    for (path, content) in [
        ("cpu/present", "0-2"),
        ("cpu/online", "0-2"),
        ("cpu/cpu0/topology/core_cpus_list", "0,2"),
        ("node/node0/cpulist", "0-2"),
    ] {
        let error = host(&[(path, content)]).unwrap_err();
        assert!(
            error.contains(path) && error.ends_with("goes above 1"),
            "{error}"
        );
    }
}

#[test]
fn one_cpu_is_a_host() {
    let files = [
        ("cpu/possible", "0"),
        ("cpu/present", "0"),
        ("cpu/online", "0"),
        ("cpu/cpu0/topology/core_cpus_list", "0"),
        ("cpu/cpu0/topology/cluster_cpus_list", "0"),
        ("cpu/cpu0/cache/index3/shared_cpu_list", "0"),
        ("node/node0/cpulist", "0"),
    ];
    let topology = host(&files).unwrap();
    assert_eq!((topology.possible_cpus(), topology.places().len()), (1, 1));
    assert_eq!(topology.node_of(0), Some(0));
    assert_eq!(topology.node_of(1), None);
    assert!(
        topology.to_text().starts_with("host: CPUs 0 (1)"),
        "{}",
        topology.to_text()
    );
}

#[test]
fn nodes_up_to_the_highest_are_read_through_any_gap_and_none_above() {
    for (number, last) in [
        (1, 1),
        (1, 63),
        (1, 64),
        (1, 65),
        (1, MAX_NODE - 1),
        (1, MAX_NODE),
    ] {
        let node = |file: &str| format!("node/node{last}/{file}");
        let topology = host(&[
            ("node/node0/cpulist", "0"),
            ("node/node0/distance", "10 21"),
            (&node("cpulist"), &number.to_string()),
            (&node("distance"), "31 10"),
            (&node("meminfo"), &format!("Node {last} MemTotal: 64 kB")),
        ])
        .unwrap();
        assert_eq!(
            (topology.node_of(0), topology.node_of(1)),
            (Some(0), Some(last))
        );
        // The second column belongs to the second existing node, whatever its number.
        assert_eq!(topology.distance(0, last), Some(21));
        assert_eq!(topology.distance(last, 0), Some(31));
        assert_eq!(topology.distance(last, last - 1), (last == 1).then_some(31));
        // One page has 64 KiB: the kernel prints kB, not pages.
        assert_eq!(topology.nodes()[1].memory_bytes, Some(65536));
    }
    for beyond in [1024, 1025, 65535, 65536] {
        let folder = format!("node/node{beyond}");
        let files = [
            ("node/node0/distance", "10 20"),
            (&format!("{folder}/cpulist"), ""),
        ];
        let error = host(&files).unwrap_err();
        assert!(
            error.ends_with("expected no node above 1023, but it exists"),
            "{error}"
        );
        assert!(error.contains(&folder), "{error}");
    }
}

#[test]
fn a_node_may_have_no_cpus_and_cpu_0_may_be_on_another_than_node_0() {
    let topology = host(&[
        ("node/node0/cpulist", ""),
        ("node/node0/distance", "10 20"),
        ("node/node1023/cpulist", "0-1"),
        ("node/node1023/distance", "20 10"),
    ])
    .unwrap();
    assert_eq!(topology.node_of(0), Some(1023));
    assert!(topology.nodes()[0].cpus.is_empty());
}

#[test]
fn ids_that_firmware_chooses_may_be_the_highest_or_unknown() {
    for (id, known) in [
        ("0", true),
        ("65535", true),
        ("4294967295", true),
        ("-1", false),
    ] {
        let files = [
            ("cpu/cpu1/topology/physical_package_id", id),
            ("cpu/cpu1/topology/die_id", id),
        ];
        let topology = host(&files).unwrap();
        let place = topology.place(1);
        let reported = |id: u16| id != CpuPlace::UNREPORTED;
        assert_eq!(reported(place.package), known, "package {id}");
        // A die is reported even where the package is not.
        assert_eq!(reported(place.die), known, "die {id}");
        assert!(place.package < 2 || !known, "dense");
    }
    let error = host(&[("cpu/cpu1/topology/die_id", "4294967296")]).unwrap_err();
    assert!(error.contains("die_id: expected an id"), "{error}");
}
