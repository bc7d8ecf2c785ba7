//! The probes: one file each, and this list.

use crate::probe::{Attach, Probe};

pub mod cpu_throttling;
pub mod cpu_wait;
pub mod page_faults;
pub mod reclaim;
pub mod task_migrations;

/// All probes, in the order of `status`.
pub static PROBES: &[&Probe] = &[
    &cpu_wait::PROBE,
    &task_migrations::PROBE,
    &cpu_throttling::PROBE,
    &page_faults::PROBE,
    &reclaim::PROBE,
];

/// Every program of every probe, with its hook.
pub fn attachments() -> impl Iterator<Item = Attach> {
    PROBES
        .iter()
        .flat_map(|probe| probe.hooks)
        .flat_map(|hook| hook.alternatives)
        .flat_map(|alternative| alternative.programs)
        .copied()
}
