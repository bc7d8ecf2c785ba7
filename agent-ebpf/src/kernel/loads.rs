//! Loads from kernel memory by the offsets of `LAYOUT`.

use core::{marker::PhantomData, ptr::addr_of};

use aya_ebpf::helpers::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel};

use super::{ABSENT, Layout};
use crate::{Host, page_node};

#[unsafe(no_mangle)]
static LAYOUT: Layout = Layout::NONE;
#[unsafe(no_mangle)]
static HOST: Host = Host {
    cpus: 1,
    slots: 1,
    task_mask: 0,
    task_bits: 0,
    page_node_shift: 0,
    nodes: 1,
    in_user_fault_bit: 0,
    page_shift: 0,
    page_head_bit: ABSENT,
    file_slots: 0,
    generation: 0,
    direct_slots: 1,
};

/// Defines a function that reads a constant of [`Host`].
macro_rules! host {
    ($field:ident) => {
        /// See the field of the same name in [`Host`].
        #[inline(always)]
        #[must_use]
        pub fn $field() -> u32 {
            constant(addr_of!(HOST.$field))
        }
    };
}
host!(cpus);
host!(slots);
host!(direct_slots);
host!(task_mask);
host!(task_bits);
host!(page_node_shift);
host!(nodes);
host!(in_user_fault_bit);
host!(page_shift);
host!(page_head_bit);
host!(file_slots);
host!(generation);

macro_rules! offset {
    ($field:ident) => {
        constant(addr_of!(LAYOUT.$field))
    };
}

/// Reads one of the statics above: volatile, because the agent puts the values in place at load
/// time.
#[inline(always)]
fn constant(field: *const u32) -> u32 {
    // SAFETY: only called with fields of the two statics, which are aligned and live as long as the
    // program.
    unsafe { field.read_volatile() }
}

/// A way to read kernel memory.
pub trait Access: Copy {
    /// Reads a `T` at `base + offset`; 0 where the kernel's memory cannot be read.
    ///
    /// # Safety
    /// `base` is a kernel pointer of the structure the offset was resolved for.
    unsafe fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T;
}

/// Direct loads through pointers whose BTF type the verifier knows.
#[derive(Clone, Copy)]
pub struct Typed;
/// `bpf_probe_read_kernel` through any pointer.
#[derive(Clone, Copy)]
pub struct Probed;

impl Access for Typed {
    #[inline(always)]
    unsafe fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: `base` points to the structure that the offset was resolved for, which is what
        // `load` demands. The verifier checks the access by the pointer's BTF type, and a fault
        // reads as 0 (the kernel handles it in its exception table).
        unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
    }
}

impl Access for Probed {
    #[inline(always)]
    unsafe fn load<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the helper checks the address and returns an error where nothing can be read.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }
            .unwrap_or_default()
    }
}

/// A raw pointer with a default, as [`Access::load`] wants one.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Pointer(*const u8);
impl Default for Pointer {
    fn default() -> Self {
        Self(core::ptr::null())
    }
}

macro_rules! structure {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<A>(*const u8, PhantomData<A>);
        impl<A: Access> $name<A> {
            /// Wraps a kernel pointer.
            ///
            /// # Safety
            /// It points to this structure, and is BTF-typed where `A` is [`Typed`].
            #[inline(always)]
            #[must_use]
            pub const unsafe fn new(pointer: *const u8) -> Self {
                Self(pointer, PhantomData)
            }

            /// The address as a number, to tell structures apart.
            #[inline(always)]
            #[must_use]
            pub fn key(self) -> u64 {
                self.0 as u64
            }

            /// Returns whether the pointer is null.
            #[inline(always)]
            #[must_use]
            pub fn is_null(self) -> bool {
                self.0.is_null()
            }
        }
    };
}
macro_rules! field {
    ($structure:ident: $($name:ident $field:ident $type:ty;)+) => {
        impl<A: Access> $structure<A> {$(
            /// The field of the same name in [`Layout`].
            #[inline(always)]
            #[must_use]
            pub fn $name(self) -> $type {
                // SAFETY: `new` was given a pointer to this structure, and the agent resolved the
                // offset for it.
                unsafe { A::load(self.0, offset!($field)) }
            }
        )+}
    };
}
macro_rules! link {
    ($structure:ident: $($name:ident $field:ident $target:ident;)+) => {
        impl<A: Access> $structure<A> {$(
            /// Follows the field of the same name in [`Layout`].
            #[inline(always)]
            #[must_use]
            pub fn $name(self) -> $target<A> {
                // SAFETY: `new` was given a pointer to this structure, the agent resolved the offset
                // for it, and the field points to the target.
                unsafe { $target::new(A::load::<Pointer>(self.0, offset!($field)).0) }
            }
        )+}
    };
}

