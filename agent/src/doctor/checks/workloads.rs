//! Checks of running workloads: threads against quotas, CPUs against memory.

use std::collections::BTreeSet;

use super::pods::nodes_of;
use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    groups::{Groups, Quota, raise},
};
use crate::host::topology::CpuList;
use crate::text::shell_command::ShellCommand;

/// Cap on the findings of one check.
const MOST: usize = 20;

/// Cgroup with a quota and threads.
struct Limited<'a> {
    path: &'a str,
    quota: Quota,
    threads: u64,
    threads_file: String,
    /// Periods with the quota in force, and those in which it ran out.
    periods: Option<(u64, u64)>,
}

impl Limited<'_> {
    /// Returns the share of periods in which the quota ran out, from 0 to 1.
    fn throttled(&self) -> f64 {
        self.periods
            .map_or(0.0, |(all, throttled)| throttled as f64 / all.max(1) as f64)
    }

    fn value(&self) -> String {
        let periods = self.periods.map_or(String::new(), |(all, throttled)| {
            format!(", throttled in {throttled} of {all} periods")
        });
        format!(
            "{}: {} threads, {:.2} CPUs{periods}",
            self.path,
            self.threads,
            self.quota.cpus()
        )
    }
}

/// Returns the cgroups with a quota for which `meant` holds. Of a pod and its container, which have the same threads,
/// it returns the container.
fn limited<'a>(
    node: &'a Node,
    groups: &'a Groups,
    meant: impl Fn(&Limited<'_>) -> bool,
) -> Vec<Limited<'a>> {
    let all = groups.all.iter().filter_map(|group| {
        let quota = groups.quota(&node.root, &group.path)?;
        let (threads, threads_file) = groups.threads(&node.root, &group.path)?;
        Some(Limited {
            path: &group.path,
            quota,
            threads,
            threads_file,
            periods: groups.throttled(&node.root, &group.path),
        })
    });
    let mut all: Vec<Limited<'_>> = all.filter(|each| meant(each)).collect();
    let paths: Vec<&str> = all.iter().map(|each| each.path).collect();
    all.retain(|each| !has_below(&paths, each.path));
    all
}

