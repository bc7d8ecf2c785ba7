//! Empty programs on the hooks of the probes. They measure what a hook costs before any work of a
//! probe.
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

/// Licence that the kernel checks as it loads the programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