structure!(/// `struct task_struct`.
    Task);
structure!(/// `struct cfs_rq`.
    CfsRq);
structure!(/// `struct rq`.
    Rq);
structure!(/// `struct task_group`, which begins with its css.
    TaskGroup);
structure!(/// `struct css_set`.
    CssSet);
structure!(/// `struct cgroup_subsys_state`.
    Css);
structure!(/// `struct cgroup`.
    Cgroup);
structure!(/// `struct kernfs_node`.
    KernfsNode);
structure!(/// `struct vm_fault`.
    VmFault);
structure!(/// `struct vm_area_struct`.
    Vma);
structure!(/// `struct page` or, which begins alike, `struct folio`.
    Page);

field!(Task:
    state task_state u32;
    flags task_flags u32;
    pid task_pid u32;
    cpu task_cpu u32;
    prio task_prio u32;
    pcount task_pcount u64;
    run_delay task_run_delay u64;
    last_arrival task_last_arrival u64;
    last_queued task_last_queued u64;
);
link!(Task: cgroups task_cgroups CssSet; cfs_rq task_cfs_rq CfsRq;);
field!(CfsRq: throttled_clock cfs_rq_throttled_clock u64;);
link!(CfsRq: rq cfs_rq_rq Rq; tg cfs_rq_tg TaskGroup;);
field!(Rq: clock rq_clock u64; cpu rq_cpu u32;);
link!(CssSet: css css_set_subsys Css;);
field!(Css: id css_id u32; serial_nr css_serial_nr u64;);
link!(Css: cgroup css_cgroup Cgroup;);
link!(Cgroup: css cgroup_subsys Css; kn cgroup_kn KernfsNode;);
field!(KernfsNode: id kernfs_id u64;);
field!(VmFault: flags vm_fault_flags u32; pgoff vm_fault_pgoff u64; address vm_fault_address u64;);
link!(VmFault: vma vm_fault_vma Vma;);
field!(Vma: flags vma_flags u64; start vma_start u64; pgoff vma_pgoff u64;);
field!(Page: flags page_flags u64;);

impl Task<Typed> {
    /// The task on this CPU. The helper came with 5.11.
    #[inline(always)]
    #[must_use]
    pub fn current() -> Self {
        // SAFETY: the helper has no preconditions and returns a BTF-typed pointer to a task.
        unsafe { Self::new(bpf_get_current_task_btf().cast()) }
    }
}

impl Task<Probed> {
    /// The task on this CPU.
    #[inline(always)]
    #[must_use]
    pub fn current() -> Self {
        // SAFETY: the helper has no preconditions and returns the address of a task.
        unsafe { Self::new(bpf_get_current_task() as *const u8) }
    }
}

impl<A: Access> Task<A> {
    /// Returns whether the task is in a page fault from user mode.
    #[inline(always)]
    #[must_use]
    pub fn in_user_fault(self) -> bool {
        // SAFETY: `new` was given a pointer to a task, and the agent resolved the offset for it.
        let unit: u32 = unsafe { A::load(self.0, offset!(task_in_user_fault)) };
        unit >> in_user_fault_bit() & 1 != 0
    }
}

impl<A: Access> Page<A> {
    /// The NUMA node of a page with these flags; 0 where the kernel knows one node only.
    #[inline(always)]
    #[must_use]
    pub fn node(flags: u64) -> u32 {
        page_node(flags, page_node_shift())
    }

