//! The only place that knows kernel structures: which fields the programs use, and how they load
//! them.
//!
//! The agent resolves each field in the running kernel's BTF and passes the offsets as the read-only
//! global `LAYOUT`. The map behind it is frozen, so the verifier sees constants, and pointer + offset
//! on a BTF-typed pointer stays a typed pointer: in `tp_btf` and `fentry` programs loads are direct.
//! kprobes have untyped pointers and read through `bpf_probe_read_kernel`.

/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident: $structure:literal $path:literal,)+) => {
        /// Byte offsets of the kernel fields in use; [`ABSENT`] where this kernel has none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub struct Layout {
            $($(#[$doc])* pub $field: u32,)+
        }

        impl Layout {
            /// A layout of which no field is known.
            pub const NONE: Self = Self { $($field: ABSENT,)+ };

            /// Every field: its name here, the structure, and its path in it. Where kernels
            /// disagree on a name, alternatives are separated by `|`, the newest first.
            pub const FIELDS: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($field), $structure, $path),)+];

            /// Returns the offset of the field with this name; `None` if this kernel has no such
            /// field.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<u32> {
                match name {
                    $(stringify!($field) => (self.$field != ABSENT).then_some(self.$field),)+
                    _ => None,
                }
            }

            /// Sets the offset of the field with this name; false if there is no such field.
            pub fn set(&mut self, name: &str, offset: u32) -> bool {
                match name {
                    $(stringify!($field) => { self.$field = offset; true })+
                    _ => false,
                }
            }
        }
    };
}

layout! {
    /// `volatile long` up to 5.13, `unsigned int` since; the low four bytes say enough.
    task_state: "task_struct" "__state|state",
    /// `PF_*` flags.
    task_flags: "task_struct" "flags",
    /// Thread id in the initial namespace.
    task_pid: "task_struct" "pid",
    /// Effective priority; below 100 is real-time or deadline.
    task_prio: "task_struct" "prio",
    /// Name, 16 bytes.
    task_comm: "task_struct" "comm",
    /// RCU-protected `css_set`.
    task_cgroups: "task_struct" "cgroups",
    /// CPU that the task is on, or was on last: in the task itself up to 5.15.
    task_cpu: "task_struct" "thread_info.cpu|cpu",
    /// The CFS run queue the task belongs to, whatever its class.
    task_cfs_rq: "task_struct" "se.cfs_rq",
    /// Times the task was put on a CPU.
    task_pcount: "task_struct" "sched_info.pcount",
    /// Wait on run queues so far, in nanoseconds: what `/proc/PID/schedstat` shows second.
    task_run_delay: "task_struct" "sched_info.run_delay",
    /// Time at which the task was last put on a CPU.
    task_last_arrival: "task_struct" "sched_info.last_arrival",
    /// Time at which it was last queued; 0 while not waiting.
    task_last_queued: "task_struct" "sched_info.last_queued",
    /// Nonzero while this very task is parked because its group is throttled. Since 6.18 the kernel
    /// parks tasks one by one, as they return to user mode; before, it takes the whole run queue
    /// away.
    task_throttled: "task_struct" "throttled",
    /// Nonzero while the task sleeps and is still on its run queue, which a kernel can do since 6.12.
    task_sched_delayed: "task_struct" "se.sched_delayed",
    /// The unit of bit fields that holds `in_user_fault`.
    task_in_user_fault: "task_struct" "in_user_fault",
    /// The CPU's run queue.
    cfs_rq_rq: "cfs_rq" "rq",
    /// Depth of throttled ancestors, itself included.
    cfs_rq_throttle_count: "cfs_rq" "throttle_count",
    /// Total time it was throttled, by whichever ancestor: wall clock since 6.6, task clock up to
    /// 5.18, PELT clock between.
    cfs_rq_throttled_time: "cfs_rq" "throttled_clock_self_time|throttled_clock_pelt_time|throttled_clock_task_time",
    /// Start of the current throttle of this very run queue.
    cfs_rq_throttled_clock: "cfs_rq" "throttled_clock",
    /// Nonzero while this very run queue is throttled, in *bits*: an `int` up to 6.17, one bit since.
    cfs_rq_throttled: "cfs_rq" "throttled",
    /// The group it belongs to.
    cfs_rq_tg: "cfs_rq" "tg",
    /// The scheduler's clock, updated before each switch.
    rq_clock: "rq" "clock",
    /// CPU number.
    rq_cpu: "rq" "cpu",
    /// The group's css of the cpu controller is its first member.
    tg_css: "task_group" "css",
    /// Array of css by controller; the agent adds the chosen controller's place.
    css_set_subsys: "css_set" "subsys",
    /// Small dense number of the css within its controller.
    css_id: "cgroup_subsys_state" "id",
    /// Number of the css among all that were ever made; the kernel never gives it twice.
    css_serial_nr: "cgroup_subsys_state" "serial_nr",
    /// The cgroup it belongs to.
    css_cgroup: "cgroup_subsys_state" "cgroup",
    /// Array of css by controller; the agent adds the chosen controller's place.
    cgroup_subsys: "cgroup" "subsys",
    /// The directory behind the cgroup.
    cgroup_kn: "cgroup" "kn",
    /// 64-bit id: the inode number of the directory.
    kernfs_id: "kernfs_node" "id",
    /// `FAULT_FLAG_*`.
    vm_fault_flags: "vm_fault" "flags",
    /// The mapping.
    vm_fault_vma: "vm_fault" "vma",
    /// The page of the file that the fault is about.
    vm_fault_pgoff: "vm_fault" "pgoff",
    /// The address of the fault; up to 5.11 that of the page being mapped while faults around it are.
    vm_fault_address: "vm_fault" "address",
    /// `VM_*` flags.
    vma_flags: "vm_area_struct" "vm_flags",
    /// Its first address.
    vma_start: "vm_area_struct" "vm_start",
    /// The page of the file at its first address.
    vma_pgoff: "vm_area_struct" "vm_pgoff",
    /// The flags word, the first of `struct page` and `struct folio` alike.
    page_flags: "page" "flags",
    /// Pages of a large folio.
    folio_nr_pages: "folio" "_nr_pages|_folio_nr_pages",
    /// Pages of a compound page, kept in the second; the agent adds the size of the first.
    page_compound_nr: "page" "compound_nr",
}

/// `FAULT_FLAG_WRITE`: the fault is a write.
pub const FAULT_FLAG_WRITE: u32 = 1;
/// `VM_SHARED`: writes to the mapping reach the file.
pub const VM_SHARED: u64 = 8;
/// `TNF_FAULT_LOCAL`: the page was on the node of the CPU that met the hinting fault.
pub const TNF_FAULT_LOCAL: u32 = 8;
/// `PF_KTHREAD`: a kernel thread.
pub const PF_KTHREAD: u32 = 0x0020_0000;
/// `TASK_DEAD`: the last switch of a task.
pub const TASK_DEAD: u32 = 0x80;
/// Priorities below are real-time or deadline (`MAX_RT_PRIO`).
pub const MAX_RT_PRIO: u32 = 100;

#[cfg(target_arch = "bpf")]
pub use loads::*;

#[cfg(target_arch = "bpf")]
mod loads;
