//! Arguments that programs take from their hooks, with their types.

use stallscope::host::btf::Argument;

/// Type that a program expects of an argument.
#[derive(Clone, Copy, Debug)]
pub enum Taken {
    /// A pointer to this structure.
    Pointer(&'static str),
    /// A number with this many bytes.
    Scalar(u32),
}

use Taken::{Pointer, Scalar};

impl Taken {
    /// Returns whether the kernel passes an argument of this type.
    pub fn is(self, passed: &Argument) -> bool {
        match (self, passed) {
            (Pointer(name), Argument::Pointer(passed)) => name == passed,
            (Scalar(bytes), Argument::Scalar(passed)) => bytes == *passed,
            _ => false,
        }
    }
}

type Arguments = &'static [(usize, Taken)];

const TASKS: Arguments = &[
    (0, Scalar(1)),
    (1, Pointer("task_struct")),
    (2, Pointer("task_struct")),
];
const ALLOCATED: Arguments = &[(0, Pointer("page")), (1, Scalar(4)), (2, Scalar(4))];
const FOLIO: Arguments = &[(0, Pointer("folio"))];
const PAGE: Arguments = &[(0, Pointer("page"))];
const RANGE: Arguments = &[
    (0, Pointer("vm_fault")),
    (2, Pointer("page")),
    (3, Scalar(4)),
    (4, Scalar(8)),
];
const AT_ADDRESS: Arguments = &[
    (0, Pointer("vm_fault")),
    (1, Pointer("page")),
    (2, Scalar(8)),
];
const OF_FAULT: Arguments = &[(0, Pointer("vm_fault")), (1, Pointer("page"))];
const FLAGS: Arguments = &[(3, Scalar(4))];
const RUN_QUEUE: Arguments = &[(0, Pointer("cfs_rq"))];

/// Returns the arguments that a program takes, by position.
pub fn taken(probe: &str, program: &str) -> Arguments {
    match (probe, program) {
        ("cpu_wait", "sched_switch") => TASKS,
        ("cpu_wait", "sched_migrate_task") => &[(0, Pointer("task_struct"))],
        ("task_migrations", "sched_migrate_task") => &[(0, Pointer("task_struct")), (1, Scalar(4))],
        (_, "mm_page_alloc" | "mm_page_alloc_5_10") => ALLOCATED,
        (_, "folio_add_new_anon_rmap" | "kprobe_folio_add_new_anon_rmap") => FOLIO,
        (
            _,
            "page_add_new_anon_rmap"
            | "page_add_new_anon_rmap_5_10"
            | "kprobe_page_add_new_anon_rmap",
        ) => PAGE,
        (_, "set_pte_range" | "kprobe_set_pte_range") => RANGE,
        (_, "do_set_pte" | "kprobe_do_set_pte") => AT_ADDRESS,
        (_, "alloc_set_pte" | "kprobe_alloc_set_pte") => OF_FAULT,
        (_, "task_numa_fault" | "task_numa_fault_5_10" | "kprobe_task_numa_fault") => FLAGS,
        (_, "unthrottle_cfs_rq" | "unthrottle_cfs_rq_exit" | "unthrottle_cfs_rq_probed") => {
            RUN_QUEUE
        }
        // Programs of reclaim and at the return of a function use the current task instead of arguments.
        _ => &[],
    }
}
