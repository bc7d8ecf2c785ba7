//! Page faults by locality: new memory, pages of files, and what NUMA balancing samples.

use stallscope_ebpf::{FAULT_COUNTS, FaultCell, FaultCount, Host, cell_place, is_beyond_slots};

use crate::{
    btf::Enumerator,
    cgroup::CgroupId,
    collector::{Collector, Columns, OwnerRows, Rows},
    exposition::Encoder,
    history::Quantity,
    mapped::Mapped,
    metric::{Kind, Metric, Scope, Value},
    probe::{Alternative, Attach, Attached, Hook, Kernel, Probe},
};

/// See the module.
pub static PROBE: Probe = Probe {
    name: "page_faults",
    summary: "page faults, by whether the page is on the NUMA node of the CPU",
    fields: &[
        "task_flags",
        "task_cgroups",
        "css_set_subsys",
        "css_id",
        "css_serial_nr",
        "css_cgroup",
        "cgroup_kn",
        "kernfs_id",
        "page_flags",
    ],
    hooks: &[
        Hook {
            name: FIRST_TOUCH,
            required: false,
            alternatives: &[
                alternative(
                    &[Attach::Fentry(
                        "folio_add_new_anon_rmap",
                        "folio_add_new_anon_rmap",
                    )],
                    &[],
                    no_node_or_task,
                ),
                alternative(
                    &[Attach::Fentry(
                        "page_add_new_anon_rmap",
                        "page_add_new_anon_rmap",
                    )],
                    &[],
                    no_node_or_task,
                ),
                alternative(
                    &[Attach::Fentry(
                        "page_add_new_anon_rmap_5_10",
                        "page_add_new_anon_rmap",
                    )],
                    &[],
                    no_node,
                ),
                alternative(
                    &[Attach::Kprobe(
                        "kprobe_folio_add_new_anon_rmap",
                        "folio_add_new_anon_rmap",
                    )],
                    &[],
                    no_node,
                ),
                alternative(
                    &[Attach::Kprobe(
                        "kprobe_page_add_new_anon_rmap",
                        "page_add_new_anon_rmap",
                    )],
                    &[],
                    no_node,
                ),
                alternative(
                    &[Attach::TpBtf("mm_page_alloc", "mm_page_alloc")],
                    &["task_in_user_fault"],
                    |kernel| no_node_or_task(kernel).or_else(|| no_allocations(kernel)),
                ),
                alternative(
                    &[Attach::TpBtf("mm_page_alloc_5_10", "mm_page_alloc")],
                    &["task_in_user_fault"],
                    |kernel| no_node(kernel).or_else(|| no_allocations(kernel)),
                ),
            ],
        },
        Hook {
            name: FILE_MAPPING,
            required: false,
            alternatives: &[
                alternative(
                    &[Attach::Fentry("set_pte_range", "set_pte_range")],
                    FILE_FIELDS,
                    no_node_or_task,
                ),
                alternative(
                    &[Attach::Fentry("do_set_pte", "do_set_pte")],
                    FILE_FIELDS,
                    no_node_or_task,
                ),
                alternative(
                    &[Attach::Fentry("alloc_set_pte", "alloc_set_pte")],
                    FILE_FIELDS,
                    no_node,
                ),
                alternative(
                    &[Attach::Kprobe("kprobe_set_pte_range", "set_pte_range")],
                    FILE_FIELDS,
                    no_node,
                ),
                alternative(
                    &[Attach::Kprobe("kprobe_do_set_pte", "do_set_pte")],
                    FILE_FIELDS,
                    no_node,
                ),
                alternative(
                    &[Attach::Kprobe("kprobe_alloc_set_pte", "alloc_set_pte")],
                    FILE_FIELDS,
                    no_node,
                ),
            ],
        },
        Hook {
            name: HINTING,
            required: false,
            alternatives: &[
                alternative(
                    &[Attach::Fentry("task_numa_fault", "task_numa_fault")],
                    &[],
                    |kernel| no_hinting(kernel).or_else(|| no_typed_task(kernel)),
                ),
                alternative(
                    &[Attach::Fentry("task_numa_fault_5_10", "task_numa_fault")],
                    &[],
                    no_hinting,
                ),
                alternative(
                    &[Attach::Kprobe("kprobe_task_numa_fault", "task_numa_fault")],
                    &[],
                    no_hinting,
                ),
            ],
        },
    ],
    metrics: &[
        &FIRST_TOUCH_FAULTS,
        &FIRST_TOUCH_PAGES,
        &FILE_MAP_FAULTS,
        &FILE_MAP_PAGES,
        &HINTING_FAULTS,
    ],
    map_sizes: |host: &Host| {
        vec![
            ("CELLS", cell_place(host.slots, 0, host.cpus)),
            ("RETIRED", host.cpus),
        ]
    },
    prepare: None,
    open: |ebpf, kernel, attached| {
        Ok(Box::new(PageFaults {
            cells: Mapped::open(ebpf, "CELLS")?,
            retired: Mapped::open(ebpf, "RETIRED")?,
            families: families(kernel, attached),
        }))
    },
};

