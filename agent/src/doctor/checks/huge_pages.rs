//! Checks of huge pages: transparent ones, khugepaged, and reserved ones.

use std::collections::BTreeMap;

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    facts::THP,
    root::Kind,
};
use crate::text::shell_command::ShellCommand;

/// Reads the chosen word in a file of transparent huge pages, and returns the file too.
fn choice(node: &Node, name: &str) -> Result<(String, String), Unmade> {
    let path = format!("{THP}/{name}");
    match node.root.choice(&path) {
        Err(unread) if unread.kind == Kind::Absent => Err(Unmade::not_here(
            "this kernel has no transparent huge pages",
        )),
        chosen => Ok((chosen?, path)),
    }
}

pub static THP_ENABLED: Check = Check {
    name: "thp-enabled",
    group: Group::Memory,
    summary: "Transparent huge pages for everybody",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`transparent_hugepage/enabled`",
    run: thp_enabled,
};

fn thp_enabled(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let (chosen, path) = choice(node, "enabled")?;
    if chosen != "always" {
        return Ok(Vec::new());
    }
    // With 4 KiB pages on one NUMA node, many choose this trade-off on purpose.
    let large = node.page_bytes.is_some_and(|bytes| bytes > 4096);
    let several = node.has_several_nodes();
    let costly = large || several || node.is_kubernetes();
    let severity = if costly {
        Severity::Warning
    } else {
        Severity::Info
    };
    let mut why = format!(
        "{} and {}, every process gets huge pages, wanted or not: memory limits are reached earlier, and khugepaged copies pages beside the workload.",
        node.here(),
        node.pages()
    );
    if large {
        why.push_str(" With pages this large a huge page is tens or hundreds of MiB, rarely free in one piece.");
    }
    if several {
        why.push_str(" A huge page lies on one node as a whole: threads of other nodes that use a part of it are remote, and NUMA balancing moves it rarely.");
    }
    Ok(vec![
        Finding::of(severity, "Transparent huge pages are on for every process")
            .value(chosen)
            .read(&path)
            .why(why)
            .sysfs(&path, "madvise"),
    ])
}

pub static THP_DEFRAG: Check = Check {
    name: "thp-defrag",
    group: Group::Memory,
    summary: "Page faults that compact memory to get a huge page",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`transparent_hugepage/{defrag,enabled}`",
    run: thp_defrag,
};

fn thp_defrag(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let (chosen, path) = choice(node, "defrag")?;
    let (enabled, _) = choice(node, "enabled")?;
    if chosen != "always" || enabled == "never" {
        return Ok(Vec::new());
    }
    let severity = if enabled == "always" {
        Severity::Warning
    } else {
        Severity::Info
    };
    Ok(vec![
        Finding::of(severity, "Page faults wait for memory to be compacted")
            .value(&chosen)
            .read(&path)
            .why(format!("{} and {}, a first write that finds no free huge page reclaims and compacts in the thread's own time, milliseconds at a time, instead of taking small pages.", node.here(), node.pages()))
            .sysfs(&path, "madvise"),
    ])
}

pub static KHUGEPAGED_PACE: Check = Check {
    name: "khugepaged-pace",
    group: Group::Memory,
    summary: "khugepaged scans many times faster than by default",
    severities: &[Severity::Warning],
    reads: "`transparent_hugepage/khugepaged/{pages_to_scan,scan_sleep_millisecs}`",
    run: khugepaged_pace,
};

fn khugepaged_pace(node: &Node) -> Result<Vec<Finding>, Unmade> {
    if choice(node, "enabled")?.0 == "never" {
        return Ok(Vec::new());
    }
    let pages_file = format!("{THP}/khugepaged/pages_to_scan");
    let sleep_file = format!("{THP}/khugepaged/scan_sleep_millisecs");
    let pages: u64 = node.root.number(&pages_file)?;
    let sleep: u64 = node.root.number(&sleep_file)?;
    // The kernel's default is eight huge pages' worth of pages every ten seconds, whatever the page
    // size.
    let entries = node.page_bytes.ok_or_else(|| {
        Unmade::unknown("the default follows the size of a page, which nothing says")
    })? / 8;
    let default = 8 * entries;
    let pace = pages as f64 / sleep.max(1) as f64;
    let times = pace / (default as f64 / 10_000.0);
    if times < 16.0 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning(format!("khugepaged scans {times:.0} times as fast as by default"))
            .value(format!("{pages} pages every {sleep} ms"))
            .read(pages_file.clone())
            .read(sleep_file.clone())
            .why(format!("{} and {}, the daemon takes CPU time beside the workload and locks address spaces while it copies: page faults of those processes wait.", node.here(), node.pages()))
            .command(ShellCommand::write(default, &pages_file).and(&ShellCommand::write(10_000, &sleep_file))),
    ])
}

