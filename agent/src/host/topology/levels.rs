//! Construction of the host's levels from the topology files of each CPU.

use std::collections::BTreeMap;

use super::read::{Cache, Cpu, Sysfs};
use super::{Boundary, CpuList, CpuPlace, Group, Level, Node, Source, Topology};

type ByCpu = BTreeMap<u32, Cpu>;

pub(super) fn build(sysfs: Sysfs) -> Topology {
    let Sysfs {
        cpus,
        smt_active,
        by_cpu,
        nodes,
    } = sysfs;
    let mut remarks = Vec::new();

    let core = core(&by_cpu);
    let package = package(&by_cpu);
    let cluster = cluster(&by_cpu, &core, &package);
    let llc = llc(&by_cpu, &mut remarks);
    let die = die(&by_cpu);
    let (nodes, node) = nodes_and_level(nodes, &cpus.online, &mut remarks);
    let levels = vec![core, cluster, llc, die, node, package];

    for level in levels.iter().filter(|level| level.source != Source::None) {
        let reported: CpuList = level
            .groups
            .iter()
            .flat_map(|group| group.cpus.iter())
            .collect();
        let missing = cpus.online.without(&reported);
        if !missing.is_empty() {
            remarks.push(format!(
                "no {} is reported for CPUs {missing}",
                level.boundary
            ));
        }
    }
    if !cpus.offline.is_empty() {
        remarks.push(format!(
            "CPUs {} are offline: nothing is known of their place until they are online",
            cpus.offline
        ));
    }

    let places = places(
        &levels,
        cpus.possible.last().map_or(0, |cpu| cpu as usize + 1),
    );
    Topology {
        cpus,
        smt_active,
        nodes,
        levels,
        notes: remarks,
        places,
    }
}

fn core(by_cpu: &ByCpu) -> Level {
    let groups = group(by_cpu, |cpu| cpu.core.clone(), |_| None);
    reported(
        Boundary::Core,
        groups,
        "no CPU has core_cpus_list or thread_siblings_list",
    )
}

fn package(by_cpu: &ByCpu) -> Level {
    let groups = group(by_cpu, |cpu| cpu.package, |id| Some(i64::from(*id)));
    reported(
        Boundary::Package,
        groups,
        "physical_package_id is missing or -1: the firmware does not describe packages",
    )
}

// A die id is unique only within its package.
fn die(by_cpu: &ByCpu) -> Level {
    let groups = group(
        by_cpu,
        |cpu| Some((cpu.package, cpu.die?)),
        |(_, id)| Some(i64::from(*id)),
    );
    reported(
        Boundary::Die,
        groups,
        "die_id is missing or -1: the kernel reports no dies on this host",
    )
}

// CPUs are grouped by list, because the firmware decides whether the id is unique on the host or within a package.
fn cluster(by_cpu: &ByCpu, core: &Level, package: &Level) -> Level {
    let groups = group(
        by_cpu,
        |cpu| cpu.cluster.as_ref().map(|(id, cpus)| (cpus.clone(), *id)),
        |(_, id)| Some(i64::from(*id)),
    );
    let same_as = |other: &Level| !groups.is_empty() && sets(&groups).eq(sets(&other.groups));
    let single_cpus = groups.iter().all(|group| group.cpus.len() == 1);
    if same_as(core) || (!groups.is_empty() && single_cpus) {
        absent(
            Boundary::Cluster,
            "every cluster is one core: it says nothing that the core does not",
        )
    } else if same_as(package) {
        absent(
            Boundary::Cluster,
            "every cluster is a whole package: it says nothing that the package does not",
        )
    } else if groups.len() == 1 {
        absent(
            Boundary::Cluster,
            "only one cluster is reported: it separates nothing",
        )
    } else {
        reported(
            Boundary::Cluster,
            groups,
            "cluster_id is missing or unknown: the kernel (before 5.16) or the firmware reports no clusters",
        )
    }
}