    /// Pages of this folio, whose flags these are; 0 where that cannot be told.
    #[inline(always)]
    #[must_use]
    pub fn folio_pages(self, flags: u64) -> u32 {
        // SAFETY: the folio is large, and the offset was resolved for this structure.
        large(flags, offset!(folio_nr_pages), |offset| unsafe {
            A::load(self.0, offset)
        })
    }

    /// Pages of the compound page that begins with this one, whose flags these are; 0 where that
    /// cannot be told.
    #[inline(always)]
    #[must_use]
    pub fn compound_pages(self, flags: u64) -> u32 {
        // No typed load reaches beyond one `struct page`.
        // SAFETY: the page is compound, so a second `struct page` follows.
        large(flags, offset!(page_compound_nr), |offset| unsafe {
            Probed::load(self.0, offset)
        })
    }
}

/// Returns 1, or for the first page of a large folio what `load` finds; 0 where the fields are not
/// known.
#[inline(always)]
fn large(flags: u64, offset: u32, load: impl Fn(u32) -> u32) -> u32 {
    let head = page_head_bit();
    if offset == ABSENT || head >= 64 {
        0
    } else if flags >> head & 1 == 0 {
        1
    } else {
        load(offset)
    }
}

impl<A: Access> Task<A> {
    /// Returns whether the task is parked because its group is throttled; `None` where the kernel
    /// takes whole run queues away instead.
    #[inline(always)]
    #[must_use]
    pub fn parked(self) -> Option<bool> {
        let offset = offset!(task_throttled);
        if offset == ABSENT {
            return None;
        }
        // SAFETY: the offset was resolved for this structure.
        Some(unsafe { A::load::<u8>(self.0, offset) } != 0)
    }

    /// Returns whether the task sleeps though it is on its run queue; never where the kernel takes
    /// sleepers off at once.
    #[inline(always)]
    #[must_use]
    pub fn sleeps_on_queue(self) -> bool {
        let offset = offset!(task_sched_delayed);
        // SAFETY: the offset was resolved for this structure.
        offset != ABSENT && unsafe { A::load::<u8>(self.0, offset) } != 0
    }

    /// Eight bytes of the task's name from byte `start`, as little-endian words hold them.
    #[inline(always)]
    #[must_use]
    pub fn comm(self, start: u32) -> u64 {
        // SAFETY: `comm` is 16 bytes long, and `start` at most 8.
        unsafe { A::load(self.0, offset!(task_comm) + start) }
    }
}

impl<A: Access> TaskGroup<A> {
    /// The css of the cpu controller inside it.
    #[inline(always)]
    #[must_use]
    pub fn css(self) -> Css<A> {
        // SAFETY: the offset was resolved for this structure, which holds the css itself.
        unsafe { Css::new(self.0.wrapping_add(offset!(tg_css) as usize)) }
    }
}

impl<A: Access> CfsRq<A> {
    /// Returns whether this very run queue is throttled.
    #[inline(always)]
    #[must_use]
    pub fn throttled(self) -> bool {
        let bits = offset!(cfs_rq_throttled);
        // SAFETY: the offset was resolved for this structure. Little-endian, so that an `int`
        // of 0 or 1 is told by its first byte as a single bit is.
        let byte: u8 = unsafe { A::load(self.0, bits / 8) };
        byte >> (bits % 8) & 1 != 0
    }

    /// Depth of throttled ancestors, itself included; 0 where the kernel is built without quotas.
    #[inline(always)]
    #[must_use]
    pub fn throttle_count(self) -> u32 {
        let offset = offset!(cfs_rq_throttle_count);
        if offset == ABSENT {
            return 0;
        }
        // SAFETY: the offset was resolved for this structure.
        unsafe { A::load(self.0, offset) }
    }

    /// Total time it was throttled, in nanoseconds; 0 where the kernel has no such field.
    #[inline(always)]
    #[must_use]
    pub fn throttled_time(self) -> u64 {
        let offset = offset!(cfs_rq_throttled_time);
        if offset == ABSENT {
            return 0;
        }
        // SAFETY: the offset was resolved for this structure.
        unsafe { A::load(self.0, offset) }
    }
}
