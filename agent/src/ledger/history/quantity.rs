//! What is recorded of a container each second.

use stallscope_ebpf::{Cause, Daemon, Reclaim};

/// One thing that is recorded. Times are in microseconds, the others are counts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Quantity {
    /// Time on CPUs of a NUMA node; none for CPUs whose node is not known.
    Cpu(Option<u16>),
    /// Time of waits for a CPU, by cause ([`Cause`]).
    Wait(u8),
    /// Time of reclaim and compaction in the tasks' own time, by kind ([`Reclaim`]).
    Stall(u8),
    /// Quota periods in which the group was runnable.
    Periods,
    /// Those of them in which the quota ran out.
    ThrottledPeriods,
    /// Moves of tasks to another CPU.
    Migrations,
    /// Those of them to another NUMA node.
    NodeMigrations,
    /// Sum of the NUMA distances that tasks were moved across.
    MigrationDistance,
    /// First touches and mappings of pages, on the node of the CPU that faulted.
    LocalFaults,
    /// The same on another node.
    RemoteFaults,
    /// NUMA-hinting faults on the node of the CPU.
    LocalHints,
    /// The same on another node.
    RemoteHints,
    /// Of the host: time on CPUs of the agent's own process.
    Agent,
    /// Of the host: time on CPUs of a memory daemon ([`Daemon`]), by NUMA node.
    Daemon(u8, u16),
}

impl Quantity {
    /// The wait of a cause.
    #[must_use]
    pub const fn wait(cause: Cause) -> Self {
        Self::Wait(cause as u8)
    }

    /// The time of a kind of reclaim.
    #[must_use]
    pub const fn stall(kind: Reclaim) -> Self {
        Self::Stall(kind as u8)
    }

    /// The time of a daemon on a node.
    #[must_use]
    pub const fn daemon(daemon: Daemon, node: u16) -> Self {
        Self::Daemon(daemon as u8, node)
    }

    /// Whether it is a time, which the probes count in nanoseconds.
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(
            self,
            Self::Cpu(_) | Self::Wait(_) | Self::Stall(_) | Self::Agent | Self::Daemon(..)
        )
    }

    /// The cause for which this is time lost, as the metrics name it; none for what is not lost.
    #[must_use]
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::Wait(cause) => Cause::ALL
                .get(usize::from(cause))
                .map(|cause| cause.label()),
            Self::Stall(kind) => Reclaim::ALL.get(usize::from(kind)).map(|kind| kind.label()),
            _ => None,
        }
    }
}
