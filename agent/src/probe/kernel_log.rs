//! Messages of the kernel side, for debugging: `RUST_LOG=stallscope::kernel=debug`.
//!
//! Off, they cost nothing: the level is a constant to the verifier, which leaves their code out.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// The target of these messages, as `RUST_LOG` names it.
pub const TARGET: &str = "stallscope::kernel";

/// Bytes of the ring buffer that carries the messages: while they are off, and while they are on.
/// Powers of two and multiples of every page size there is, as the kernel demands.
pub const RING_BYTES: [u32; 2] = [1 << 16, 1 << 17];

/// Bytes of the ring buffer at the current log level: one of [`RING_BYTES`].
#[must_use]
pub fn ring_bytes() -> u32 {
    RING_BYTES[usize::from(enabled())]
}

/// Map that carries the messages, in objects that have any.
pub const MAP: &str = "AYA_LOGS";

/// Returns whether the messages are on.
#[must_use]
pub fn enabled() -> bool {
    tracing::enabled!(target: "stallscope::kernel", tracing::Level::DEBUG)
}

/// The level up to which the programs write messages, for `aya_log::LEVEL`.
#[must_use]
pub fn level() -> &'static u8 {
    if enabled() {
        &(log::Level::Debug as u8)
    } else {
        &0
    }
}

/// Takes the messages of one object out of the kernel.
pub struct KernelLog(EbpfLogger<Forward>);

impl KernelLog {
    /// Opens the log of an object that has messages, if they are on.
    #[must_use]
    pub fn open(ebpf: &mut Ebpf) -> Option<Self> {
        if !enabled() {
            return None;
        }
        EbpfLogger::init_with_logger(ebpf, Forward).ok().map(Self)
    }

    /// Passes on the messages that have come.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// Hands records of the `log` crate, which aya-log writes, to `tracing`.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let program = record.target();
        tracing::debug!(target: "stallscope::kernel", program, "{}", record.args());
    }

    fn flush(&self) {}
}
