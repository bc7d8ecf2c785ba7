//! Checks of NUMA nodes: distances, and nodes without CPUs or memory.

use std::collections::BTreeMap;

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
};
use crate::host::topology::{Boundary, Topology};
use crate::text::shell_command::ShellCommand;

const NODES: &str = "/sys/devices/system/node";
const GIB: f64 = (1_u64 << 30) as f64;

pub static NUMA_HIDDEN: Check = Check {
    name: "numa-hidden",
    group: Group::Machine,
    summary: "Several packages in what is said to be one NUMA node",
    severities: &[Severity::Warning],
    reads: "`cpu*/topology/physical_package_id`, `/sys/devices/system/node`, `/proc/cmdline`",
    run: hidden,
};

fn hidden(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.topology()?;
    let mut levels = topology.levels().iter();
    let packages = levels.find(|level| level.boundary == Boundary::Package);
    let packages = packages.map_or(0, |level| level.groups.len());
    let off = node
        .root
        .text("/proc/cmdline")
        .is_ok_and(|text| text.split_whitespace().any(|word| word == "numa=off"));
    // A hypervisor shows each virtual CPU as a package, which says nothing of the memory behind it.
    if topology.nodes().len() > 1 || packages < 2 || (node.hypervisor.is_some() && !off) {
        return Ok(Vec::new());
    }
    let finding = Finding::warning(format!("{packages} packages appear as one NUMA node"))
        .value(if off { "numa=off" } else { "one node" })
        .read(NODES)
        .read("/proc/cmdline")
        .why(format!(
            "{}, each package has its own memory controllers, but neither the kernel nor the kubelet is told: threads and their memory are spread at random, and no counter shows it.",
            node.here()
        ));
    Ok(vec![if off {
        finding.mend(MendKind::Boot, "remove numa=off")
    } else {
        finding.mend(
            MendKind::Advice,
            "turn memory interleaving between sockets off in the firmware (often called node interleaving), and boot a kernel with CONFIG_NUMA",
        )
    }])
}

pub static NUMA_DISTANCES: Check = Check {
    name: "numa-distances",
    group: Group::Machine,
    summary: "Distances between nodes that are asymmetric, flat or far",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`node*/distance`",
    run: distances,
};

/// Returns the distances between different nodes.
fn remote(topology: &Topology) -> BTreeMap<(u32, u32), u32> {
    let pairs = topology.nodes().iter().flat_map(|from| {
        let others = from.distances.iter().filter(|(to, _)| **to != from.id);
        others.map(|(to, distance)| ((from.id, *to), *distance))
    });
    pairs.collect()
}

fn distances(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let remote = remote(node.several_nodes()?);
    let (Some(least), Some(most)) = (remote.values().min(), remote.values().max()) else {
        return Err(Unmade::unknown("no node says how far the others are"));
    };
    let read = format!("{NODES}/node*/distance");
    let mut found = Vec::new();
    let lopsided = remote
        .iter()
        .find(|((from, to), distance)| remote.get(&(*to, *from)).is_some_and(|d| d != *distance));
    if let Some(((from, to), distance)) = lopsided {
        found.push(
            Finding::warning("The distance between two nodes depends on the direction")
                .value(format!("{from} to {to}: {distance}, back: {}", remote[&(*to, *from)]))
                .read(&read)
                .why(format!("{}, the scheduler and the allocator choose by this table: a wrong one sends memory to the wrong place.", node.here()))
                .mend(MendKind::Advice, "update the firmware: its SLIT table is wrong"),
        );
    }
    if *least <= 10 {
        found.push(
            Finding::warning("Remote memory is said to be as near as local memory")
                .value(format!("distance {least}"))
                .read(&read)
                .why(format!("{}, the kernel sees no reason to keep memory near: it fills one node after the other.", node.here()))
                .mend(MendKind::Advice, "update the firmware, or have the hypervisor pass real distances (QEMU: -numa dist)"),
        );
    }
    if *most / 2 >= *least || *most > 30 {
        let (far, _) = remote
            .iter()
            .max_by_key(|(_, distance)| **distance)
            .unwrap_or((&(0, 0), &0));
        let title = if most == least {
            "Every remote node is far".to_owned()
        } else {
            "Some nodes are much farther apart than others".to_owned()
        };
        found.push(
            Finding::info(title)
                .value(format!("{least} to {most}, the farthest from node {} to {}", far.0, far.1))
                .read(&read)
                .why(format!("{}, a thread that is moved, or memory that is placed, between such nodes pays the most; where the distance is above 30, the scheduler does not balance across it by itself.", node.here()))
                .mend(MendKind::Kubelet, "cpuManagerPolicy: static with topologyManagerPolicy: single-numa-node, so that a pod stays on one node")
                .mend(MendKind::Advice, "outside Kubernetes: numactl --cpunodebind=N --membind=N"),
        );
    }
    Ok(found)
}