fn llc(by_cpu: &ByCpu, remarks: &mut Vec<String>) -> Level {
    if let Some(problem) = by_cpu.values().find_map(|cpu| cpu.caches.as_ref().err()) {
        return absent(Boundary::Llc, problem);
    }
    let last = |cpu: &Cpu| -> Option<u32> { Some(last_cache(cpu)?.level) };
    let Some(level) = by_cpu.values().filter_map(last).max() else {
        let highest = by_cpu
            .values()
            .filter_map(|cpu| cpu.caches.as_ref().ok()?.highest)
            .max();
        let found = highest.map_or("no cache at all".to_owned(), |level| {
            format!("none beyond level {level}")
        });
        return absent(
            Boundary::Llc,
            &format!("no data or unified cache of level 3 or above is reported: {found}"),
        );
    };

    let at_level = |cpu: &Cpu| last_cache(cpu).is_some_and(|cache| cache.level == level);
    let by_id = group(
        by_cpu,
        |cpu| last_cache(cpu).filter(|_| at_level(cpu))?.id,
        |id| Some(i64::from(*id)),
    );
    let by_list = group(
        by_cpu,
        |cpu| last_cache(cpu).filter(|_| at_level(cpu))?.shared.clone(),
        |_| None,
    );
    let having = by_cpu.values().filter(|cpu| at_level(cpu)).count();
    let all =
        |groups: &[Group]| groups.iter().map(|group| group.cpus.len()).sum::<usize>() == having;

    // The scheduler itself uses the list; ids name its groups when they agree with it.
    match (all(&by_id), all(&by_list)) {
        (true, false) => reported(Boundary::Llc, by_id, ""),
        (true, true) if sets(&by_id).eq(sets(&by_list)) => reported(Boundary::Llc, by_id, ""),
        (with_ids, true) => {
            if with_ids {
                remarks.push(format!(
                    "ids of the level {level} caches contradict shared_cpu_list, which is used"
                ));
            }
            Level {
                source: Source::SharedCpuList,
                ..reported(Boundary::Llc, by_list, "")
            }
        }
        (false, false) => absent(
            Boundary::Llc,
            &format!(
                "some caches of level {level} have neither id nor shared_cpu_list to tell them apart"
            ),
        ),
    }
}

fn last_cache(cpu: &Cpu) -> Option<&Cache> {
    cpu.caches.as_ref().ok()?.last.as_ref()
}

fn nodes_and_level(
    nodes: Option<Vec<Node>>,
    online: &CpuList,
    remarks: &mut Vec<String>,
) -> (Vec<Node>, Level) {
    let Some(mut nodes) = nodes.filter(|nodes| !nodes.is_empty()) else {
        let node = Node {
            id: 0,
            cpus: online.clone(),
            memory_bytes: None,
            distances: BTreeMap::new(),
        };
        let groups = vec![Group {
            id: 0,
            sysfs_id: None,
            cpus: online.clone(),
        }];
        remarks.push("node 0 is a guess that stands for the whole host".to_owned());
        let reason =
            "devices/system/node is missing, as without CONFIG_NUMA: one node 0 is assumed";
        return (
            vec![node],
            Level {
                groups,
                ..absent(Boundary::Node, reason)
            },
        );
    };

    for node in &mut nodes {
        // A CPU that came online after `online` was read has none of its other files read either.
        node.cpus = node
            .cpus
            .iter()
            .filter(|cpu| online.contains(*cpu))
            .collect();
    }
    let groups: Vec<Group> = nodes
        .iter()
        .filter(|node| !node.cpus.is_empty())
        // The number fits `u16`: no node is above `MAX_NODE`.
        .map(|node| Group { id: node.id as u16, sysfs_id: Some(node.id.into()), cpus: node.cpus.clone() })
        .collect();
    for node in &nodes {
        let id = node.id;
        let remark = match (node.cpus.is_empty(), node.memory_bytes == Some(0)) {
            (true, true) => Some("has neither online CPUs nor memory"),
            (true, false) => Some("is memory-only: it has no online CPUs"),
            (false, true) => Some("has CPUs only: its memory is always remote"),
            (false, false) => None,
        };
        remarks.extend(remark.map(|remark| format!("node {id} {remark}")));
        if node.distances.is_empty() {
            remarks.push(format!("no distances are reported from node {id}"));
        }
    }
    let level = reported(Boundary::Node, groups, "no node lists a CPU");
    (nodes, level)
}

/// Groups CPUs by equal key, in the order of their lowest CPU. A CPU without a key is in no group.
fn group<K: Ord>(
    by_cpu: &ByCpu,
    key: impl Fn(&Cpu) -> Option<K>,
    sysfs_id: impl Fn(&K) -> Option<i64>,
) -> Vec<Group> {
    let mut members: BTreeMap<K, Vec<u32>> = BTreeMap::new();
    for (cpu, read) in by_cpu {
        if let Some(key) = key(read) {
            members.entry(key).or_default().push(*cpu);
        }
    }
    let mut groups: Vec<Group> = members
        .into_iter()
        .map(|(key, cpus)| Group {
            id: 0,
            sysfs_id: sysfs_id(&key),
            cpus: cpus.into_iter().collect(),
        })
        .collect();
    groups.sort_by_key(|group| group.cpus.first());
    for (id, group) in groups.iter_mut().enumerate() {
        // The number fits `u16`: there are no more groups than CPUs, and no CPU is above `MAX_CPU`.
        group.id = id as u16;
    }
    groups
}

fn sets(groups: &[Group]) -> impl Iterator<Item = &CpuList> {
    groups.iter().map(|group| &group.cpus)
}

