//! The causes by name, as `stallscope explain` gives them. This file is a part of `cargo xtask demo` too.

use clap::ValueEnum;

/// A cause that a workload is stalled by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing: there has to be nothing unusual
    None,
    /// A CPU quota that is too small
    Throttled,
    /// Another cgroup's threads that want the same CPUs
    Neighbour,
    /// Many more threads of its own
    Own,
    /// The host's threads that want the same CPUs
    Host,
    /// Kernel threads that want the same CPUs
    Kernel,
    /// Memory pressure that kswapd works off on the workload's CPU
    Kswapd,
    /// Compaction by kcompactd
    Kcompactd,
    /// Huge pages made by khugepaged
    Khugepaged,
    /// CPUs that wake up late
    Idle,
    /// What has no cause
    Unattributed,
    /// Reclaim in its own time, because a node or its memory limit is full
    DirectReclaim,
    /// Reclaim in its own time, because its memory limit is reached
    MemcgReclaim,
    /// Compaction in its own time
    Compaction,
    /// Threads moved to and fro between NUMA nodes
    NodeMigrations,
    /// Threads on one NUMA node, memory on another
    RemoteMemory,
}

impl Cause {
    /// Name on the command line and in answers.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