/// Reserved huge pages of one size by node: total and free.
type Reserved = BTreeMap<u32, (u64, u64)>;

/// Reads the reserved huge pages by size in KiB.
fn reserved(node: &Node) -> Result<BTreeMap<u64, Reserved>, Unmade> {
    let mut sizes: BTreeMap<u64, Reserved> = BTreeMap::new();
    for numa in node.topology()?.nodes() {
        let folder = folder(numa.id);
        if !node.root.exists(&folder) {
            continue;
        }
        for name in node.root.folders(&folder)? {
            let size = name
                .strip_prefix("hugepages-")
                .and_then(|rest| rest.strip_suffix("kB"));
            let Some(size) = size.and_then(|size| size.parse().ok()) else {
                continue;
            };
            let all = node.root.number(&format!("{folder}/{name}/nr_hugepages"))?;
            let free = node
                .root
                .number(&format!("{folder}/{name}/free_hugepages"))?;
            sizes.entry(size).or_default().insert(numa.id, (all, free));
        }
    }
    sizes.retain(|_, by_node| by_node.values().any(|(all, _)| *all > 0));
    Ok(sizes)
}

fn folder(node: u32) -> String {
    format!("/sys/devices/system/node/node{node}/hugepages")
}

pub static HUGEPAGES_NODES: Check = Check {
    name: "hugepages-nodes",
    group: Group::Memory,
    summary: "Reserved huge pages that are not on every node",
    severities: &[Severity::Warning],
    reads: "`node*/hugepages/*/nr_hugepages`",
    run: hugepages_nodes,
};

fn hugepages_nodes(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let with_cpus: Vec<u32> = node
        .several_nodes()?
        .nodes()
        .iter()
        .filter(|numa| !numa.cpus.is_empty())
        .map(|numa| numa.id)
        .collect();
    let found = reserved(node)?.into_iter().filter_map(|(size, by_node)| {
        let count = |id: &u32| by_node.get(id).map_or(0, |(all, _)| *all);
        let most = with_cpus.iter().map(count).max()?;
        let poorest = with_cpus.iter().min_by_key(|id| count(id))?;
        if count(poorest) > most / 2 {
            return None;
        }
        let file = format!("{}/hugepages-{size}kB/nr_hugepages", folder(*poorest));
        let shares: Vec<String> = with_cpus.iter().map(|id| format!("node {id}: {}", count(id))).collect();
        Some(
            Finding::warning(format!("Huge pages of {size} KiB are not on every node"))
                .value(shares.join(", "))
                .read(&file)
                .why(format!("{}, a process on node {poorest} gets its huge pages from another node, or none; the topology manager cannot place pods that ask for them there.", node.here()))
                .sysfs(&file, most),
        )
    });
    Ok(found.collect())
}

pub static HUGEPAGES_UNUSED: Check = Check {
    name: "hugepages-unused",
    group: Group::Memory,
    summary: "Reserved huge pages that nobody uses",
    severities: &[Severity::Warning],
    reads: "`node*/hugepages/*/{nr_hugepages,free_hugepages}`, `/proc/meminfo`",
    run: hugepages_unused,
};

fn hugepages_unused(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let total = node.root.field("/proc/meminfo", "MemTotal")?;
    let found = reserved(node)?.into_iter().filter_map(|(size, by_node)| {
        let sum = |of: fn(&(u64, u64)) -> u64| {
            let numbers = by_node.values().map(of);
            numbers.fold(0, u64::saturating_add)
        };
        let (all, free) = (sum(|(all, _)| *all), sum(|(_, free)| *free));
        let share = free as f64 * size as f64 / total.max(1) as f64;
        if free < all || share < 0.05 {
            return None;
        }
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{size}kB/nr_hugepages");
        let first = by_node.keys().next()?;
        Some(
            Finding::warning(format!("All reserved huge pages of {size} KiB are unused"))
                .value(format!("{all} pages, {:.0} % of memory", share * 100.0))
                .read(format!("{}/hugepages-{size}kB/free_hugepages", folder(*first)))
                .why(format!("{}, that memory is lost to everything else: the page cache is smaller, and reclaim begins earlier.", node.here()))
                .command(ShellCommand::write(0, &file))
                .mend(MendKind::Pod, format!("resources.limits: {{hugepages-{}Mi: ...}}, if they were meant for a pod", size / 1024)),
        )
    });
    Ok(found.collect())
}
