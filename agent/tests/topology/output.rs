//! The topology as text, JSON and metrics.

use std::collections::BTreeSet;

use stallscope::exposition::metric::{Kind, Value};
use stallscope::host::topology::METRICS;

use crate::{HOSTS, read};

#[test]
fn text_of_a_host_with_clusters_and_no_dies() {
    let clusters = |first: u32| {
        let one = |cluster: u32| format!("{}-{}", cluster * 4, cluster * 4 + 3);
        let all: Vec<String> = (first..first + 8).map(one).collect();
        format!(
            "    clusters {first}-{}: CPUs {}",
            first + 7,
            all.join(" | ")
        )
    };
    let expected = format!(
        "\
host: CPUs 0-127 (128), 128 cores, 4 nodes, 2 packages, SMT off

package 0 (physical_package_id 36): CPUs 0-63
  node 0, LLC 0: CPUs 0-31, 64.0 GiB
{}
  node 1, LLC 1: CPUs 32-63, 64.0 GiB
{}
package 1 (physical_package_id 5418): CPUs 64-127
  node 2, LLC 2: CPUs 64-95, 64.0 GiB
{}
  node 3, LLC 3: CPUs 96-127, 64.0 GiB
{}

distances
  node    0    1    2    3
     0   10   12   20   22
     1   12   10   22   24
     2   20   22   10   12
     3   22   24   12   10

levels, nearest first
  core     sysfs           128 groups of 1 CPU
  cluster  sysfs           32 groups of 4 CPUs
  llc      shared_cpu_list 4 groups of 32 CPUs
  die      none            die_id is missing or -1: the kernel reports no dies on this host
  node     sysfs           4 groups of 32 CPUs
  package  sysfs           2 groups of 64 CPUs
",
        clusters(0),
        clusters(8),
        clusters(16),
        clusters(24)
    );
    assert_eq!(read("kunpeng-920").to_text(), expected);
}

#[test]
fn text_of_a_host_whose_last_level_caches_leave_out_cpus() {
    let expected = "\
host: CPUs 0-9 (10), 8 cores, 1 node, 1 package, SMT on

package 0, die 0, node 0: CPUs 0-9, 32.0 GiB
  LLC 0: CPUs 0-7
    clusters 0-2: CPUs 0-1 | 2-3 | 4-7
  LLC not reported, cluster 3: CPUs 8-9

distances
  node    0
     0   10

levels, nearest first
  core     sysfs           8 groups of 1 to 2 CPUs
  cluster  sysfs           4 groups of 2 to 4 CPUs
  llc      sysfs           1 group of 8 CPUs
  die      sysfs           1 group of 10 CPUs
  node     sysfs           1 group of 10 CPUs
  package  sysfs           1 group of 10 CPUs

notes
  no llc is reported for CPUs 8-9
";
    assert_eq!(read("hybrid-client").to_text(), expected);
}

#[test]
fn text_of_a_memory_only_node_and_of_a_guess() {
    let text = read("cxl-memory-only-node").to_text();
    assert!(text.contains("\nnode 2: no CPUs, 128.0 GiB\n"), "{text}");
    let text = read("no-numa").to_text();
    assert!(text.contains("\nnode 0: CPUs 0-3\n"), "{text}");
    assert!(
        text.contains("without CONFIG_NUMA: one node 0 is assumed\n"),
        "{text}"
    );
    assert!(!text.contains("distances"), "{text}");
}

#[test]
fn one_node_over_two_packages_is_shown_in_both() {
    let text = read("numa-off").to_text();
    let tree: Vec<&str> = text.lines().skip(2).take(6).collect();
    assert_eq!(
        tree,
        [
            "package 0: CPUs 0-3",
            "  die 0, node 0, LLC 0: CPUs 0-1, 32.0 GiB",
            "  die 1, node 0, LLC 1: CPUs 2-3, 32.0 GiB",
            "package 1: CPUs 4-7",
            "  die 2, node 0, LLC 2: CPUs 4-5, 32.0 GiB",
            "  die 3, node 0, LLC 3: CPUs 6-7, 32.0 GiB",
        ]
    );
}

#[test]
fn json_says_what_the_levels_say() {
    let json = serde_json::to_value(read("kunpeng-920")).unwrap();
    assert_eq!(json["cpus"]["online"], "0-127");
    assert_eq!(json["smt_active"], false);
    assert_eq!(json["nodes"][3]["memory_bytes"], 64_u64 << 30);
    assert_eq!(json["nodes"][0]["distances"]["3"], 22);
    assert_eq!(json["levels"][2]["level"], "llc");
    assert_eq!(json["levels"][2]["source"], "shared_cpu_list");
    assert_eq!(json["levels"][2]["groups"][1]["cpus"], "32-63");
    assert_eq!(json["levels"][3]["source"], "none");
    assert_eq!(json["levels"][5]["groups"][1]["sysfs_id"], 5418);
    assert!(json.get("places").is_none());
}

#[test]
fn samples_fit_their_definitions_and_no_series_comes_twice() {
    for (name, topology) in &*HOSTS {
        let mut seen = BTreeSet::new();
        for (metric, labels, value) in topology.samples() {
            assert!(
                METRICS.iter().any(|known| std::ptr::eq(*known, metric)),
                "{} is not listed",
                metric.name
            );
            assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
            assert!(
                metric.kind != Kind::Info || value == Value::Count(1),
                "{}",
                metric.name
            );
            assert!(
                seen.insert((metric.name, labels.clone())),
                "{name}: {} {labels:?} twice",
                metric.name
            );
        }
    }
}

#[test]
fn samples_of_a_host_with_a_memory_only_node() {
    let lines: Vec<String> = read("cxl-memory-only-node")
        .samples()
        .into_iter()
        .map(|(metric, labels, value)| format!("{} {} {value:?}", metric.name, labels.join(",")))
        .collect();
    for expected in [
        // This host reports no clusters: the label is empty.
        "stallscope_topology_cpu_info 5,1,1,1,1, Count(1)",
        "stallscope_topology_numa_distance 2,1 Count(24)",
        "stallscope_topology_memory_bytes 2 Count(137438953472)",
        "stallscope_topology_level_info llc,sysfs, Count(1)",
    ] {
        assert!(
            lines.iter().any(|line| line == expected),
            "no `{expected}` in {lines:#?}"
        );
    }
    assert_eq!(lines.len(), 8 + 9 + 3 + 6);
}