/// Returns whether one of the paths is below this one.
fn has_below(paths: &[&str], path: &str) -> bool {
    let below = |other: &&str| {
        other
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    paths.iter().any(below)
}

pub static THREADS_OVER_QUOTA: Check = Check {
    name: "threads-over-quota",
    group: Group::Workloads,
    summary: "Many more threads than the CPU quota lets run at once",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`cpu.max` or `cpu.cfs_quota_us`, `pids.current` or `cgroup.threads`, `cpu.stat`",
    run: threads_over_quota,
};

fn threads_over_quota(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let over = limited(node, groups, |each| {
        let cpus = each.quota.cpus();
        cpus >= 1.0 && each.threads as f64 > 8.0 * cpus && each.threads >= 16
    });
    let found = over.into_iter().map(|each| {
        let Limited { path, quota, .. } = each;
        // Sleeping threads cost nothing, so the number of threads matters only if the quota runs out.
        let severity = if each.throttled() >= 0.05 { Severity::Warning } else { Severity::Info };
        let burnt = quota.quota as f64 / each.threads as f64 / 1000.0;
        let enough = each.threads.div_ceil(4);
        let mut finding = Finding::of(severity, format!("{} threads share a quota of {:.2} CPUs", each.threads, quota.cpus()))
            .value(each.value())
            .read(groups.quota_file(path).unwrap_or_default())
            .read(&each.threads_file)
            .why(format!("{}, if all of them run, the quota of a period of {} ms is used up after {burnt:.1} ms, and every thread stands still for the rest of it.", node.here(), quota.period / 1000));
        if let Some(command) = raise(&groups.limits(&node.root, path), groups.unified(), enough as f64) {
            finding = finding.command(command);
        }
        finding
            .mend(MendKind::Pod, format!("resources.limits.cpu: \"{enough}\", or no limit of CPU"))
            .mend(MendKind::Advice, format!("or fewer threads: GOMAXPROCS={0}, -XX:ActiveProcessorCount={0}, OMP_NUM_THREADS={0}", quota.cpus().ceil()))
    });
    Ok(found.take(MOST).collect())
}

pub static QUOTA_BELOW_ONE: Check = Check {
    name: "quota-below-one",
    group: Group::Workloads,
    summary: "Less than one CPU for many threads",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`cpu.max` or `cpu.cfs_quota_us`, `pids.current` or `cgroup.threads`, `cpu.stat`",
    run: quota_below_one,
};

fn quota_below_one(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let below = limited(node, groups, |each| {
        each.quota.cpus() < 1.0 && each.threads >= 8
    });
    let found = below.into_iter().map(|each| {
        let Limited { path, quota, .. } = each;
        let severity = if each.throttled() >= 0.05 { Severity::Warning } else { Severity::Info };
        let enough = each.threads.div_ceil(4).max(1);
        let mut finding = Finding::of(severity, format!("{} threads have {:.2} CPUs", each.threads, quota.cpus()))
            .value(each.value())
            .read(groups.quota_file(path).unwrap_or_default())
            .read(&each.threads_file)
            .why(format!("{}, not even one thread can run through a period: whoever holds a lock when the quota is used up makes all others wait for the next period.", node.here()));
        if let Some(command) = raise(&groups.limits(&node.root, path), groups.unified(), enough as f64) {
            finding = finding.command(command);
        }
        finding.mend(MendKind::Pod, "resources.limits.cpu: \"1\" or more, or no limit of CPU")
    });
    Ok(found.take(MOST).collect())
}

pub static CPU_MEMORY_APART: Check = Check {
    name: "cpu-memory-apart",
    group: Group::Workloads,
    summary: "Memory that is on other nodes than the CPUs that use it",
    severities: &[Severity::Warning],
    reads: "`cpuset.{cpus,mems}.effective`, `memory.numa_stat`, the agent's counts of remote first touches",
    run: cpu_memory_apart,
};

fn cpu_memory_apart(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.several_nodes()?;
    let groups = node.groups()?;
    let mut found = Vec::new();
    for group in &groups.all {
        let Some(cpus) = groups.cpus(&node.root, &group.path) else {
            continue;
        };
        let of_cpus = nodes_of(topology, &cpus);
        if of_cpus.is_empty() || of_cpus.len() == topology.nodes().len() {
            continue;
        }
        if let Some(finding) = apart(node, groups, &group.path, &cpus, &of_cpus) {
            found.push(finding);
        }
    }
    // A finding of a pod's own cgroup holds for its descendants too. The remedy is for the deepest cgroup, so only that
    // finding stays.
    let all = found.clone();
    let paths: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
    found.retain(|(path, _)| !has_below(&paths, path));
    let mut found: Vec<Finding> = found.into_iter().map(|(_, finding)| finding).collect();
    found.extend(by_faults(node));
    found.truncate(MOST);
    Ok(found)
}

fn apart(
    node: &Node,
    groups: &Groups,
    path: &str,
    cpus: &CpuList,
    of_cpus: &BTreeSet<u32>,
) -> Option<(String, Finding)> {
    let list = |nodes: &BTreeSet<u32>| nodes.iter().copied().collect::<CpuList>();
    let mems_file = groups.file("cpuset", path, "cpuset.mems")?;
    let mems: BTreeSet<u32> = groups.mems(&node.root, path)?.iter().collect();
    let memory = groups.anonymous(&node.root, path, node.page_bytes?);
    let sum = |remote: bool| {
        let by_node = memory.as_ref().map(|(by_node, _)| by_node.iter());
        by_node
            .into_iter()
            .flatten()
            .filter(|(id, _)| of_cpus.contains(id) != remote)
            .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
    };
    let (near, far) = (sum(false), sum(true));
    let mut finding = if !mems.is_empty() && mems.is_disjoint(of_cpus) {
        Finding::warning(format!(
            "{path} runs on node {} and takes its memory from node {}",
            list(of_cpus),
            list(&mems)
        ))
        .value(format!("CPUs {cpus}, memory nodes {}", list(&mems)))
    } else if far > near && far > 64 << 20 {
        Finding::warning(format!(
            "Most memory of {path} is on other nodes than its CPUs"
        ))
        .value(format!(
            "{} MiB on node {}, {} MiB elsewhere",
            near >> 20,
            list(of_cpus),
            far >> 20
        ))
    } else {
        return None;
    };
    finding = finding
        .read(groups.file("cpuset", path, "cpuset.cpus")?)
        .read(&mems_file);
    if let Some((_, file)) = &memory {
        finding = finding.read(file);
    }
    let finding = finding
        .why(format!("{}, every miss of its caches goes to another node: latency of memory is that of the distance between them, all the time, and NUMA balancing may not help against a cpuset.", node.here()))
        .command(ShellCommand::write(list(of_cpus), &mems_file))
        .mend(MendKind::Kubelet, "memoryManagerPolicy: Static with topologyManagerPolicy: single-numa-node");
    Some((path.to_owned(), finding))
}

/// Returns findings by the pages that the agent saw placed since it started.
fn by_faults(node: &Node) -> Vec<Finding> {
    // Few faults say little, and those of a start on another node soon end.
    let remote = node
        .live
        .faults
        .iter()
        .filter(|faults| faults.remote > 10_000 && faults.remote > faults.local);
    let found = remote.map(|faults| {
        let all = faults.remote.saturating_add(faults.local);
        let share = faults.remote as f64 / all as f64 * 100.0;
        Finding::warning(format!("{} places most of its new memory on remote nodes", faults.cgroup))
            .value(format!("{share:.0} % of {all} first touches"))
            .read("stallscope_first_touch_faults_total of the agent that runs here")
            .why(format!("{}, the node of its CPUs is full, or its memory policy or cpuset names another one: what it writes first is remote from the start.", node.here()))
            .mend(MendKind::Advice, "free memory on its node (numastat -m), or bind CPUs and memory to the same node (numactl, the kubelet's managers)")
    });
    found.collect()
}
