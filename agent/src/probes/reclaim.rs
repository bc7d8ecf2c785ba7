//! Time that tasks spend reclaiming memory themselves.

use aya::Ebpf;
use stallscope_ebpf::{
    RECLAIMS, Reclaim, ReclaimKey, WAIT_BOUNDS_NS, WAIT_BUCKETS, reclaim_lost as reason,
};

use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::{btf::Enumerator, cgroup::CgroupId},
    ledger::{
        history::Quantity,
        rows::{Columns, Rows},
    },
    probe::{
        Alternative, Attach, Attached, Hook, Kernel, Probe,
        collector::{Collector, OwnerRows},
        durations::{self, LengthsMap},
        mapped_array::Mapped,
    },
};

/// See the module.
pub static PROBE: Probe = Probe {
    name: "reclaim",
    summary: "time tasks spend reclaiming memory themselves",
    fields: &[
        "task_flags",
        "task_pid",
        "task_run_delay",
        "task_cgroups",
        "css_set_subsys",
        "css_cgroup",
        "cgroup_kn",
        "kernfs_id",
    ],
    hooks: &[
        Hook {
            name: DIRECT,
            required: false,
            alternatives: &[
                typed(&[
                    Attach::TpBtf(
                        "mm_vmscan_direct_reclaim_end",
                        "mm_vmscan_direct_reclaim_end",
                    ),
                    Attach::TpBtf(
                        "mm_vmscan_direct_reclaim_begin",
                        "mm_vmscan_direct_reclaim_begin",
                    ),
                ]),
                Alternative::of(&[
                    Attach::TpBtf(
                        "mm_vmscan_direct_reclaim_end_probed",
                        "mm_vmscan_direct_reclaim_end",
                    ),
                    Attach::TpBtf(
                        "mm_vmscan_direct_reclaim_begin_probed",
                        "mm_vmscan_direct_reclaim_begin",
                    ),
                ]),
            ],
        },
        Hook {
            name: MEMCG,
            required: false,
            alternatives: &[
                typed(&[
                    Attach::TpBtf("mm_vmscan_memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end"),
                    Attach::TpBtf(
                        "mm_vmscan_memcg_reclaim_begin",
                        "mm_vmscan_memcg_reclaim_begin",
                    ),
                ]),
                Alternative::of(&[
                    Attach::TpBtf(
                        "mm_vmscan_memcg_reclaim_end_probed",
                        "mm_vmscan_memcg_reclaim_end",
                    ),
                    Attach::TpBtf(
                        "mm_vmscan_memcg_reclaim_begin_probed",
                        "mm_vmscan_memcg_reclaim_begin",
                    ),
                ]),
            ],
        },
        Hook {
            name: COMPACTION,
            required: false,
            alternatives: &[
                typed(&[
                    Attach::TpBtf("mm_compaction_end", "mm_compaction_end"),
                    Attach::TpBtf("mm_compaction_begin", "mm_compaction_begin"),
                ]),
                Alternative::of(&[
                    Attach::TpBtf("mm_compaction_end_probed", "mm_compaction_end"),
                    Attach::TpBtf("mm_compaction_begin_probed", "mm_compaction_begin"),
                ]),
            ],
        },
    ],
    metrics: &[&STALL_SECONDS, &LENGTH_SECONDS],
    // The maps have fixed sizes: see the object.
    map_sizes: |_| Vec::new(),
    prepare: None,
    open,
};

const DIRECT: &str = "direct reclaim";
const MEMCG: &str = "memory cgroup reclaim";
const COMPACTION: &str = "compaction";

/// Programs that know the current task's type. Ends attach before beginnings: a reclaim that begins
/// in between shows as an end too many, which is counted, and not as a task that never ends.
const fn typed(programs: &'static [Attach]) -> Alternative {
    Alternative {
        programs,
        fields: &[],
        unsupported: Some(no_typed_task),
    }
}

fn no_typed_task(kernel: &Kernel) -> Option<String> {
    let helper = Enumerator::GET_CURRENT_TASK_BTF;
    kernel
        .btf
        .enumerator(helper)
        .is_none()
        .then(|| format!("this kernel has no {} (it came with 5.11)", helper.name()))
}

