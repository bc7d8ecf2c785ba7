//! Page faults by locality: whether the page is on the NUMA node of the CPU that faulted.
//!
//! Three facts that must not be one number: the node of new memory, the node of a file's page that a
//! fault mapped, and the findings of the kernel's own sampling (NUMA balancing).
//! `docs/probes/page-faults.md` says what each hook sees on which kernel, and what it does not.
//!
//! Programs of one hook differ in how they reach the page and the task. Typed loads are direct; the
//! helper for a typed current task came with 5.11, so `*_5_10` and the kprobes read by helper.
#![no_std]
#![no_main]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya passes contexts by value"
)]
#![allow(missing_docs, reason = "aya's macros make public functions")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    helpers::bpf_get_numa_node_id,
    macros::{btf_tracepoint, fentry, kprobe, map},
    maps::{Array, HashMap},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use stallscope_ebpf::{
    FaultCell, FaultCount, Hints, fault_lost as reason, file_page, is_among,
    kernel::{
        self, Access, FAULT_FLAG_WRITE, PF_KTHREAD, Page, Probed, TNF_FAULT_LOCAL, Task, Typed,
        VM_SHARED, VmFault,
    },
    lengths, pages_of_order,
    slot::{self, Seat},
};

stallscope_ebpf::cells!(FaultCell);
/// Hinting faults by kernfs id. A hash, because they are few beside other faults and their hook can be
/// preempted: several tasks that add to a cell at once would lose counts, and two of them could take it
/// over at once.
#[map]
static HINTS: HashMap<u64, Hints> = HashMap::with_max_entries(1, 0);
/// Events that could not be counted, by reason.
#[map]
static LOST: Array<u64> = Array::with_max_entries(reason::REASONS.len() as u32, BPF_F_MMAPABLE);

/// `___GFP_MOVABLE`: memory of user space, or of files.
const GFP_MOVABLE: u32 = 1 << 3;
/// `___GFP_NORETRY`.
const GFP_NORETRY: u32 = 1 << 16;
/// `___GFP_NOMEMALLOC`.
const GFP_NOMEMALLOC: u32 = 1 << 19;

/// Returns this CPU's cell of a task in the set of slots that begins at `first`, with this CPU's node
/// in it. `None` for kernel threads, which fault on behalf of others (khugepaged, ksmd).
#[inline(always)]
fn cell<A: Access>(task: Task<A>, first: u32) -> Option<*mut FaultCell> {
    if task.flags() & PF_KTHREAD != 0 {
        return None;
    }
    let cpu = slot::this_cpu();
    if !cells().have_turn(cpu) {
        return None;
    }
    let cell = Seat::of_task(task, cells())
        .in_set(first)
        .cell(cells(), cpu)?;
    // SAFETY: a pointer to this CPU's cell, to which one task after the other adds: see `FaultCell`.
    unsafe {
        if (*cell).node == 0 {
            (*cell).node = bpf_get_numa_node_id().cast_unsigned() as u32 + 1;
        }
        (*cell).events += 1;
    }
    Some(cell)
}

/// Counts new memory: `pages` on the node that the page's flags name.
#[inline(always)]
fn first_touch<A: Access>(task: Task<A>, flags: u64, pages: u32) {
    let Some(cell) = cell(task, 0) else { return };
    // SAFETY: a pointer to this CPU's cell, to which one task after the other adds: see `FaultCell`.
    let cell = unsafe { &mut *cell };
    let remote = Page::<A>::node(flags) + 1 != cell.node;
    cell.count(FaultCount::FirstTouchFaults, remote, 1);
    cell.count(FaultCount::FirstTouchPages, remote, pages);
}

/// Counts `nr` pages of a file, mapped from `address` on. The fault counts with the page it is about;
/// the kernel maps the others on the way.
#[inline(always)]
fn file_map<A: Access, B: Access>(
    task: Task<A>,
    vmf: VmFault<B>,
    page: Page<B>,
    nr: u32,
    address: u64,
) {
    let vma = vmf.vma();
    // A write to a private mapping has made a copy, which the other hook counts.
    if vmf.flags() & FAULT_FLAG_WRITE != 0 && vma.flags() & VM_SHARED == 0 {
        return;
    }
    let first = file_page(address, vma.start(), vma.pgoff(), kernel::page_shift());
    let asked_for = is_among(vmf.pgoff(), first, nr);
    let Some(cell) = cell(task, kernel::file_slots()) else {
        return;
    };
    // SAFETY: a pointer to this CPU's cell, to which one task after the other adds: see `FaultCell`.
    let cell = unsafe { &mut *cell };
    let remote = Page::<B>::node(page.flags()) + 1 != cell.node;
    cell.count(FaultCount::FileMapFaults, remote, u32::from(asked_for));
    cell.count(FaultCount::FileMapPages, remote, nr);
}

