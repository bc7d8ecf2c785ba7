//! Length of single CFS throttles, by the cgroup whose quota ran out.
//!
//! At the entry of `unthrottle_cfs_rq` the run queue still holds the start of its throttle, and at
//! the exit `rq->clock` is up to date. The difference is what the kernel itself adds to `cpu.stat`.
//! (At the entry the clock is stale, which loses up to 85 % on old kernels.)
#![no_std]
#![no_main]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya passes contexts by value"
)]
#![allow(missing_docs, reason = "aya's macros make public functions")]

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::{fentry, fexit, kprobe, kretprobe, map},
    maps::{Array, HashMap},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use stallscope_ebpf::{
    Lengths, Unthrottling,
    kernel::{Access, CfsRq, Probed, Typed},
    lengths, slot, throttle_lost as reason,
};

/// Lengths of throttles, by kernfs id of the cgroup. A hash, because few cgroups have a quota and a
/// throttle ends at most once a period on each CPU.
#[map]
static LENGTHS: HashMap<u64, Lengths> = HashMap::with_max_entries(4096, 0);
/// The `unthrottle_cfs_rq` under way on each CPU. There is one at a time, because the function runs
/// with interrupts off.
#[map]
static UNTHROTTLING: Array<Unthrottling> = Array::with_max_entries(1, 0);
/// Throttles that could not be counted, by reason.
#[map]
static LOST: Array<u64> = Array::with_max_entries(reason::REASONS.len() as u32, BPF_F_MMAPABLE);

#[inline(always)]
fn enter<A: Access>(cfs_rq: CfsRq<A>) {
    let Some(entry) = UNTHROTTLING.get_ptr_mut(slot::this_cpu()) else {
        return;
    };
    let since = cfs_rq.throttled_clock();
    // SAFETY: a pointer to this CPU's entry, which no other CPU uses; interrupts are off, so nothing
    // comes in between.
    unsafe {
        (*entry).cfs_rq = cfs_rq.key();
        // Since 6.6 a run queue that was empty when it was throttled has no start: the kernel counts
        // no time for it.
        (*entry).since_ns = if cfs_rq.throttled() { since } else { 0 };
    }
}

#[inline(always)]
fn exit<A: Access>(entry: *mut Unthrottling, cfs_rq: CfsRq<A>) {
    // SAFETY: a pointer to this CPU's entry, which no other CPU uses; interrupts are off, so nothing
    // comes in between.
    let since = unsafe {
        (*entry).cfs_rq = 0;
        (*entry).since_ns
    };
    // Since 6.18 the function may leave a run queue throttled whose time others used up meanwhile.
    if since == 0 || cfs_rq.throttled() {
        return;
    }
    let now = cfs_rq.rq().clock();
    let group = cfs_rq.tg();
    let cgroup = group.css().cgroup();
    if cgroup.is_null() {
        lengths::lost(&LOST, reason::UNNAMED);
        return;
    }
    let id = cgroup.kn().id();
    if !lengths::record(&LENGTHS, &id, now.saturating_sub(since)) {
        lengths::lost(&LOST, reason::CGROUPS);
    }
}

/// Returns this CPU's entry, if the function that ends here was seen to begin.
#[inline(always)]
fn begun() -> Option<*mut Unthrottling> {
    let entry = UNTHROTTLING.get_ptr_mut(slot::this_cpu())?;
    // SAFETY: a pointer to this CPU's entry, which no other CPU uses; interrupts are off, so nothing
    // comes in between.
    unsafe { (*entry).cfs_rq != 0 }.then_some(entry)
}

/// Notes the start of a throttle that is about to end.
#[fentry(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq(ctx: FEntryContext) -> i32 {
    // SAFETY: argument 0 of `unthrottle_cfs_rq` is a `struct cfs_rq *`, which the verifier knows by
    // its BTF type.
    enter(unsafe { CfsRq::<Typed>::new(ctx.arg(0)) });
    0
}

/// Counts the length of a throttle that has ended.
#[fexit(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_exit(ctx: FExitContext) -> i32 {
    if let Some(entry) = begun() {
        // SAFETY: argument 0 of `unthrottle_cfs_rq` is a `struct cfs_rq *`, which the verifier knows
        // by its BTF type.
        exit(entry, unsafe { CfsRq::<Typed>::new(ctx.arg(0)) });
    }
    0
}

/// Notes the start of a throttle that is about to end.
#[kprobe(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_probed(ctx: ProbeContext) -> u32 {
    if let Some(cfs_rq) = ctx.arg::<*const u8>(0) {
        // SAFETY: argument 0 of `unthrottle_cfs_rq` is a `struct cfs_rq *`.
        enter(unsafe { CfsRq::<Probed>::new(cfs_rq) });
    }
    0
}

/// Counts the length of a throttle that has ended. The argument's register holds something else by
/// now, so the address is the one that the program at the entry noted.
#[kretprobe(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_probed_exit(_ctx: RetProbeContext) -> u32 {
    if let Some(entry) = begun() {
        // SAFETY: the `struct cfs_rq *` that the function was given, noted at its entry.
        exit(entry, unsafe {
            CfsRq::<Probed>::new((*entry).cfs_rq as *const u8)
        });
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
