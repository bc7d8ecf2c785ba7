//! Checks of the settings by which the kernel keeps memory free and local.

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    root::Kind,
};
use crate::text::shell_command::ShellCommand;

pub static NUMA_BALANCING: Check = Check {
    name: "numa-balancing",
    group: Group::Memory,
    summary: "Several nodes, and nobody moves memory to the threads that use it",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`/proc/sys/kernel/numa_balancing`",
    run: numa_balancing,
};

fn numa_balancing(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.several_nodes()?;
    let path = "/proc/sys/kernel/numa_balancing";
    let value: u64 = match node.root.number(path) {
        Err(unread) if unread.kind == Kind::Absent => {
            return Err(Unmade::not_here(
                "this kernel cannot balance memory between nodes (CONFIG_NUMA_BALANCING)",
            ));
        }
        value => value?,
    };
    if value != 0 {
        return Ok(Vec::new());
    }
    // If CPUs and memory are pinned to one node, NUMA balancing has nothing left to move.
    let pinned = node.kubelet().is_ok_and(|kubelet| {
        let policy = kubelet.setting("topology-manager-policy", "topologyManagerPolicy", "none");
        policy.value == "single-numa-node"
    });
    let severity = if pinned {
        Severity::Info
    } else {
        Severity::Warning
    };
    let most = topology
        .nodes()
        .iter()
        .flat_map(|numa| numa.distances.values())
        .max();
    Ok(vec![
        Finding::of(severity, "Memory is never moved to the threads that use it")
            .value(value)
            .read(path)
            .why(format!("{}, memory stays on the node of its first touch: a thread that was moved to another of the {} nodes (distance up to {}) is remote for as long as it lives. Hinting faults are not counted either.", node.here(), topology.nodes().len(), most.copied().unwrap_or(0)))
            .sysctl("kernel.numa_balancing", 1)
            .mend(MendKind::Advice, "leave it off where every workload is bound to one node, by the kubelet's managers or by numactl"),
    ])
}

pub static ZONE_RECLAIM: Check = Check {
    name: "zone-reclaim",
    group: Group::Memory,
    summary: "A full node reclaims although others have free memory",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`/proc/sys/vm/zone_reclaim_mode`",
    run: zone_reclaim,
};

fn zone_reclaim(node: &Node) -> Result<Vec<Finding>, Unmade> {
    node.several_nodes()?;
    let path = "/proc/sys/vm/zone_reclaim_mode";
    let value: u64 = node.root.number(path)?;
    if value == 0 {
        return Ok(Vec::new());
    }
    let (severity, more) = if value & 6 == 0 {
        (Severity::Warning, "")
    } else {
        (
            Severity::Problem,
            " This mode even writes pages out and swaps for it.",
        )
    };
    Ok(vec![
        Finding::of(severity, "A full node throws its page cache away before it uses another node's memory")
            .value(value)
            .read(path)
            .why(format!("{}, allocations on a full node wait for reclaim in the thread's own time while gigabytes are free next to it: files are read again and again.{more}", node.here()))
            .sysctl("vm.zone_reclaim_mode", 0),
    ])
}

pub static SWAPPINESS: Check = Check {
    name: "swappiness",
    group: Group::Memory,
    summary: "Swap that is all but forbidden, or preferred to the page cache",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/vm/swappiness`, `/proc/swaps`",
    run: swappiness,
};

fn swappiness(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let swaps = node.root.text("/proc/swaps")?;
    let swaps: Vec<&str> = swaps.lines().skip(1).collect();
    if swaps.is_empty() {
        return Err(Unmade::not_here(
            "there is no swap, without which it changes nothing",
        ));
    }
    let path = "/proc/sys/vm/swappiness";
    let value: u64 = node.root.number(path)?;
    // Swapping to compressed memory is quick.
    let quick = swaps.iter().all(|line| line.contains("/zram"));
    let (title, why) = if value == 0 {
        (
            "Swap is used only when nothing else is left",
            "reclaim has only the page cache to take from: programs' own code is thrown out and read again, and memory that nobody touches stays",
        )
    } else if value > 100 && !quick {
        (
            "Swapping is preferred to dropping the page cache",
            "memory of programs goes to a disk while files that were read once stay",
        )
    } else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Finding::warning(title)
            .value(value)
            .read(path)
            .read("/proc/swaps")
            .why(format!("{}, {why}.", node.here()))
            .sysctl("vm.swappiness", 60),
    ])
}

pub static MIN_FREE_KBYTES: Check = Check {
    name: "min-free-kbytes",
    group: Group::Memory,
    summary: "A reserve that is too small for bursts, or a waste",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/vm/min_free_kbytes`, `/proc/meminfo`",
    run: min_free_kbytes,
};