fn reported(boundary: Boundary, groups: Vec<Group>, reason_if_empty: &str) -> Level {
    if groups.is_empty() {
        return absent(boundary, reason_if_empty);
    }
    Level {
        boundary,
        source: Source::Sysfs,
        reason: None,
        groups,
    }
}

fn absent(boundary: Boundary, reason: &str) -> Level {
    Level {
        boundary,
        source: Source::None,
        reason: Some(reason.to_owned()),
        groups: Vec::new(),
    }
}

fn places(levels: &[Level], possible: usize) -> Vec<CpuPlace> {
    let mut places = vec![CpuPlace::UNKNOWN; possible];
    for level in levels {
        for group in &level.groups {
            for cpu in group.cpus.iter() {
                if let Some(id) = places
                    .get_mut(cpu as usize)
                    .and_then(|place| place.id_mut(level.boundary))
                {
                    *id = group.id;
                }
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::super::{Cpus, MAX_CPU, MAX_NODE, read::Caches};
    use super::*;

    fn one(cpu: u32) -> CpuList {
        [cpu].into_iter().collect()
    }

    /// Makes a CPU that shares nothing with any other.
    fn alone(cpu: u32) -> Cpu {
        let cache = Cache {
            level: 3,
            id: Some(cpu),
            shared: Some(one(cpu)),
        };
        Cpu {
            core: Some(one(cpu)),
            cluster: None,
            die: Some(u32::MAX),
            package: Some(u32::MAX - cpu),
            caches: Ok(Caches {
                highest: Some(3),
                last: Some(cache),
            }),
        }
    }

    fn node(id: u32, cpus: CpuList) -> Node {
        Node {
            id,
            cpus,
            memory_bytes: Some(1),
            distances: BTreeMap::new(),
        }
    }

    fn host(possible: CpuList, online: CpuList, nodes: Vec<Node>) -> Topology {
        build(Sysfs {
            by_cpu: online.iter().map(|cpu| (cpu, alone(cpu))).collect(),
            cpus: Cpus {
                present: online.clone(),
                possible,
                online,
                offline: CpuList::default(),
            },
            smt_active: None,
            nodes: Some(nodes),
        })
    }

    #[test]
    fn as_many_groups_as_there_can_be_cpus_are_told_apart() {
        let all: CpuList = (0..=MAX_CPU).collect();
        // Nodes of eight CPUs each, as many as are possible.
        let nodes = (0..=MAX_NODE)
            .map(|id| node(id, (id * 8..id * 8 + 8).collect()))
            .collect();
        let topology = host(all.clone(), all, nodes);
        assert_eq!(topology.possible_cpus(), MAX_CPU + 1);
        for cpu in 0..=MAX_CPU {
            let place = topology.place(cpu);
            for level in [
                Boundary::Core,
                Boundary::Llc,
                Boundary::Die,
                Boundary::Package,
            ] {
                // The id is dense, and never the one that means not reported.
                assert_eq!(place.id(level).map(u32::from), Some(cpu), "{level}");
            }
            assert_eq!(topology.node_of(cpu), Some(cpu / 8));
        }
        assert_eq!(topology.boundary(MAX_CPU, MAX_CPU - 1), Boundary::Package);
        assert_eq!(topology.place(MAX_CPU + 1), CpuPlace::UNKNOWN);
        assert_eq!(topology.places().len(), MAX_CPU as usize + 1);
    }

    #[test]
    fn one_cpu_is_one_of_everything() {
        let topology = host(one(0), one(0), vec![node(0, one(0))]);
        assert_eq!(
            (topology.possible_cpus(), topology.node_of(0)),
            (1, Some(0))
        );
        assert_eq!(topology.boundary(0, 0), Boundary::None);
        assert_eq!(topology.boundary(0, 1), Boundary::None);
        assert_eq!(topology.place(1), CpuPlace::UNKNOWN);
    }

    #[test]
    fn places_go_by_the_highest_possible_cpu_through_holes() {
        let possible: CpuList = [1, 3, MAX_CPU].into_iter().collect();
        let online: CpuList = [1, MAX_CPU].into_iter().collect();
        let nodes = vec![
            node(0, one(1)),
            node(64, one(MAX_CPU)),
            node(MAX_NODE, CpuList::default()),
        ];
        let topology = host(possible, online, nodes);
        assert_eq!(topology.possible_cpus(), MAX_CPU + 1);
        assert_eq!(topology.node_of(1), Some(0));
        assert_eq!(topology.node_of(MAX_CPU), Some(64));
        for cpu in [0, 2, 3, MAX_CPU - 1] {
            assert_eq!(topology.place(cpu), CpuPlace::UNKNOWN, "CPU {cpu}");
        }
    }
}
