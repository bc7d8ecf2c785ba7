//! End of the process: within a bounded time, whatever hangs.

use std::{process, thread, time::Duration};

use anyhow::Context as _;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::oneshot;

use crate::host::capabilities;

/// Time for an orderly end after a signal; with [`LAST_WORDS`] less than a second.
const ORDERLY: Duration = Duration::from_millis(800);

/// Time for writing the last log lines.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(100);

/// Time for writing the reason when the process ends by itself: then nobody waits for the end.
pub(super) const REASON: Duration = Duration::from_secs(5);

/// Starts a thread that waits for SIGINT or SIGTERM, reports it, and ends the process if it has not ended in time.
///
/// # Errors
/// When the signals cannot be registered or the thread cannot be started.
pub(super) fn watch() -> anyhow::Result<oneshot::Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        // The thread starts before the agent drops its own capabilities, and ending takes none.
        let _ = capabilities::drop_all(|| Ok(()));
        if signals.forever().next().is_none() {
            return;
        }
        tracing::info!("shutting down");
        let _ = tell.send(());
        thread::sleep(ORDERLY);
        tracing::warn!("not everything ended in time: the process ends nevertheless");
        thread::sleep(LAST_WORDS);
        process::exit(0);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .context("cannot start the thread that waits for signals")?;
    Ok(told)
}

/// Sends panic messages to the log: the default hook would block on the reader of standard error.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string);
        tracing::error!(
            thread = thread::current().name().unwrap_or_default(),
            place = place.unwrap_or_default(),
            "panicked: {}",
            text.unwrap_or_default()
        );
    }));
}
