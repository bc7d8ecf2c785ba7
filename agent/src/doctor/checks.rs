//! All checks, by group.

mod cgroups;
mod files;
mod frequency;
mod huge_pages;
mod kernel;
mod kubernetes;
mod limits;
mod machine;
mod memory;
mod numa;
mod pods;
mod security;
mod system;
mod workloads;

pub(super) use cgroups::pod_trees;
pub(super) use frequency::governor_file;
pub(super) use kernel::preemption;
pub(super) use system::CLOCKSOURCE;

use super::check::Check;

/// Every check, in the order in which the audit makes and shows them.
pub static CHECKS: [&Check; 61] = [
    &machine::CPU_MODEL,
    &machine::CPU_MIXED,
    &machine::SMT_SIBLINGS,
    &machine::CPUS_OFFLINE,
    &machine::PAGE_SIZE,
    &machine::STEAL_TIME,
    &frequency::CPU_GOVERNOR,
    &frequency::CPU_FREQUENCY_LIMIT,
    &numa::NUMA_HIDDEN,
    &numa::NUMA_DISTANCES,
    &numa::NUMA_MEMORY_ONLY,
    &numa::NUMA_NO_MEMORY,
    &numa::NUMA_UNEVEN_MEMORY,
    &kernel::KERNEL_VERSION,
    &kernel::BTF,
    &kernel::BPF_SYSCALL,
    &kernel::BPF_JIT,
    &kernel::CGROUP_BPF,
    &kernel::KPROBES,
    &kernel::BPF_TRAMPOLINES,
    &kernel::PSI,
    &kernel::SCHED_INFO,
    &kernel::SCHEDSTATS,
    &kernel::PREEMPTION,
    &security::LOCKDOWN,
    &security::PERF_EVENT_PARANOID,
    &security::UNPRIVILEGED_BPF,
    &huge_pages::THP_ENABLED,
    &huge_pages::THP_DEFRAG,
    &huge_pages::KHUGEPAGED_PACE,
    &huge_pages::HUGEPAGES_NODES,
    &huge_pages::HUGEPAGES_UNUSED,
    &memory::NUMA_BALANCING,
    &memory::ZONE_RECLAIM,
    &memory::SWAPPINESS,
    &memory::MIN_FREE_KBYTES,
    &memory::WATERMARK_SCALE_FACTOR,
    &memory::SWAP,
    &memory::MAX_MAP_COUNT,
    &cgroups::CGROUP_MODE,
    &cgroups::CGROUP_CONTROLLERS,
    &cgroups::CGROUP_TREES,
    &cgroups::CGROUP_DRIVER,
    &cgroups::KUBELET_CGROUPS,
    &limits::CPU_LIMITS_OFF,
    &limits::LIMIT_WITHOUT_QUOTA,
    &kubernetes::CPU_MANAGER_POLICY,
    &kubernetes::CPU_MANAGER_STATE,
    &kubernetes::TOPOLOGY_MANAGER,
    &kubernetes::MEMORY_MANAGER,
    &kubernetes::RESERVED_CPUS,
    &pods::PODS_SPAN_NODES,
    &pods::GUARANTEED_SHARED,
    &workloads::THREADS_OVER_QUOTA,
    &workloads::QUOTA_BELOW_ONE,
    &workloads::CPU_MEMORY_APART,
    &system::SOMAXCONN,
    &system::FILE_LIMITS,
    &system::IRQ_AFFINITY,
    &system::CLOCK_SOURCE,
    &files::UNREADABLE,
];