pub static NUMA_MEMORY_ONLY: Check = Check {
    name: "numa-memory-only",
    group: Group::Machine,
    summary: "Nodes of memory without CPUs (CXL, HBM)",
    severities: &[Severity::Info],
    reads: "`node*/{cpulist,meminfo}`",
    run: memory_only,
};

fn memory_only(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let nodes = node.several_nodes()?.nodes().iter();
    let found = nodes
        .filter(|each| each.cpus.is_empty() && each.memory_bytes.unwrap_or(0) > 0)
        .map(|each| {
            Finding::info(format!("Node {} has memory and no CPUs", each.id))
                .value(format!("{:.1} GiB", each.memory_bytes.unwrap_or(0) as f64 / GIB))
                .read(format!("{NODES}/node{}/cpulist", each.id))
                .why(format!("{}, memory there is remote to every thread, and slower where it is behind CXL: it is used as soon as the near nodes are full, which no limit of a pod prevents.", node.here()))
                .command(ShellCommand::write(1, "/sys/kernel/mm/numa/demotion_enabled"))
                .mend(MendKind::Advice, "keep it from pods by their cpuset.mems, or use it as a slower tier (numa_balancing 2)")
        });
    Ok(found.collect())
}

pub static NUMA_NO_MEMORY: Check = Check {
    name: "numa-no-memory",
    group: Group::Machine,
    summary: "Nodes of CPUs without memory: all their memory is remote",
    severities: &[Severity::Problem],
    reads: "`node*/{cpulist,meminfo}`",
    run: no_memory,
};

fn no_memory(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let nodes = node.several_nodes()?.nodes().iter();
    let found = nodes
        .filter(|each| !each.cpus.is_empty() && each.memory_bytes == Some(0))
        .map(|each| {
            Finding::problem(format!("Node {} has CPUs and no memory", each.id))
                .value(format!("CPUs {}", each.cpus))
                .read(format!("{NODES}/node{}/meminfo", each.id))
                .why(format!("{}, every access of a thread on these CPUs goes to another node, at {:.1} times the local distance or more.", node.here(),
                    each.distances.iter().filter(|(to, _)| **to != each.id).map(|(_, d)| f64::from(*d) / 10.0).fold(f64::INFINITY, f64::min)))
                .mend(MendKind::Advice, "put memory modules into this node's slots; until then keep pods off these CPUs (reservedSystemCPUs)")
        });
    Ok(found.collect())
}

pub static NUMA_UNEVEN_MEMORY: Check = Check {
    name: "numa-uneven-memory",
    group: Group::Machine,
    summary: "Nodes with CPUs and very different amounts of memory",
    severities: &[Severity::Warning],
    reads: "`node*/meminfo`",
    run: uneven_memory,
};

fn uneven_memory(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let nodes = node.several_nodes()?.nodes().iter();
    let sizes: Vec<(u32, u64)> = nodes
        .filter(|each| !each.cpus.is_empty())
        .filter_map(|each| Some((each.id, each.memory_bytes.filter(|bytes| *bytes > 0)?)))
        .collect();
    let least = sizes.iter().min_by_key(|(_, bytes)| *bytes);
    let most = sizes.iter().max_by_key(|(_, bytes)| *bytes);
    let (Some(&(small, least)), Some(&(large, most))) = (least, most) else {
        return Err(Unmade::unknown("no node says how much memory it has"));
    };
    // Firmware and the kernel take some memory from the first node.
    if most < (least / 10).saturating_mul(13) {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("Nodes have very different amounts of memory")
            .value(format!("node {small}: {:.1} GiB, node {large}: {:.1} GiB", least as f64 / GIB, most as f64 / GIB))
            .read(format!("{NODES}/node{small}/meminfo"))
            .read(format!("{NODES}/node{large}/meminfo"))
            .why(format!("{}, threads are spread evenly and memory cannot be: node {small} is full first, and what its threads touch then is placed elsewhere. It also has fewer memory channels in use.", node.here()))
            .mend(MendKind::Advice, "look for a memory module that failed or is missing (dmidecode --type memory)"),
    ])
}