fn min_free_kbytes(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/vm/min_free_kbytes";
    let value: u64 = node.root.number(path)?;
    let total = node.root.field("/proc/meminfo", "MemTotal")?;
    // The kernel computes the default like this at boot (mm/page_alloc.c,
    // calculate_min_free_kbytes).
    let default = total.saturating_mul(16).isqrt().clamp(128, 262_144);
    let (title, why) = if value < default / 2 {
        (
            "The reserve of free memory is smaller than the kernel's own default",
            "kswapd starts when almost nothing is left: a burst of allocations (network, page cache) reclaims in the threads' own time, and atomic ones fail",
        )
    } else if value / 6 > total / 100 {
        (
            "More than 6 % of memory is kept free for emergencies",
            "that much is never used for anything, and each node starts to reclaim while it still has it",
        )
    } else {
        return Ok(Vec::new());
    };
    let nodes = node.topology.as_ref().map_or(1, |t| t.nodes().len().max(1));
    Ok(vec![
        Finding::warning(title)
            .value(format!("{value} KiB of {total} KiB, on {nodes} nodes"))
            .read(path)
            .read("/proc/meminfo")
            .why(format!("{}, {why}.", node.here()))
            .sysctl("vm.min_free_kbytes", default),
    ])
}

pub static WATERMARK_SCALE_FACTOR: Check = Check {
    name: "watermark-scale-factor",
    group: Group::Memory,
    summary: "kswapd that wakes up too late for bursts, or keeps a node half empty",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/vm/watermark_scale_factor`, `node*/meminfo`",
    run: watermark_scale_factor,
};

fn watermark_scale_factor(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/vm/watermark_scale_factor";
    let value: u64 = node.root.number(path)?;
    let sizes = node
        .topology()?
        .nodes()
        .iter()
        .filter_map(|numa| numa.memory_bytes);
    let largest = sizes.max().unwrap_or(0);
    let gap = (largest / 10_000).saturating_mul(value);
    let (title, why) = if value < 10 {
        (
            "kswapd has less room than by default",
            "it stops as soon as it started, and allocations meanwhile reclaim by themselves",
        )
    } else if value > 500 {
        (
            "kswapd keeps more than a twentieth of each node free",
            "the page cache is reclaimed while memory is free, and kswapd runs all the time",
        )
    } else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Finding::warning(title)
            .value(format!("{value}: {} MiB on the largest node", gap >> 20))
            .read(path)
            .why(format!("{}, {why}.", node.here()))
            .sysctl("vm.watermark_scale_factor", 10),
    ])
}

pub static SWAP: Check = Check {
    name: "swap",
    group: Group::Memory,
    summary: "Swap on a Kubernetes node whose kubelet does not manage it",
    severities: &[Severity::Warning],
    reads: "`/proc/swaps`, the kubelet's `memorySwap`",
    run: swap,
};

fn swap(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let swaps = node.root.text("/proc/swaps")?;
    let count = swaps.lines().count().saturating_sub(1);
    let behavior = kubelet
        .value("memorySwap")
        .and_then(|swap| swap.get("swapBehavior"));
    let managed = behavior.is_some_and(|behavior| behavior == "LimitedSwap");
    if count == 0 || managed {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("This Kubernetes node swaps, and the kubelet does not manage it")
            .value(format!("{count} swap areas"))
            .read("/proc/swaps")
            .read(kubelet.config_path())
            .why(format!("{}, what is swapped out is missing from memory usage: pods look small, and their threads wait for a disk without any sign of it in Kubernetes.", node.here()))
            .command(ShellCommand::new("swapoff").arg("-a"))
            .mend(MendKind::Kubelet, "memorySwap: {swapBehavior: LimitedSwap} (cgroup v2, failSwapOn: false), to give pods their share of it on purpose"),
    ])
}

pub static MAX_MAP_COUNT: Check = Check {
    name: "max-map-count",
    group: Group::Memory,
    summary: "Few mappings allowed to a process, on a Kubernetes node",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/vm/max_map_count`",
    run: max_map_count,
};

fn max_map_count(node: &Node) -> Result<Vec<Finding>, Unmade> {
    if !node.is_kubernetes() {
        return Err(Unmade::not_here("this is no node of Kubernetes"));
    }
    let path = "/proc/sys/vm/max_map_count";
    let value: u64 = node.root.number(path)?;
    if value >= 262_144 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("A process may have few memory mappings")
            .value(value)
            .read(path)
            .why(format!("{}, Elasticsearch and OpenSearch do not start below 262144, and databases that map their files (and JVMs with many threads) fail with \"cannot allocate memory\" while memory is free. A pod cannot raise it.", node.here()))
            .sysctl("vm.max_map_count", 262_144),
    ])
}