const FIRST_TOUCH: &str = "first touch";
const FILE_MAPPING: &str = "file mapping";
const HINTING: &str = "hinting";

const FILE_FIELDS: &[&str] = &[
    "vm_fault_flags",
    "vm_fault_vma",
    "vm_fault_pgoff",
    "vm_fault_address",
    "vma_flags",
    "vma_start",
    "vma_pgoff",
];

static FIRST_TOUCH_FAULTS: Metric = Metric {
    name: "stallscope_first_touch_faults_total",
    kind: Kind::Counter,
    help: "Page faults that placed new memory (first write, copy on write, huge page), by whether it is on the NUMA node of the CPU that faulted. Where it is counted by mm_page_alloc (see stallscope_probe_hook_status), a page of a file allocated in the fault counts as well, and faults from kernel mode do not.",
    labels: &["locality"],
    scope: Scope::Owner,
    source: "`folio_add_new_anon_rmap`, `page_add_new_anon_rmap` (`mm/rmap.c`), or `mm_page_alloc` within a user fault: node in `page->flags`",
};

static FIRST_TOUCH_PAGES: Metric = Metric {
    name: "stallscope_first_touch_pages_total",
    kind: Kind::Counter,
    help: "Base pages placed by the faults of stallscope_first_touch_faults_total; a huge page counts as the base pages it is made of.",
    labels: &["locality"],
    scope: Scope::Owner,
    source: "as stallscope_first_touch_faults_total: size of the folio",
};

static FILE_MAP_FAULTS: Metric = Metric {
    name: "stallscope_file_map_faults_total",
    kind: Kind::Counter,
    help: "Page faults that mapped a page of a file or of shared memory, by whether the page is on the NUMA node of the CPU that faulted; private writes are copies and count as first touch.",
    labels: &["locality"],
    scope: Scope::Owner,
    source: "`set_pte_range`, `do_set_pte` or `alloc_set_pte` (`mm/memory.c`): node in `page->flags`",
};

static FILE_MAP_PAGES: Metric = Metric {
    name: "stallscope_file_map_pages_total",
    kind: Kind::Counter,
    help: "Base pages mapped by page faults on files and shared memory, those around the page of the fault included.",
    labels: &["locality"],
    scope: Scope::Owner,
    source: "as stallscope_file_map_faults_total",
};

static HINTING_FAULTS: Metric = Metric {
    name: "stallscope_numa_hinting_faults_total",
    kind: Kind::Counter,
    help: "NUMA-hinting faults, by whether the page was on the NUMA node of the CPU that touched it: a sample that the kernel takes for NUMA balancing, at a rate of its own, so not a ratio of accesses.",
    labels: &["locality"],
    scope: Scope::Owner,
    source: "`task_numa_fault` (`kernel/sched/fair.c`): `TNF_FAULT_LOCAL`",
};

const fn alternative(
    programs: &'static [Attach],
    fields: &'static [&'static str],
    unsupported: fn(&Kernel) -> Option<String>,
) -> Alternative {
    Alternative {
        programs,
        fields,
        unsupported: Some(unsupported),
    }
}

/// Why the node of a page cannot be told. With one node there is nothing to tell.
fn no_node(kernel: &Kernel) -> Option<String> {
    (kernel.host.nodes > 1 && kernel.btf.page_node_shift().is_none()).then(|| {
        "this kernel's type information does not give away where struct page keeps its NUMA node"
            .to_owned()
    })
}

fn no_typed_task(kernel: &Kernel) -> Option<String> {
    kernel
        .btf
        .enumerator(Enumerator::GET_CURRENT_TASK_BTF)
        .is_none()
        .then(|| {
            "this kernel has no helper bpf_get_current_task_btf (it came with 5.11)".to_owned()
        })
}

fn no_node_or_task(kernel: &Kernel) -> Option<String> {
    no_node(kernel).or_else(|| no_typed_task(kernel))
}

/// Why allocations within faults do not tell first touches: NUMA balancing migrates in the same
/// faults, always to the CPU's own node, and the flags of a huge page's allocation are the same.
fn no_allocations(kernel: &Kernel) -> Option<String> {
    for (name, expected) in [
        (Enumerator::GFP_MOVABLE_BIT, 3),
        (Enumerator::GFP_NORETRY_BIT, 16),
        (Enumerator::GFP_NOMEMALLOC_BIT, 19),
    ] {
        // Only since 6.10 are they in the type information.
        if kernel
            .btf
            .enumerator(name)
            .is_some_and(|bit| bit != expected)
        {
            return Some(format!(
                "tp_btf/mm_page_alloc: this kernel has moved {}",
                name.name()
            ));
        }
    }
    (kernel.host.nodes > 1 && kernel.numa_balancing.is_ok()).then(|| {
        "tp_btf/mm_page_alloc: NUMA balancing is on, whose migrations would count as local first touches"
            .to_owned()
    })
}

