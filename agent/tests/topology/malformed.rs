//! Files with content that the kernel's documentation does not allow, and caches that cannot be read.

use std::fs;

use proptest::prelude::*;
use stallscope::host::topology::{Boundary, Error, Level, Source, Topology};

use crate::fixture;

/// Returns the error's text after writing `content` into one file of the virtual machine's fixture, without the folder.
fn refusal(path: &str, content: &str) -> String {
    let sys = fixture::sys("vm-2-cpus");
    fixture::write(&sys, path, content);
    let error = Topology::read(sys.path()).unwrap_err().to_string();
    let folder = fixture::file(&sys, "");
    error
        .strip_prefix(folder.to_str().unwrap())
        .unwrap_or_else(|| panic!("`{error}` names no file"))
        .to_owned()
}

fn level(topology: &Topology, boundary: Boundary) -> &Level {
    topology
        .levels()
        .iter()
        .find(|level| level.boundary == boundary)
        .unwrap()
}

#[test]
fn errors_name_the_file_and_what_was_expected() {
    let list = "expected a list of CPUs such as `0-3,8`, but";
    for (path, content, expected) in [
        ("cpu/online", "zero", format!("{list} `zero` is neither an id nor a range")),
        ("cpu/online", "0-1,", format!("{list} `` is neither an id nor a range")),
        ("cpu/online", "0-2", format!("{list} `0-2` goes above 1")),
        ("cpu/possible", "0-99999999", format!("{list} `0-99999999` goes above 8191")),
        ("cpu/possible", "", "expected at least one CPU, but it is empty".to_owned()),
        ("cpu/cpu1/topology/core_cpus_list", "1-0", format!("{list} `1-0` runs backwards")),
        (
            "cpu/cpu0/topology/physical_package_id",
            "-2",
            "expected an id, or -1 for unknown, but found `-2`".to_owned(),
        ),
        ("cpu/cpu0/topology/die_id", "", "expected an id, or -1 for unknown, but found ``".to_owned()),
        (
            "cpu/smt/active",
            "a text that goes on for longer than anyone would want to read",
            "expected 0 or 1, but found `a text that goes on for longer than anyo…`".to_owned(),
        ),
        ("cpu/smt/active", "maybe", "expected 0 or 1, but found `maybe`".to_owned()),
        ("node/node0/cpulist", "0-4294967296", format!("{list} `0-4294967296` goes above 1")),
        ("node/node0/distance", "10 20", "expected 1 distances, one for each online node, but found `10 20`".to_owned()),
        ("node/node0/distance", "ten", "expected 1 distances, one for each online node, but found `ten`".to_owned()),
        (
            "node/node0/meminfo",
            "Node 0 MemTotal: lots",
            "expected a line such as `Node 0 MemTotal: 1024 kB`, but found `Node 0 MemTotal: lots`".to_owned(),
        ),
        (
            "node/node0/meminfo",
            "Node 0 MemTotal: 18446744073709551615 kB",
            "expected a line such as `Node 0 MemTotal: 1024 kB`, but found `Node 0 MemTotal: 18446744073709551615 kB`"
                .to_owned(),
        ),
    ] {
        assert_eq!(refusal(path, content), format!("{path}: {expected}"));
    }
}

