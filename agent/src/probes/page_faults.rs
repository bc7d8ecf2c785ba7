//! Page faults by locality: new memory, pages of files, and what NUMA balancing samples.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
};
use stallscope_ebpf::{
    FAULT_COUNTS, FaultCell, FaultCount, HINTED_CGROUPS, Hints, Host, fault_lost as reason,
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
        cells::{self, Cells},
        collector::{Collector, LastReading, OwnerRows},
        mapped_array::Mapped,
    },
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
        let more = [("HINTS", if host.nodes > 1 { HINTED_CGROUPS } else { 1 })];
        [
            cells::map_sizes(host, if host.file_slots == 0 { 1 } else { 2 }),
            more.into(),
        ]
        .concat()
    },
    prepare: None,
    open: |ebpf, kernel, attached| {
        Ok(Box::new(PageFaults {
            cells: Cells::open(ebpf, &kernel.host)?,
            hinted: attached
                .has(HINTING)
                .then(|| Hinted::open(ebpf))
                .transpose()?,
            lost: Mapped::open(ebpf, "LOST")?,
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

/// Returns the reason why the node of a page cannot be told. With one node there is nothing to tell.
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

/// Returns the reason why allocations within faults do not tell first touches: NUMA balancing
/// migrates in the same faults, always to the CPU's own node, and the flags of a huge page's
/// allocation are the same.
fn no_allocations(kernel: &Kernel) -> Option<String> {
    for (name, expected) in [
        (Enumerator::GFP_MOVABLE_BIT, 3),
        (Enumerator::GFP_NORETRY_BIT, 16),
        (Enumerator::GFP_NOMEMALLOC_BIT, 19),
    ] {
        // The type information has them only since 6.10.
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

/// A family, and the place of its local counts in a row; the remote ones follow.
type Family = (&'static Metric, usize);

const fn place(what: FaultCount) -> usize {
    COUNTS + what as usize
}

/// Families that the hooks that attached can fill.
fn families(kernel: &Kernel, attached: &Attached) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    if let Some(alternative) = attached.alternative(FIRST_TOUCH) {
        families.push((&FIRST_TOUCH_FAULTS, place(FaultCount::FirstTouchFaults)));
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
            families.push((&FIRST_TOUCH_PAGES, place(FaultCount::FirstTouchPages)));
        }
    }
    if attached.has(FILE_MAPPING) {
        families.push((&FILE_MAP_FAULTS, place(FaultCount::FileMapFaults)));
        families.push((&FILE_MAP_PAGES, place(FaultCount::FileMapPages)));
    }
    if attached.has(HINTING) {
        families.push((&HINTING_FAULTS, HINTS));
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
    cells: Cells<FaultCell>,
    /// `None` where hinting faults are not seen.
    hinted: Option<Hinted>,
    lost: Mapped<u64>,
    families: Vec<Family>,
}

/// Places in a row: hinting faults; the events, by which the ledger notices cells that started
/// afresh; then the counts, which wrap.
const HINTS: usize = 0;
const EVENTS: usize = HINTS + 2;
const COUNTS: usize = EVENTS + 1;

fn add(row: &mut [u64], cell: &FaultCell) {
    let parts = std::iter::once(cell.events).chain(cell.counts.map(u64::from));
    for (sum, part) in row[EVENTS..].iter_mut().zip(parts) {
        *sum = sum.wrapping_add(part);
    }
}

/// The table of hinting faults.
struct Hinted {
    map: HashMap<MapData, u64, Hints>,
    /// Sums of deleted entries.
    retired: Hints,
}

impl Hinted {
    fn open(ebpf: &Ebpf) -> anyhow::Result<Self> {
        let Some(Map::HashMap(data)) = ebpf.map("HINTS") else {
            anyhow::bail!("the object has no hash `HINTS`");
        };
        // A descriptor of our own: the map stays with the programs, so that its memory is accounted.
        let fd = data.fd().as_fd().try_clone_to_owned();
        let data = fd
            .map_err(anyhow::Error::from)
            .and_then(|fd| Ok(MapData::from_fd(fd)?))
            .context("cannot open the map `HINTS`")?;
        Ok(Self {
            map: Map::HashMap(data).try_into()?,
            retired: Hints::default(),
        })
    }

    fn read(&self, rows: &mut Rows) {
        add_hints(rows.retired(), &self.retired);
        for (id, hints) in self.map.iter().flatten() {
            add_hints(rows.row(CgroupId(id)), &hints);
        }
    }

    /// Deletes the entry of a cgroup. It has ended, so nothing is added to it meanwhile.
    fn retire(&mut self, gone: CgroupId) {
        if let Ok(hints) = self.map.get(&gone.0, 0)
            && self.map.remove(&gone.0).is_ok()
        {
            add_to(&mut self.retired.by_locality, &hints);
        }
    }
}

fn add_hints(row: &mut [u64], hints: &Hints) {
    add_to(&mut row[HINTS..EVENTS], hints);
}

fn add_to(sums: &mut [u64], hints: &Hints) {
    for (sum, part) in sums.iter_mut().zip(hints.by_locality) {
        *sum += part;
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
        self.cells.read(rows, |row, cell, _| add(row, cell));
        if let Some(hinted) = &self.hinted {
            hinted.read(rows);
        }
    }

    fn grow(&mut self, larger: &Ebpf, host: &Host) -> anyhow::Result<LastReading> {
        let last = std::mem::replace(&mut self.cells, Cells::open(larger, host)?);
        Ok(Box::new(move |rows| {
            last.read_slots(rows, |row, cell, _| add(row, cell));
        }))
    }

    fn forget(&mut self, gone: &[CgroupId], _rows: &mut Rows) {
        if let Some(hinted) = &mut self.hinted {
            for id in gone {
                hinted.retire(*id);
            }
        }
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        if self.hinted.is_none() {
            return Vec::new();
        }
        let counts = reason::REASONS.into_iter().enumerate();
        counts
            .map(|(i, reason)| (reason, self.lost.get(i).unwrap_or(0)))
            .collect()
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        const FIRST_TOUCHES: usize = place(FaultCount::FirstTouchFaults);
        const FILE_MAPS: usize = place(FaultCount::FileMapFaults);
        let words = |local: usize| match local {
            FIRST_TOUCHES | FILE_MAPS => vec![
                (Quantity::LocalFaults, local),
                (Quantity::RemoteFaults, local + 1),
            ],
            HINTS => vec![
                (Quantity::LocalHints, local),
                (Quantity::RemoteHints, local + 1),
            ],
            _ => Vec::new(),
        };
        self.families
            .iter()
            .flat_map(|(_, local)| words(*local))
            .collect()
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        for (metric, local) in &self.families {
            let mut family = out.family(metric);
            for (labels, row) in &owners.rows {
                family.sample(Some(labels), &["local"], Value::Count(row[*local]));
                family.sample(Some(labels), &["remote"], Value::Count(row[*local + 1]));
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
        cell.count(FaultCount::FileMapPages, true, 4);
        cell.count(FaultCount::FirstTouchFaults, false, 5);
        let mut row = vec![0; COUNTS + FAULT_COUNTS];
        add(&mut row, &cell);
        add(&mut row, &cell);
        let hints = Hints {
            by_locality: [2, 3],
        };
        add_hints(&mut row, &hints);
        assert_eq!(row[HINTS..EVENTS], [2, 3]);
        assert_eq!(row[EVENTS], 18);
        assert_eq!(row[place(FaultCount::FirstTouchFaults)], 10);
        assert_eq!(row[place(FaultCount::FileMapPages) + 1], 8);
        assert_eq!(row.iter().sum::<u64>(), 41);
    }
}
