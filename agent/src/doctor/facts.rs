//! Facts about a node and its settings, for comparison and for metrics. An unknown fact is absent.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Node, kubelet::Kubelet};
use crate::host::topology::Boundary;

/// Facts by group.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// CPUs, nodes and pages.
    pub machine: Machine,
    /// The kernel.
    pub kernel: Kernel,
    /// Memory settings.
    pub memory: Memory,
    /// Control groups.
    pub cgroups: Cgroups,
    /// The kubelet's settings; none where no kubelet is in sight.
    pub kubernetes: Option<Kubernetes>,
    /// Limits and clock.
    pub system: System,
}

/// CPUs, nodes and pages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Models of the CPUs by name, with the number of CPUs of each.
    pub cpu_models: BTreeMap<String, usize>,
    /// Name of the machine or instance, by DMI or device tree.
    pub product: Option<String>,
    /// Hypervisor, if the machine is virtual.
    pub hypervisor: Option<String>,
    /// Number of online CPUs.
    pub cpus: Option<usize>,
    /// True if SMT siblings are in use.
    pub smt: Option<bool>,
    /// Number of packages, if reported.
    pub packages: Option<usize>,
    /// Memory of each NUMA node, in bytes.
    pub node_memory_bytes: BTreeMap<u32, Option<u64>>,
    /// CPUs of each NUMA node, as a list.
    pub node_cpus: BTreeMap<u32, String>,
    /// SLIT distances by pair of nodes, such as `0-1`.
    pub distances: BTreeMap<String, u32>,
    /// Page size, in bytes.
    pub page_bytes: Option<u64>,
    /// Frequency governors, with the number of CPUs that have each.
    pub governors: BTreeMap<String, usize>,
}

/// The kernel.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: Option<String>,
    /// True if the kernel describes its types.
    pub btf: bool,
    /// Preemption model.
    pub preemption: Option<String>,
    /// `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u64>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// True if trampolines work; none if that was not tried.
    pub trampolines: Option<bool>,
    /// Command line of the kernel.
    pub command_line: Option<String>,
}

/// Memory settings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Memory in total, in bytes.
    pub total_bytes: Option<u64>,
    /// Swap, in bytes.
    pub swap_bytes: Option<u64>,
    /// `transparent_hugepage/enabled`.
    pub thp: Option<String>,
    /// `transparent_hugepage/defrag`.
    pub thp_defrag: Option<String>,
    /// Size of a transparent huge page, in bytes.
    pub thp_bytes: Option<u64>,
    /// Settings below `/proc/sys/vm` and `kernel.numa_balancing`, by name.
    pub settings: BTreeMap<&'static str, Option<i64>>,
}

/// Control groups.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cgroups {
    /// `v1`, `hybrid` or `v2`.
    pub mode: Option<&'static str>,
    /// Cgroup trees that hold pods.
    pub pod_trees: Vec<String>,
    /// Container runtime, if its configuration is in sight.
    pub runtime: Option<&'static str>,
    /// Cgroup driver of the runtime.
    pub runtime_driver: Option<String>,
}

/// The kubelet's settings, each with its default if not set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kubernetes {
    /// `cgroupDriver`.
    pub cgroup_driver: String,
    /// `cpuManagerPolicy`.
    pub cpu_manager_policy: String,
    /// `topologyManagerPolicy`.
    pub topology_manager_policy: String,
    /// `topologyManagerScope`.
    pub topology_manager_scope: String,
    /// `memoryManagerPolicy`.
    pub memory_manager_policy: String,
    /// `reservedSystemCPUs`.
    pub reserved_cpus: String,
    /// `cpuCFSQuota`.
    pub cpu_cfs_quota: String,
}

/// Limits and clock.
#[derive(Clone, Debug, Default, Serialize)]
pub struct System {
    /// The clock source in use.
    pub clocksource: Option<String>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `fs.file-max`.
    pub file_max: Option<u64>,
    /// `fs.nr_open`.
    pub nr_open: Option<u64>,
}

const SETTINGS: [(&str, &str); 7] = [
    ("numa_balancing", "/proc/sys/kernel/numa_balancing"),
    ("zone_reclaim_mode", "/proc/sys/vm/zone_reclaim_mode"),
    ("swappiness", "/proc/sys/vm/swappiness"),
    ("min_free_kbytes", "/proc/sys/vm/min_free_kbytes"),
    (
        "watermark_scale_factor",
        "/proc/sys/vm/watermark_scale_factor",
    ),
    ("max_map_count", "/proc/sys/vm/max_map_count"),
    ("overcommit_memory", "/proc/sys/vm/overcommit_memory"),
];

/// Folder of the settings of transparent huge pages.
pub(super) const THP: &str = "/sys/kernel/mm/transparent_hugepage";

