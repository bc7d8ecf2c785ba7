//! Programs that do nothing, on the hooks of the others: what a hook costs before our work begins.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "aya's macros make public functions")]

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

macro_rules! empty {
    ($($name:ident $tracepoint:literal;)+) => {$(
        /// Does nothing.
        #[btf_tracepoint(function = $tracepoint)]
        pub fn $name(_ctx: BtfTracePointContext) -> i32 {
            0
        }
    )+};
}

empty! {
    sched_switch "sched_switch";
    sched_migrate_task "sched_migrate_task";
    mm_page_alloc "mm_page_alloc";
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence of what is loaded into the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
