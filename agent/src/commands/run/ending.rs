//! The end of the process: soon, whatever hangs.

use std::{process, thread, time::Duration};

use anyhow::Context as _;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::oneshot;

use crate::capabilities;

/// How long the rest of the process has to end in good order after a signal; with [`LAST_WORDS`] less than a second.
const ORDERLY: Duration = Duration::from_millis(800);

/// How long the last log lines may take.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the reason may take for which the process ends by itself: nobody waits for that end.
pub(super) const REASON: Duration = Duration::from_secs(5);

/// Waits for SIGINT or SIGTERM on a thread of its own, which ends the process where nobody else does in time.
///
/// # Errors
/// When signals or threads cannot be had.
pub(super) fn watch() -> anyhow::Result<oneshot::Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        // It starts before the agent gives up its own, and ending takes none.
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

/// Has the message of a panic logged, wherever it happens: the usual way waits for whoever reads standard error.
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
