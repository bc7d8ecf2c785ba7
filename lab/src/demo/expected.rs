//! The effect of each cause on the service, and the answers that are right.

use super::cause::Cause;

/// Describes the cause to the reader.
#[must_use]
pub fn about(cause: Cause) -> &'static str {
    match cause {
        Cause::None => "nothing is done",
        Cause::Throttled => "a CPU quota of a fifth of what it takes",
        Cause::Neighbour => "threads of another cgroup that always want its CPUs",
        Cause::Own => "eight more threads for each of its CPUs",
        Cause::Host => "threads of the host that always want its CPUs",
        Cause::Kernel => "kernel threads on its CPUs",
        Cause::Kswapd => "somebody uses up its node's memory, and kswapd makes room on its CPUs",
        Cause::Kcompactd => "kcompactd compacts on its CPUs",
        Cause::Khugepaged => "khugepaged makes huge pages on its CPUs",
        Cause::Idle => "its CPUs wake up late",
        Cause::Unattributed => "what nobody knows",
        Cause::DirectReclaim => "no free memory: it has to make room itself",
        Cause::MemcgReclaim => "a memory limit of a third of its state: it has to make room itself",
        Cause::Compaction => "it compacts memory itself",
        Cause::NodeMigrations => "its threads are moved to the farthest node and back, every 10 ms",
        Cause::RemoteMemory => "its threads are moved to the farthest node, its memory stays",
    }
}

/// Returns whether there is a machine on which the cause can be brought about.
#[must_use]
pub fn possible(cause: Cause) -> bool {
    !matches!(
        cause,
        Cause::Kernel | Cause::Kcompactd | Cause::Khugepaged | Cause::Idle | Cause::Unattributed
    )
}

/// Answers of `explain` that are right: the first cause that it names has to be one of them.
#[must_use]
pub fn accepted(cause: Cause) -> Vec<String> {
    // Where a node cannot be filled, a memory limit has the service reclaim in its own time, too.
    let same = (cause == Cause::DirectReclaim).then_some(Cause::MemcgReclaim);
    [Some(cause), same]
        .into_iter()
        .flatten()
        .map(Cause::name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Cause, accepted};
    use clap::ValueEnum as _;
    use stallscope_ebpf::Reclaim;

    #[test]
    fn the_names_are_those_of_the_metrics_and_of_the_two_estimates() {
        let waits = stallscope_ebpf::Cause::ALL.map(stallscope_ebpf::Cause::label);
        let reclaims = Reclaim::ALL.map(Reclaim::label);
        let others = ["none", "node_migrations", "remote_memory"];
        let mut expected: Vec<&str> = [&waits[..], &reclaims, &others].concat();
        let mut names: Vec<String> = Cause::value_variants().iter().map(|c| c.name()).collect();
        expected.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn only_reclaim_in_its_own_time_goes_by_two_names() {
        for cause in Cause::value_variants() {
            let both = ["direct_reclaim", "memcg_reclaim"].map(str::to_owned);
            let alone = vec![cause.name()];
            let expected = if *cause == Cause::DirectReclaim {
                both.to_vec()
            } else {
                alone
            };
            assert_eq!(accepted(*cause), expected);
        }
    }
}