static STALL_SECONDS: Metric = Metric {
    name: "stallscope_task_stall_seconds_total",
    kind: Kind::Counter,
    help: "Time that tasks spent reclaiming or compacting memory themselves, less their wait for a CPU meanwhile; nested calls are counted once, by the outermost.",
    labels: &["cause"],
    scope: Scope::Owner,
    source: "`mm_vmscan_direct_reclaim_begin`, `mm_vmscan_memcg_reclaim_begin`, `mm_compaction_begin` and their ends: `bpf_ktime_get_ns` less `task_struct.sched_info.run_delay`",
};

static LENGTH_SECONDS: Metric = Metric {
    name: "stallscope_reclaim_seconds",
    kind: Kind::Histogram,
    help: "Length of single outermost calls into reclaim or compaction, less the task's wait for a CPU meanwhile.",
    labels: &["cause"],
    scope: Scope::Owner,
    source: "as stallscope_task_stall_seconds_total",
};

struct Collect {
    lengths: LengthsMap<ReclaimKey>,
    lost: Mapped<u64>,
    attached: Vec<Reclaim>,
    /// Counts of cgroups that were forgotten.
    retired: [u64; RECLAIMS * durations::WIDTH],
}

fn open(ebpf: &mut Ebpf, _: &Kernel, attached: &Attached) -> anyhow::Result<Box<dyn Collector>> {
    let hooks = [DIRECT, MEMCG, COMPACTION];
    Ok(Box::new(Collect {
        lengths: LengthsMap::open(ebpf, "LENGTHS")?,
        lost: Mapped::open(ebpf, "LOST")?,
        attached: Reclaim::ALL
            .into_iter()
            .filter(|kind| attached.has(hooks[*kind as usize]))
            .collect(),
        retired: [0; RECLAIMS * durations::WIDTH],
    }))
}

/// The words of a row that belong to a kind.
fn of(row: &[u64], kind: Reclaim) -> &[u64] {
    &row[kind as usize * durations::WIDTH..][..durations::WIDTH]
}

impl Collector for Collect {
    fn columns(&self) -> Columns {
        Columns {
            width: RECLAIMS * durations::WIDTH,
            wrapping: 0,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        rows.retired().copy_from_slice(&self.retired);
        for (key, counted) in self.lengths.iter() {
            let row = rows.row(CgroupId(key.cgroup));
            if let Some(words) = row.get_mut(key.kind as usize * durations::WIDTH..) {
                durations::add(words, &counted);
            }
        }
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        let mut family = out.family(&STALL_SECONDS);
        for (labels, row) in &owners.rows {
            for kind in &self.attached {
                let ns = of(row, *kind)[WAIT_BUCKETS];
                family.sample(Some(labels), &[kind.label()], Value::Nanoseconds(ns));
            }
        }
        let mut family = out.family(&LENGTH_SECONDS);
        for (labels, row) in &owners.rows {
            for kind in &self.attached {
                let (counts, sum) = of(row, *kind).split_at(WAIT_BUCKETS);
                // Most owners have one kind only, and a histogram is fourteen series.
                if counts.iter().any(|count| *count != 0) {
                    let values = [kind.label()];
                    family.histogram(Some(labels), &values, &WAIT_BOUNDS_NS, counts, sum[0]);
                }
            }
        }
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        let sum = |kind: Reclaim| kind as usize * durations::WIDTH + WAIT_BUCKETS;
        let kinds = self.attached.iter();
        kinds
            .map(|kind| (Quantity::stall(*kind), sum(*kind)))
            .collect()
    }

    fn forget(&mut self, gone: &[CgroupId], rows: &mut Rows) {
        for id in gone.iter().filter(|id| rows.has(**id)) {
            for kind in Reclaim::ALL {
                let key = ReclaimKey {
                    cgroup: id.0,
                    kind: kind as u64,
                };
                if let Some(last) = self.lengths.remove(&key) {
                    let at = kind as usize * durations::WIDTH;
                    durations::add(&mut self.retired[at..], &last);
                }
            }
        }
        rows.remove(gone);
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        reason::REASONS
            .into_iter()
            .enumerate()
            .map(|(i, reason)| (reason, self.lost.get(i).unwrap_or(0)))
            .collect()
    }
}
