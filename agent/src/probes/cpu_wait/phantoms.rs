//! Phantom waits: sleep that the kernel counts as a wait.

use aya::Ebpf;

use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::cgroup::CgroupId,
    ledger::rows::Rows,
    probe::{Kernel, collector::OwnerRows, durations::LengthsMap, mapped_array::Mapped},
};

/// See its help.
pub(super) static PHANTOM_WAIT_SECONDS: Metric = Metric {
    name: "stallscope_phantom_wait_seconds_total",
    kind: Kind::Counter,
    help: "Sleep that the kernel counts in run_delay because it moved a task that slept and was still on its run queue; it is in no cause. Owners without any are left out. Absent before Linux 6.12, which cannot have any.",
    labels: &[],
    scope: Scope::Owner,
    source: "`sched_migrate_task`: `task_struct.se.sched_delayed`; `sched_switch`: when the CPU was last idle",
};

/// Phantom waits by cgroup, as the programs count them.
pub(super) struct Phantoms {
    lengths: LengthsMap<u64>,
    lost: Mapped<u64>,
    /// Phantom waits of cgroups that were forgotten, in nanoseconds.
    retired: u64,
}

impl Phantoms {
    /// Opens the tables. `None` on kernels that take every sleeper off its run queue at once.
    pub(super) fn open(ebpf: &mut Ebpf, kernel: &Kernel) -> anyhow::Result<Option<Self>> {
        if kernel.layout.get("task_sched_delayed").is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            lengths: LengthsMap::open(ebpf, "PHANTOMS")?,
            lost: Mapped::open(ebpf, "PHANTOMS_LOST")?,
            retired: 0,
        }))
    }

    /// Adds all phantom waits to the word at `place` of the rows.
    pub(super) fn read(&self, rows: &mut Rows, place: usize) {
        rows.retired()[place] += self.retired;
        for (id, counted) in self.lengths.iter() {
            rows.row(CgroupId(id))[place] += counted.sum_ns;
        }
    }

    pub(super) fn encode(owners: &OwnerRows<'_>, place: usize, out: &mut Encoder) {
        let mut family = out.family(&PHANTOM_WAIT_SECONDS);
        for (labels, row) in owners.rows.iter().filter(|(_, row)| row[place] != 0) {
            family.sample(Some(labels), &[], Value::Nanoseconds(row[place]));
        }
    }

    /// Drops the entries of cgroups that are gone.
    pub(super) fn forget(&mut self, gone: &[CgroupId], rows: &Rows) {
        for id in gone.iter().filter(|id| rows.has(**id)) {
            if let Some(last) = self.lengths.remove(&id.0) {
                self.retired += last.sum_ns;
            }
        }
    }

    pub(super) fn lost(&self) -> (&'static str, u64) {
        ("phantom_table_full", self.lost.get(0).unwrap_or(0))
    }
}
