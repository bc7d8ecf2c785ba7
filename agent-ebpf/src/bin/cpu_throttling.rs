//! Length of single CFS throttles, by the cgroup whose quota ran out.
//!
//! At the entry of `unthrottle_cfs_rq` the run queue still knows since when it was throttled, and at
//! the exit `rq->clock` is up to date: the difference is what the kernel itself adds to `cpu.stat`.
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

/// What was counted, by kernfs id: a hash, because few cgroups have a quota and a throttle ends at
/// most once a period on each CPU.
#[map]
static LENGTHS: HashMap<u64, Lengths> = HashMap::with_max_entries(4096, 0);
/// By CPU: what its `unthrottle_cfs_rq` found. The function runs with interrupts off, so that there
/// is one at a time.
#[map]
static UNTHROTTLING: Array<Unthrottling> = Array::with_max_entries(1, 0);
/// What could not be counted, by reason.
#[map]
static LOST: Array<u64> = Array::with_max_entries(reason::REASONS.len() as u32, BPF_F_MMAPABLE);

#[inline(always)]
fn enter<A: Access>(cfs_rq: CfsRq<A>) {
    let Some(entry) = UNTHROTTLING.get_ptr_mut(slot::this_cpu()) else {
        return;
    };
    let since = cfs_rq.throttled_clock();
    // SAFETY: this CPU's entry, with interrupts off.
    unsafe {
        (*entry).cfs_rq = cfs_rq.key();
        // Since 6.6 a run queue throttled with nothing on it has no start: the kernel counts no time.
        (*entry).since_ns = if cfs_rq.throttled() { since } else { 0 };
    }
}

#[inline(always)]
fn exit<A: Access>(entry: *mut Unthrottling, cfs_rq: CfsRq<A>) {
    // SAFETY: this CPU's entry, with interrupts off.
    let since = unsafe {
        (*entry).cfs_rq = 0;
        (*entry).since_ns
    };
    // Since 6.18 it may leave a run queue throttled whose time was used up by others meanwhile.
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

/// This CPU's entry, if the function that ends here was seen to begin.
#[inline(always)]
fn begun() -> Option<*mut Unthrottling> {
    let entry = UNTHROTTLING.get_ptr_mut(slot::this_cpu())?;
    // SAFETY: this CPU's entry, with interrupts off.
    unsafe { (*entry).cfs_rq != 0 }.then_some(entry)
}

/// A throttle is about to end.
#[fentry(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's argument.
    enter(unsafe { CfsRq::<Typed>::new(ctx.arg(0)) });
    0
}

/// A throttle has ended.
#[fexit(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_exit(ctx: FExitContext) -> i32 {
    if let Some(entry) = begun() {
        // SAFETY: the function's argument.
        exit(entry, unsafe { CfsRq::<Typed>::new(ctx.arg(0)) });
    }
    0
}

/// A throttle is about to end.
#[kprobe(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_probed(ctx: ProbeContext) -> u32 {
    if let Some(cfs_rq) = ctx.arg::<*const u8>(0) {
        // SAFETY: the function's argument.
        enter(unsafe { CfsRq::<Probed>::new(cfs_rq) });
    }
    0
}

/// A throttle has ended. The argument's register holds something else by now.
#[kretprobe(function = "unthrottle_cfs_rq")]
pub fn unthrottle_cfs_rq_probed_exit(_ctx: RetProbeContext) -> u32 {
    if let Some(entry) = begun() {
        // SAFETY: the address that the function was given.
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

/// The licence of what is loaded into the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
