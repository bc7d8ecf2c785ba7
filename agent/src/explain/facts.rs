//! Current facts about a container's cgroups and its node.

use std::collections::BTreeMap;

use crate::{
    doctor::{
        groups::{Groups, Limit},
        root::Root,
    },
    host::topology::Topology,
};

/// Facts from the cgroups of a subject. A fact that cannot be read is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Number of threads.
    pub threads: Option<u64>,
    /// Quotas of its cgroups, including those below another.
    pub quotas: Vec<Limit>,
    /// Quotas in force for the first cgroup with a quota: from the outermost cgroup down to itself.
    pub limits: Vec<Limit>,
    /// CPUs that its cpuset allows, as a list.
    pub cpus: Option<String>,
    /// Number of those CPUs.
    pub cpu_count: Option<usize>,
    /// Nodes whose memory its cpuset allows, as a list.
    pub mems: Option<String>,
    /// Anonymous memory by NUMA node, in bytes.
    pub memory_by_node: Option<BTreeMap<String, u64>>,
    /// Memory in use and its limit, in bytes, with the file of the limit.
    pub memory_limit: Option<(u64, u64, String)>,
    /// True if its first cgroup is the root of its hierarchy, which has all resources and accepts no setting.
    pub root: bool,
    /// File of its first cgroup's share of CPUs: `cpu.weight`, or `cpu.shares` on v1.
    pub share_file: Option<String>,
    /// Directory of its first cgroup that holds `cpuset.cpus` and `cpuset.mems`.
    pub cpuset_dir: Option<String>,
}

/// Facts about the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// True if all controllers are on the one hierarchy of v2.
    pub unified: bool,
    /// Number of online CPUs.
    pub cpus: usize,
    /// CPUs of each NUMA node, as a list, without nodes that have no CPUs.
    pub nodes: BTreeMap<u32, String>,
    /// Mean SLIT distance between two different nodes, where 10 is local; none with one node, or if it is not reported.
    pub far: Option<f64>,
    /// `transparent_hugepage/enabled` and `transparent_hugepage/defrag`.
    pub thp: Option<(String, String)>,
    /// `vm.watermark_scale_factor`.
    pub watermark_scale_factor: Option<u64>,
    /// `vm.min_free_kbytes`.
    pub min_free_kbytes: Option<u64>,
    /// `kernel.numa_balancing`.
    pub numa_balancing: Option<u64>,
}

impl Facts {
    /// Reads the facts from the cgroups at `paths`, of which none is below another, and the quotas of `quotas_of`.
    #[must_use]
    pub fn read(root: &Root, groups: &Groups, paths: &[String], quotas_of: &[String]) -> Self {
        let first = paths.first();
        let is_root = first.is_some_and(|path| path.trim_matches('/').is_empty());
        // The root may have these files, but refuses writes to them.
        let settable = |controller: &str, name: &str| {
            let file = groups.file(controller, first.filter(|_| !is_root)?, name)?;
            root.exists(&file).then_some(file)
        };
        let share = if groups.unified() {
            "cpu.weight"
        } else {
            "cpu.shares"
        };
        let cpuset = settable("cpuset", "cpuset.cpus");
        let limited = quotas_of
            .iter()
            .find(|path| groups.quota(root, path).is_some());
        let cpus = first.and_then(|path| groups.cpus(root, path));
        Self {
            cpu_count: cpus.as_ref().map(|cpus| cpus.iter().count()),
            cpus: cpus.map(|cpus| cpus.to_string()),
            mems: first.and_then(|path| Some(groups.mems(root, path)?.to_string())),
            memory_limit: first.and_then(|path| memory_limit(root, groups, path)),
            limits: limited.map_or_else(Vec::new, |path| groups.limits(root, path)),
            root: is_root,
            share_file: settable("cpu", share),
            cpuset_dir: cpuset.map(|file| file.trim_end_matches("/cpuset.cpus").to_owned()),
            ..Self::of_many(root, groups, paths, quotas_of)
        }
    }

    /// Reads only the facts that a table of many subjects shows: threads, quotas and memory.
    #[must_use]
    pub fn of_many(root: &Root, groups: &Groups, paths: &[String], quotas_of: &[String]) -> Self {
        let quotas = quotas_of.iter().filter_map(|path| groups.limit(root, path));
        Self {
            threads: sum(paths, |path| Some(groups.threads(root, path)?.0)),
            quotas: quotas.collect(),
            memory_by_node: memory_by_node(root, groups, paths),
            ..Self::default()
        }
    }
}

fn sum(paths: &[String], of: impl Fn(&String) -> Option<u64>) -> Option<u64> {
    paths.iter().filter_map(of).reduce(|a, b| a + b)
}

/// Returns the anonymous memory by node, in bytes, of cgroups of which none is below another.
pub(crate) fn memory_by_node(
    root: &Root,
    groups: &Groups,
    paths: &[String],
) -> Option<BTreeMap<String, u64>> {
    let page = rustix::param::page_size() as u64;
    let mut all: Option<BTreeMap<String, u64>> = None;
    for path in paths {
        if let Some((by_node, _)) = groups.anonymous(root, path, page) {
            let sums = all.get_or_insert_default();
            for (node, bytes) in by_node {
                *sums.entry(node.to_string()).or_default() += bytes;
            }
        }
    }
    all
}

fn memory_limit(root: &Root, groups: &Groups, path: &str) -> Option<(u64, u64, String)> {
    /// Lower bound of the value by which v1 says that there is no limit: the largest number of pages, in bytes.
    const UNLIMITED: u64 = 1 << 62;
    let names = if groups.unified() {
        ["memory.current", "memory.max"]
    } else {
        ["memory.usage_in_bytes", "memory.limit_in_bytes"]
    };
    let [used, limit] = names.map(|name| groups.file("memory", path, name));
    let (used, limit) = (used?, limit?);
    if !root.exists(&used) || !root.exists(&limit) {
        return None;
    }
    let bytes: u64 = root.text(&limit).ok()?.trim().parse().ok()?;
    (bytes < UNLIMITED).then_some((root.number(&used).ok()?, bytes, limit))
}

impl NodeFacts {
    /// Reads the facts about the node.
    #[must_use]
    pub fn read(root: &Root, unified: bool, topology: &Topology) -> Self {
        const THP: &str = "/sys/kernel/mm/transparent_hugepage";
        let nodes = topology.nodes();
        let with_cpus = nodes
            .iter()
            .filter(|node| node.cpus.iter().next().is_some());
        let distances: Vec<_> = nodes
            .iter()
            .flat_map(|node| node.distances.iter().filter(|(to, _)| **to != node.id))
            .map(|(_, distance)| f64::from(*distance))
            .collect();
        let far = distances.iter().sum::<f64>() / distances.len() as f64;
        let choice = |name: &str| root.choice(&format!("{THP}/{name}")).ok();
        let number = |name: &str| root.number(&format!("/proc/sys/{name}")).ok();
        Self {
            unified,
            cpus: topology.cpus().online.iter().count(),
            nodes: with_cpus
                .map(|node| (node.id, node.cpus.to_string()))
                .collect(),
            far: far.is_finite().then_some(far),
            thp: choice("enabled").zip(choice("defrag")),
            watermark_scale_factor: number("vm/watermark_scale_factor"),
            min_free_kbytes: number("vm/min_free_kbytes"),
            numa_balancing: number("kernel/numa_balancing"),
        }
    }
}