fn no_hinting(kernel: &Kernel) -> Option<String> {
    kernel.numa_balancing.clone().err()
}

type Family = (&'static Metric, FaultCount);

/// What can be told with the hooks that attached.
fn families(kernel: &Kernel, attached: &Attached) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    if let Some(alternative) = attached.alternative(FIRST_TOUCH) {
        families.push((&FIRST_TOUCH_FAULTS, FaultCount::FirstTouchFaults));
        let head = kernel.host.page_head_bit < u64::BITS;
        let has = |field| kernel.layout.get(field).is_some();
        let known = match first_touch_by(alternative) {
            Some(Attach::TpBtf(..)) => true,
            Some(
                Attach::Fentry(_, "folio_add_new_anon_rmap")
                | Attach::Kprobe(_, "folio_add_new_anon_rmap"),
            ) => head && has("folio_nr_pages"),
            _ => head && has("page_compound_nr"),
        };
        if known {
            families.push((&FIRST_TOUCH_PAGES, FaultCount::FirstTouchPages));
        }
    }
    if attached.has(FILE_MAPPING) {
        families.push((&FILE_MAP_FAULTS, FaultCount::FileMapFaults));
        families.push((&FILE_MAP_PAGES, FaultCount::FileMapPages));
    }
    if attached.has(HINTING) {
        families.push((&HINTING_FAULTS, FaultCount::HintingFaults));
    }
    families
}

fn first_touch_by(alternative: usize) -> Option<Attach> {
    let hook = PROBE.hooks.iter().find(|hook| hook.name == FIRST_TOUCH)?;
    hook.alternatives
        .get(alternative)?
        .programs
        .first()
        .copied()
}

struct PageFaults {
    cells: Mapped<FaultCell>,
    retired: Mapped<FaultCell>,
    families: Vec<Family>,
}

/// Places in a row: the events, by which the ledger notices cells that began afresh, then the
/// counts, which wrap.
const COUNTS: usize = 1;

fn add(row: &mut [u64], cell: &FaultCell) {
    let parts = std::iter::once(cell.events).chain(cell.counts.map(u64::from));
    for (sum, part) in row.iter_mut().zip(parts) {
        *sum = sum.wrapping_add(part);
    }
}

impl Collector for PageFaults {
    fn columns(&self) -> Columns {
        Columns {
            width: COUNTS + FAULT_COUNTS,
            wrapping: FAULT_COUNTS,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        // Retired cells first: what is retired meanwhile is short once instead of counted twice.
        let cpus = self.retired.len();
        for cell in (0..cpus).filter_map(|cpu| self.retired.get(cpu)) {
            add(rows.retired(), &cell);
        }
        for place in 0..self.cells.len() {
            let overflow = is_beyond_slots(place, cpus);
            if !overflow && self.cells.first_word(place) == Some(0) {
                continue;
            }
            if let Some(cell) = self.cells.get(place)
                // Taken over while it was copied: the next reading has it whole.
                && self.cells.first_word(place) == Some(cell.cgroup)
                && (!overflow || cell.events != 0)
            {
                add(rows.row(CgroupId(cell.cgroup)), &cell);
            }
        }
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        let words = |what: &FaultCount| {
            let local = COUNTS + *what as usize;
            match what {
                FaultCount::FirstTouchFaults | FaultCount::FileMapFaults => vec![
                    (Quantity::LocalFaults, local),
                    (Quantity::RemoteFaults, local + 1),
                ],
                FaultCount::HintingFaults => vec![
                    (Quantity::LocalHints, local),
                    (Quantity::RemoteHints, local + 1),
                ],
                FaultCount::FirstTouchPages | FaultCount::FileMapPages => Vec::new(),
            }
        };
        self.families
            .iter()
            .flat_map(|(_, what)| words(what))
            .collect()
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        for (metric, what) in &self.families {
            let mut family = out.family(metric);
            let local = COUNTS + *what as usize;
            for (labels, row) in &owners.rows {
                family.sample(Some(labels), &["local"], Value::Count(row[local]));
                family.sample(Some(labels), &["remote"], Value::Count(row[local + 1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_fills_its_row_in_order() {
        let mut cell = FaultCell {
            events: 9,
            ..FaultCell::default()
        };
        cell.count(FaultCount::HintingFaults, true, 4);
        cell.count(FaultCount::FirstTouchFaults, false, 5);
        let mut row = vec![0; COUNTS + FAULT_COUNTS];
        add(&mut row, &cell);
        add(&mut row, &cell);
        assert_eq!(row[0], 18);
        assert_eq!(row[COUNTS + FaultCount::FirstTouchFaults as usize], 10);
        assert_eq!(row[COUNTS + FaultCount::HintingFaults as usize + 1], 8);
        assert_eq!(row.iter().sum::<u64>(), 36);
    }
}