/// Counts a hinting fault. Its argument `mem_node` is the node after migration and says nothing; the
/// kernel set the flag before.
#[inline(always)]
fn hinting<A: Access>(task: Task<A>, flags: u32) {
    if task.flags() & PF_KTHREAD != 0 || !cells().have_turn(slot::this_cpu()) {
        return;
    }
    let id = task.cgroups().css().cgroup().kn().id();
    let mut hints = HINTS.get_ptr_mut(id);
    if hints.is_none() {
        // Another task may come first: its entry is found below then.
        let _ = HINTS.insert(id, Hints::default(), u64::from(BPF_NOEXIST));
        hints = HINTS.get_ptr_mut(id);
    }
    let Some(hints) = hints else {
        lengths::lost(&LOST, reason::CGROUPS);
        return;
    };
    let remote = flags & TNF_FAULT_LOCAL == 0;
    // SAFETY: a pointer into the map's value, whose two words are only added to, atomically.
    unsafe {
        let counts = (&raw mut (*hints).by_locality).cast::<u64>();
        lengths::add(counts.add(usize::from(remote)), 1);
    }
}

/// Counts a page allocated in a fault from user mode.
///
/// The flags of the allocation leave out page tables (not movable), read-ahead (`__GFP_NORETRY`), and
/// what NUMA balancing migrates a small page to (both).
#[inline(always)]
fn allocated<A: Access>(task: Task<A>, page: Page<Typed>, order: u32, gfp: u32) {
    let unlike = if order == 0 { 0 } else { gfp & GFP_NOMEMALLOC };
    if gfp & GFP_NORETRY != 0 && unlike == 0 {
        return;
    }
    if page.is_null() || !task.in_user_fault() {
        return;
    }
    first_touch(task, page.flags(), pages_of_order(order));
}

/// First touch by allocation, where the kernel has neither trampolines nor kprobes.
#[btf_tracepoint(function = "mm_page_alloc")]
pub fn mm_page_alloc(ctx: BtfTracePointContext) -> i32 {
    let gfp: u32 = ctx.arg(2);
    if gfp & GFP_MOVABLE != 0 {
        // SAFETY: `mm_page_alloc` passes (page, order, gfp_flags, migratetype) on every kernel.
        let page = unsafe { Page::<Typed>::new(ctx.arg(0)) };
        allocated(Task::<Typed>::current(), page, ctx.arg(1), gfp);
    }
    0
}

#[btf_tracepoint(function = "mm_page_alloc")]
pub fn mm_page_alloc_5_10(ctx: BtfTracePointContext) -> i32 {
    let gfp: u32 = ctx.arg(2);
    if gfp & GFP_MOVABLE != 0 {
        // SAFETY: `mm_page_alloc` passes (page, order, gfp_flags, migratetype) on every kernel.
        let page = unsafe { Page::<Typed>::new(ctx.arg(0)) };
        allocated(Task::<Probed>::current(), page, ctx.arg(1), gfp);
    }
    0
}

/// First touch, since 6.2: `folio_add_new_anon_rmap(folio, vma, address, …)`.
#[fentry(function = "folio_add_new_anon_rmap")]
pub fn folio_add_new_anon_rmap(ctx: FEntryContext) -> i32 {
    // SAFETY: argument 0 is a `struct folio *`, which the verifier knows by its BTF type.
    let folio = unsafe { Page::<Typed>::new(ctx.arg(0)) };
    let flags = folio.flags();
    first_touch(Task::<Typed>::current(), flags, folio.folio_pages(flags));
    0
}

/// First touch, up to 6.1: `page_add_new_anon_rmap(page, vma, address, …)`.
#[fentry(function = "page_add_new_anon_rmap")]
pub fn page_add_new_anon_rmap(ctx: FEntryContext) -> i32 {
    // SAFETY: argument 0 is a `struct page *`, which the verifier knows by its BTF type.
    let page = unsafe { Page::<Typed>::new(ctx.arg(0)) };
    let flags = page.flags();
    first_touch(Task::<Typed>::current(), flags, page.compound_pages(flags));
    0
}

#[fentry(function = "page_add_new_anon_rmap")]
pub fn page_add_new_anon_rmap_5_10(ctx: FEntryContext) -> i32 {
    // SAFETY: argument 0 is a `struct page *`, which the verifier knows by its BTF type.
    let page = unsafe { Page::<Typed>::new(ctx.arg(0)) };
    let flags = page.flags();
    first_touch(Task::<Probed>::current(), flags, page.compound_pages(flags));
    0
}

#[kprobe]
pub fn kprobe_folio_add_new_anon_rmap(ctx: ProbeContext) -> u32 {
    if let Some(folio) = ctx.arg(0) {
        // SAFETY: argument 0 is a `struct folio *`.
        let folio = unsafe { Page::<Probed>::new(folio) };
        let flags = folio.flags();
        first_touch(Task::<Probed>::current(), flags, folio.folio_pages(flags));
    }
    0
}

