//! Logging that never blocks on its reader, and never fails.
//!
//! Standard error may be a pipe that nobody reads or whose reader is gone, or a file on a full disk. Lines that cannot
//! be written are dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use prometheus::{IntCounter, Registry};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    exposition::{
        metric::{Kind, Metric, Scope},
        opts,
    },
    host::capabilities,
};

/// The family that this module writes.
pub(super) static METRICS: [&Metric; 1] = [&LOST];

static LOST: Metric = Metric {
    name: "stallscope_log_lines_lost_total",
    kind: Kind::Counter,
    help: "Lines that the agent could not log, because standard error is closed, full, or not read fast enough.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent",
};

/// Counter of the lines lost in this process, which has one standard error.
static LINES_LOST: LazyLock<Option<IntCounter>> =
    LazyLock::new(|| IntCounter::with_opts(opts(&LOST)).ok());

/// Maximum number of queued lines, and of their bytes.
const WAITING: usize = 1024;
const WAITING_BYTES: usize = 1 << 20;

/// Exports the counter of lost lines.
pub(super) fn register(registry: &Registry) -> prometheus::Result<()> {
    match &*LINES_LOST {
        Some(lost) => registry.register(Box::new(lost.clone())),
        None => Ok(()),
    }
}

fn lose() {
    if let Some(lost) = &*LINES_LOST {
        lost.inc();
    }
}

/// Logs to standard error, at the level of `RUST_LOG` or else `level`. For commands that end soon.
pub(super) fn start(level: &str) {
    subscribe(level, || Unfailing(io::stderr()));
}

/// Logs to standard error from a thread of its own. For a process that must not block on the reader of its log.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn start_queued(level: &str) -> io::Result<Log> {
    let log = Log::start(io::stderr())?;
    let lines = log.clone();
    subscribe(level, move || lines.clone());
    Ok(log)
}

fn subscribe<W>(level: &str, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    use std::io::IsTerminal as _;

    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        // The subscriber would print such an error in a way that panics.
        .log_internal_errors(false)
        .init();
}

/// A writer that reports success for every write.
struct Unfailing<W>(W);

impl<W: Write> Write for Unfailing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.write_all(bytes).is_err() {
            lose();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sender of lines to the thread that writes them.
#[derive(Clone)]
pub(super) struct Log {
    lines: SyncSender<Line>,
    bytes: Arc<AtomicUsize>,
}

enum Line {
    Text(Vec<u8>),
    /// Request to report when all earlier lines are written.
    Flush(SyncSender<()>),
}

impl Log {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&bytes);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                // The thread starts before the agent drops its own capabilities, and writing takes none.
                let _ = capabilities::drop_all(|| Ok(()));
                write_all(&waiting, out, &written);
            })?;
        Ok(Self { lines, bytes })
    }

    /// Writes a line.
    pub(super) fn say(&self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        self.send(line);
    }

    /// Waits until all lines are written, but no longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let (done, is_done) = sync_channel(1);
        // A full queue means that nobody reads, so waiting is useless.
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(patience);
        }
    }

    fn send(&self, line: Vec<u8>) {
        let length = line.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before == 0 || before + length <= WAITING_BYTES;
        if !fits || self.lines.try_send(Line::Text(line)).is_err() {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            lose();
        }
    }
}

impl Write for Log {
    /// Takes one whole event, as the subscriber writes them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Line>, mut out: impl Write, bytes: &AtomicUsize) {
    for line in lines {
        match line {
            Line::Text(text) => {
                if write(&mut out, &text).is_err() {
                    lose();
                }
                bytes.fetch_sub(text.len(), Ordering::Relaxed);
            }
            Line::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Writes a line, even if another process that shares the descriptor has made it non-blocking.
fn write(out: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    const AGAIN: Duration = Duration::from_millis(20);
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::channel};

    use super::*;

    /// A writer that fails with each of these in turn, the last first, and then sends on what it is given.
    struct Failing(Vec<io::ErrorKind>, std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.0.pop() {
                return Err(kind.into());
            }
            let part = &bytes[..bytes.len().min(3)];
            let _ = self.1.send(part.to_vec());
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lost() -> u64 {
        LINES_LOST.as_ref().map_or(0, IntCounter::get)
    }

    /// The counter belongs to the process, so these tests run one at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn what_cannot_be_written_is_lost_and_counted_and_the_next_line_is_written() {
        let _alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = lost();
        let (said, heard) = channel();
        let failures = vec![
            // They are used from the end.
            io::ErrorKind::WouldBlock,
            io::ErrorKind::Interrupted,
            io::ErrorKind::StorageFull,
            io::ErrorKind::BrokenPipe,
        ];
        let mut log = Log::start(Failing(failures, said)).unwrap();
        for line in ["gone\n", "gone too\n", "line\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        log.flush(Duration::from_secs(60));
        let written: Vec<u8> = heard.try_iter().flatten().collect();
        assert_eq!(String::from_utf8_lossy(&written), "line\n");
        assert_eq!(lost() - before, 2);
    }

    /// A writer that blocks until it is released.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_waits_holds_nobody_up_and_takes_a_bounded_memory() {
        let _alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = lost();
        let (go, stuck) = channel();
        let log = Log::start(Stuck(stuck)).unwrap();
        let line = "x".repeat(10_000);
        // More than ten times the size of the queue.
        for _ in 0..2000 {
            log.say(&line);
        }
        assert!(log.bytes.load(Ordering::Relaxed) <= WAITING_BYTES);
        assert!(lost() - before >= 1800, "{}", lost() - before);
        log.flush(Duration::ZERO);
        drop(go);
        log.flush(Duration::from_secs(60));
        assert_eq!(log.bytes.load(Ordering::Relaxed), 0);
    }
}