#[test]
fn a_cpu_is_on_one_node_only() {
    let expected =
        "node/node1/cpulist: expected CPUs of this node alone, but CPU 1 is also on node 0";
    let sys = fixture::sys("vm-2-cpus");
    fixture::write(&sys, "node/node0/distance", "10 20");
    fixture::write(&sys, "node/node1/distance", "20 10");
    fixture::write(&sys, "node/node1/cpulist", "1");
    let error = Topology::read(sys.path()).unwrap_err().to_string();
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_node_number_has_a_limit() {
    let expected = "node/node1024: expected no node above 1023, but it exists";
    let sys = fixture::sys("vm-2-cpus");
    fixture::write(&sys, "node/node0/distance", "10 20");
    fixture::write(&sys, "node/node1024/cpulist", "");
    let error = Topology::read(sys.path()).unwrap_err().to_string();
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn missing_cpu_lists_are_an_error_and_not_an_empty_host() {
    let empty = tempfile::tempdir().unwrap();
    let error = Topology::read(empty.path()).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("devices/system/cpu/possible"),
        "{error}"
    );
}

#[test]
fn binary_content_is_an_error_that_names_the_file() {
    let sys = fixture::sys("vm-2-cpus");
    fs::write(fixture::file(&sys, "cpu/online"), [0xff, 0xfe]).unwrap();
    let error = Topology::read(sys.path()).unwrap_err().to_string();
    assert!(error.ends_with("cpu/online"), "{error}");
}

#[test]
fn an_unreadable_cache_takes_away_the_llc_and_nothing_else() {
    let whole = crate::read("numa-off");
    let sys = fixture::sys("numa-off");
    // A folder in the place of a file is unreadable for root too.
    let path = fixture::file(&sys, "cpu/cpu5/cache/index3/level");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();

    let topology = Topology::read(sys.path()).unwrap();
    let llc = level(&topology, Boundary::Llc);
    assert_eq!((llc.source, llc.groups.len()), (Source::None, 0));
    let reason = llc.reason.as_deref().unwrap();
    assert!(
        reason.contains("cpu5/cache/index3/level: Is a directory"),
        "{reason}"
    );
    for boundary in [
        Boundary::Core,
        Boundary::Die,
        Boundary::Node,
        Boundary::Package,
    ] {
        assert_eq!(level(&topology, boundary), level(whole, boundary));
    }
    assert_eq!(
        topology.boundary(0, 2),
        Boundary::Die,
        "the die is still known"
    );
}

#[test]
fn a_cache_with_garbage_takes_away_the_llc_only() {
    for (file, content) in [
        ("level", "three"),
        ("type", "Trace"),
        ("shared_cpu_list", "0-9"),
        ("id", "-1"),
    ] {
        let sys = fixture::sys("vm-2-cpus");
        fixture::write(&sys, &format!("cpu/cpu1/cache/index3/{file}"), content);
        let topology = Topology::read(sys.path()).unwrap();
        let reason = level(&topology, Boundary::Llc).reason.clone().unwrap();
        assert!(
            reason.contains(&format!("cpu1/cache/index3/{file}: expected")),
            "{reason}"
        );
    }
}

#[test]
fn an_l3_for_instructions_is_no_llc() {
    let sys = fixture::sys("vm-2-cpus");
    for cpu in 0..2 {
        fixture::write(
            &sys,
            &format!("cpu/cpu{cpu}/cache/index3/type"),
            "Instruction",
        );
    }
    let topology = Topology::read(sys.path()).unwrap();
    assert_eq!(level(&topology, Boundary::Llc).source, Source::None);
}

#[test]
fn the_farthest_cache_is_the_llc() {
    let sys = fixture::sys("numa-off");
    for cpu in 0..8 {
        fixture::write(&sys, &format!("cpu/cpu{cpu}/cache/index4/level"), "4");
        fixture::write(&sys, &format!("cpu/cpu{cpu}/cache/index4/type"), "Unified");
        fixture::write(
            &sys,
            &format!("cpu/cpu{cpu}/cache/index4/shared_cpu_list"),
            if cpu < 4 { "0-3" } else { "4-7" },
        );
    }
    let topology = Topology::read(sys.path()).unwrap();
    let llc = level(&topology, Boundary::Llc);
    assert_eq!((llc.source, llc.groups.len()), (Source::SharedCpuList, 2));
}

#[test]
fn cache_ids_alone_are_enough_and_lists_win_over_ids_that_contradict_them() {
    let sys = fixture::sys("numa-off");
    for cpu in 0..8 {
        fs::remove_file(fixture::file(
            &sys,
            &format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"),
        ))
        .unwrap();
    }
    let topology = Topology::read(sys.path()).unwrap();
    assert_eq!(
        level(&topology, Boundary::Llc),
        level(crate::read("numa-off"), Boundary::Llc)
    );

    let sys = fixture::sys("numa-off");
    for cpu in 0..8 {
        fixture::write(&sys, &format!("cpu/cpu{cpu}/cache/index3/id"), "0");
    }
    let topology = Topology::read(sys.path()).unwrap();
    let llc = level(&topology, Boundary::Llc);
    assert_eq!((llc.source, llc.groups.len()), (Source::SharedCpuList, 4));
    assert_eq!(
        topology.notes(),
        ["ids of the level 3 caches contradict shared_cpu_list, which is used"]
    );
}

#[test]
fn a_cpu_that_lost_its_files_while_they_were_read_is_one_of_which_nothing_is_known() {
    let sys = fixture::sys("offline-cpus");
    fs::remove_dir_all(fixture::file(&sys, "cpu/cpu5")).unwrap();
    fixture::write(&sys, "node/node0/cpulist", "0-2,4,6");
    let topology = Topology::read(sys.path()).unwrap();
    assert_eq!(topology.node_of(5), None);
    assert_eq!(topology.boundary(5, 0), Boundary::None);
    assert!(
        topology
            .notes()
            .contains(&"no package is reported for CPUs 5".to_owned()),
        "{:?}",
        topology.notes()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_of_any_file_makes_it_panic(
        file in prop::sample::select(vec![
            "cpu/possible", "cpu/present", "cpu/online", "cpu/smt/active", "cpu/cpu0/topology/core_cpus_list",
            "cpu/cpu0/topology/cluster_id", "cpu/cpu0/topology/cluster_cpus_list", "cpu/cpu1/topology/die_id",
            "cpu/cpu1/topology/physical_package_id", "cpu/cpu0/cache/index3/level", "cpu/cpu0/cache/index3/type",
            "cpu/cpu0/cache/index3/id", "cpu/cpu0/cache/index3/shared_cpu_list", "node/node0/cpulist",
            "node/node0/meminfo", "node/node0/distance",
        ]),
        content in "[-0-9, a-z]{0,12}|\\PC{0,60}",
    ) {
        let sys = fixture::sys("vm-2-cpus");
        fixture::write(&sys, file, &content);
        if let Ok(topology) = Topology::read(sys.path()) {
            prop_assert!(!topology.to_text().is_empty());
            prop_assert!(!topology.samples().is_empty());
        }
    }
}