#[kprobe]
pub fn kprobe_page_add_new_anon_rmap(ctx: ProbeContext) -> u32 {
    if let Some(page) = ctx.arg(0) {
        // SAFETY: argument 0 is a `struct page *`.
        let page = unsafe { Page::<Probed>::new(page) };
        let flags = page.flags();
        first_touch(Task::<Probed>::current(), flags, page.compound_pages(flags));
    }
    0
}

/// File mapping, since 6.6: `set_pte_range(vmf, folio, page, nr, addr)`.
#[fentry(function = "set_pte_range")]
pub fn set_pte_range(ctx: FEntryContext) -> i32 {
    // SAFETY: arguments 0 and 2 are a `struct vm_fault *` and a `struct page *`, which the verifier
    // knows by their BTF types.
    let (vmf, page) = unsafe {
        (
            VmFault::<Typed>::new(ctx.arg(0)),
            Page::<Typed>::new(ctx.arg(2)),
        )
    };
    file_map(Task::<Typed>::current(), vmf, page, ctx.arg(3), ctx.arg(4));
    0
}

/// File mapping, 5.12 to 6.5: `do_set_pte(vmf, page, addr)`.
#[fentry(function = "do_set_pte")]
pub fn do_set_pte(ctx: FEntryContext) -> i32 {
    // SAFETY: arguments 0 and 1 are a `struct vm_fault *` and a `struct page *`, which the verifier
    // knows by their BTF types.
    let (vmf, page) = unsafe {
        (
            VmFault::<Typed>::new(ctx.arg(0)),
            Page::<Typed>::new(ctx.arg(1)),
        )
    };
    file_map(Task::<Typed>::current(), vmf, page, 1, ctx.arg(2));
    0
}

/// File mapping, up to 5.11: `alloc_set_pte(vmf, page)`, which maps at `vmf->address`.
#[fentry(function = "alloc_set_pte")]
pub fn alloc_set_pte(ctx: FEntryContext) -> i32 {
    // SAFETY: arguments 0 and 1 are a `struct vm_fault *` and a `struct page *`, which the verifier
    // knows by their BTF types.
    let (vmf, page) = unsafe {
        (
            VmFault::<Typed>::new(ctx.arg(0)),
            Page::<Typed>::new(ctx.arg(1)),
        )
    };
    file_map(Task::<Probed>::current(), vmf, page, 1, vmf.address());
    0
}

#[kprobe]
pub fn kprobe_set_pte_range(ctx: ProbeContext) -> u32 {
    if let (Some(vmf), Some(page), Some(nr), Some(address)) =
        (ctx.arg(0), ctx.arg(2), ctx.arg(3), ctx.arg(4))
    {
        // SAFETY: arguments 0 and 2 are a `struct vm_fault *` and a `struct page *`.
        let (vmf, page) = unsafe { (VmFault::<Probed>::new(vmf), Page::<Probed>::new(page)) };
        file_map(Task::<Probed>::current(), vmf, page, nr, address);
    }
    0
}

#[kprobe]
pub fn kprobe_do_set_pte(ctx: ProbeContext) -> u32 {
    if let (Some(vmf), Some(page), Some(address)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        // SAFETY: arguments 0 and 1 are a `struct vm_fault *` and a `struct page *`.
        let (vmf, page) = unsafe { (VmFault::<Probed>::new(vmf), Page::<Probed>::new(page)) };
        file_map(Task::<Probed>::current(), vmf, page, 1, address);
    }
    0
}

#[kprobe]
pub fn kprobe_alloc_set_pte(ctx: ProbeContext) -> u32 {
    if let (Some(vmf), Some(page)) = (ctx.arg(0), ctx.arg(1)) {
        // SAFETY: arguments 0 and 1 are a `struct vm_fault *` and a `struct page *`.
        let (vmf, page) = unsafe { (VmFault::<Probed>::new(vmf), Page::<Probed>::new(page)) };
        file_map(Task::<Probed>::current(), vmf, page, 1, vmf.address());
    }
    0
}

/// Hinting: `task_numa_fault(last_cpupid, mem_node, pages, flags)`.
#[fentry(function = "task_numa_fault")]
pub fn task_numa_fault(ctx: FEntryContext) -> i32 {
    hinting(Task::<Typed>::current(), ctx.arg(3));
    0
}

#[fentry(function = "task_numa_fault")]
pub fn task_numa_fault_5_10(ctx: FEntryContext) -> i32 {
    hinting(Task::<Probed>::current(), ctx.arg(3));
    0
}

#[kprobe]
pub fn kprobe_task_numa_fault(ctx: ProbeContext) -> u32 {
    if let Some(flags) = ctx.arg(3) {
        hinting(Task::<Probed>::current(), flags);
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Licence that the kernel checks as it loads the programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
