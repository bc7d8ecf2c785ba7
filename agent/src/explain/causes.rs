//! Causes of lost time, with the evidence and the remedies of each.

mod cpu;
mod memory;
mod numa;

use stallscope_ebpf::{Cause, Reclaim};

use super::{
    Case, CauseReport, Evidence, Remedy, amount,
    baseline::{Floor, median},
    lost_by_cause, total,
};
use crate::{
    ledger::history::{Quantity, Sums},
    text::shell_command::ShellCommand,
};

/// Definition of a cause of lost time.
struct Kind {
    /// Name, as in the metrics.
    name: &'static str,
    title: &'static str,
    /// True if the time is estimated rather than measured.
    estimate: bool,
    /// Computes the time lost to it, in seconds.
    seconds: fn(&Case, &Sums) -> f64,
    evidence: fn(&Case) -> Vec<Evidence>,
    remedy: fn(&Case) -> Vec<Remedy>,
}

impl Kind {
    const fn wait(
        name: &'static str,
        title: &'static str,
        seconds: fn(&Case, &Sums) -> f64,
        evidence: fn(&Case) -> Vec<Evidence>,
        remedy: fn(&Case) -> Vec<Remedy>,
    ) -> Self {
        Self {
            name,
            title,
            estimate: false,
            seconds,
            evidence,
            remedy,
        }
    }
}

/// Computes the seconds of a wait or stall.
macro_rules! measured {
    ($quantity:expr) => {
        |_, sums| amount(sums, $quantity)
    };
}

static KINDS: [Kind; 15] = [
    Kind::wait(
        "own",
        "Its own threads held the CPUs",
        measured!(Quantity::wait(Cause::Own)),
        cpu::own_evidence,
        cpu::own_remedy,
    ),
    Kind::wait(
        "neighbour",
        "Other containers held the CPUs",
        measured!(Quantity::wait(Cause::Neighbour)),
        cpu::neighbour_evidence,
        cpu::neighbour_remedy,
    ),
    Kind::wait(
        "host",
        "Services of the host held the CPUs",
        measured!(Quantity::wait(Cause::Host)),
        cpu::host_evidence,
        cpu::host_remedy,
    ),
    Kind::wait(
        "kernel",
        "Kernel threads held the CPUs",
        measured!(Quantity::wait(Cause::Kernel)),
        cpu::no_evidence,
        cpu::kernel_remedy,
    ),
    Kind::wait(
        "kswapd",
        "kswapd, which frees memory in the background, held the CPUs",
        measured!(Quantity::wait(Cause::Kswapd)),
        memory::daemon_evidence,
        memory::reclaim_remedy,
    ),
    Kind::wait(
        "kcompactd",
        "kcompactd, which makes large pages possible, held the CPUs",
        measured!(Quantity::wait(Cause::Kcompactd)),
        memory::daemon_evidence,
        memory::huge_page_remedy,
    ),
    Kind::wait(
        "khugepaged",
        "khugepaged, which puts huge pages together, held the CPUs",
        measured!(Quantity::wait(Cause::Khugepaged)),
        memory::daemon_evidence,
        memory::huge_page_remedy,
    ),
    Kind::wait(
        "throttled",
        "Its CPU quota was used up",
        measured!(Quantity::wait(Cause::Throttled)),
        cpu::throttled_evidence,
        cpu::throttled_remedy,
    ),
    Kind::wait(
        "idle",
        "CPUs had to wake up first",
        measured!(Quantity::wait(Cause::Idle)),
        cpu::no_evidence,
        cpu::idle_remedy,
    ),
    Kind::wait(
        "unattributed",
        "Who held the CPUs is not known",
        measured!(Quantity::wait(Cause::Unattributed)),
        cpu::no_evidence,
        cpu::no_remedy,
    ),
    Kind::wait(
        "direct_reclaim",
        "Its own threads had to free memory of the node",
        measured!(Quantity::stall(Reclaim::Direct)),
        memory::daemon_evidence,
        memory::reclaim_remedy,
    ),
    Kind::wait(
        "memcg_reclaim",
        "Its own threads had to free memory because of its memory limit",
        measured!(Quantity::stall(Reclaim::Memcg)),
        memory::limit_evidence,
        memory::limit_remedy,
    ),
    Kind::wait(
        "compaction",
        "Its own threads had to move pages together",
        measured!(Quantity::stall(Reclaim::Compaction)),
        memory::daemon_evidence,
        memory::huge_page_remedy,
    ),
    Kind {
        name: "node_migrations",
        title: "Threads were moved to other NUMA nodes, away from their memory",
        estimate: true,
        seconds: numa::migration_seconds,
        evidence: numa::migration_evidence,
        remedy: numa::remedy,
    },
    Kind {
        name: "remote_memory",
        title: "Memory was on other NUMA nodes",
        estimate: true,
        seconds: numa::remote_seconds,
        evidence: numa::remote_evidence,
        remedy: numa::remedy,
    },
];

/// Makes the command that sets a kernel setting.
fn sysctl(name: &str, value: u64) -> ShellCommand {
    ShellCommand::new("sysctl").args(["-w", &format!("{name}={value}")])
}

/// Returns the causes that took any time.
pub(super) fn found(case: &Case) -> Vec<CauseReport> {
    let wanted = case.cpu_seconds() + total(lost_by_cause(&case.window).into_values());
    let floor = Floor::new(case.recorded_seconds, wanted);
    let taking = KINDS.iter().filter_map(|kind| {
        let seconds = (kind.seconds)(case, &case.window);
        (seconds > 0.0).then_some((kind, seconds))
    });
    taking
        .map(|(kind, seconds)| {
            let before = case.before.iter();
            let baseline = median(before.map(|sums| (kind.seconds)(case, sums)).collect());
            CauseReport {
                cause: kind.name.to_owned(),
                title: kind.title.to_owned(),
                seconds,
                share: 0.0,
                baseline,
                unusual: floor.unusual(seconds, baseline, kind.estimate),
                estimate: kind.estimate,
                evidence: (kind.evidence)(case),
                remedy: (kind.remedy)(case),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_that_is_recorded_has_its_place() {
        let waits = Cause::ALL.map(Cause::label).into_iter();
        let recorded: Vec<_> = waits.chain(Reclaim::ALL.map(Reclaim::label)).collect();
        let measured = KINDS.iter().filter(|kind| !kind.estimate);
        assert_eq!(measured.map(|kind| kind.name).collect::<Vec<_>>(), recorded);
        for (cause, kind) in Cause::ALL.into_iter().zip(&KINDS) {
            let sums = Sums::from([(Quantity::wait(cause), 5_000_000)]);
            assert!(
                ((kind.seconds)(&Case::default(), &sums) - 5.0).abs() < 1e-9,
                "{}",
                kind.name
            );
        }
        for (stall, kind) in Reclaim::ALL.into_iter().zip(&KINDS[Cause::ALL.len()..]) {
            let sums = Sums::from([(Quantity::stall(stall), 5_000_000)]);
            assert!(
                ((kind.seconds)(&Case::default(), &sums) - 5.0).abs() < 1e-9,
                "{}",
                kind.name
            );
        }
    }
}