impl Facts {
    /// Collects the facts from the node's files.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self {
            machine: machine(node),
            kernel: kernel(node),
            memory: memory(node),
            cgroups: cgroups(node),
            kubernetes: node.kubelet().ok().map(kubernetes),
            system: System {
                clocksource: node.root.text(super::checks::CLOCKSOURCE).ok(),
                somaxconn: node.root.number("/proc/sys/net/core/somaxconn").ok(),
                file_max: node.root.number("/proc/sys/fs/file-max").ok(),
                nr_open: node.root.number("/proc/sys/fs/nr_open").ok(),
            },
        }
    }
}

fn machine(node: &Node) -> Machine {
    let mut machine = Machine {
        product: node.product.clone(),
        hypervisor: node.hypervisor.clone(),
        page_bytes: node.page_bytes,
        ..Machine::default()
    };
    for (model, cpus) in &node.models {
        let name = if model.model.is_empty() {
            model.id.clone()
        } else {
            model.name()
        };
        *machine.cpu_models.entry(name).or_default() += cpus.len();
    }
    let Ok(topology) = &node.topology else {
        return machine;
    };
    machine.cpus = Some(topology.cpus().online.len());
    machine.smt = topology.smt_active();
    let packages = topology
        .levels()
        .iter()
        .find(|level| level.boundary == Boundary::Package && !level.groups.is_empty());
    machine.packages = packages.map(|level| level.groups.len());
    for numa in topology.nodes() {
        machine.node_memory_bytes.insert(numa.id, numa.memory_bytes);
        machine.node_cpus.insert(numa.id, numa.cpus.to_string());
        for (to, distance) in &numa.distances {
            let pair = format!("{}-{to}", numa.id);
            machine.distances.insert(pair, *distance);
        }
    }
    for cpu in topology.cpus().online.iter() {
        let path = super::checks::governor_file(cpu);
        if node.root.exists(&path)
            && let Ok(governor) = node.root.text(&path)
        {
            *machine.governors.entry(governor).or_default() += 1;
        }
    }
    machine
}

fn kernel(node: &Node) -> Kernel {
    let root = &node.root;
    Kernel {
        release: node.release.clone(),
        btf: root.exists("/sys/kernel/btf/vmlinux"),
        preemption: super::checks::preemption(node).ok().map(|(model, _)| model),
        lockdown: root.choice("/sys/kernel/security/lockdown").ok(),
        bpf_jit: root.number("/proc/sys/net/core/bpf_jit_enable").ok(),
        unprivileged_bpf_disabled: root
            .number("/proc/sys/kernel/unprivileged_bpf_disabled")
            .ok(),
        perf_event_paranoid: root.number("/proc/sys/kernel/perf_event_paranoid").ok(),
        trampolines: node.live.trampolines.as_ref().map(|tried| tried.work),
        command_line: root.text("/proc/cmdline").ok(),
    }
}

fn memory(node: &Node) -> Memory {
    let root = &node.root;
    let kib = |key| root.field_line("/proc/meminfo", &format!("{key}:")).ok();
    let bytes = |key| kib(key).and_then(|kib| kib.checked_mul(1024));
    Memory {
        total_bytes: bytes("MemTotal"),
        swap_bytes: bytes("SwapTotal"),
        thp: root.choice(&format!("{THP}/enabled")).ok(),
        thp_defrag: root.choice(&format!("{THP}/defrag")).ok(),
        thp_bytes: root.number(&format!("{THP}/hpage_pmd_size")).ok(),
        settings: SETTINGS
            .map(|(name, path)| (name, root.number(path).ok()))
            .into(),
    }
}

fn cgroups(node: &Node) -> Cgroups {
    let mut cgroups = Cgroups {
        runtime: node.runtime.as_ref().map(|runtime| runtime.name),
        runtime_driver: node.runtime.as_ref().map(|r| r.driver.value.clone()),
        ..Cgroups::default()
    };
    if let Ok(groups) = &node.groups {
        cgroups.mode = Some(groups.mode.name());
        cgroups.pod_trees = super::checks::pod_trees(groups);
    }
    cgroups
}

fn kubernetes(kubelet: &Kubelet) -> Kubernetes {
    let setting = |flag, key, default| kubelet.setting(flag, key, default).value;
    Kubernetes {
        cgroup_driver: setting("cgroup-driver", "cgroupDriver", "cgroupfs"),
        cpu_manager_policy: setting("cpu-manager-policy", "cpuManagerPolicy", "none"),
        topology_manager_policy: setting(
            "topology-manager-policy",
            "topologyManagerPolicy",
            "none",
        ),
        topology_manager_scope: setting(
            "topology-manager-scope",
            "topologyManagerScope",
            "container",
        ),
        memory_manager_policy: setting("memory-manager-policy", "memoryManagerPolicy", "None"),
        reserved_cpus: setting("reserved-cpus", "reservedSystemCPUs", ""),
        cpu_cfs_quota: setting("cpu-cfs-quota", "cpuCFSQuota", "true"),
    }
}
