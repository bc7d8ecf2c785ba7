//! Files that may never answer, read within a deadline.
//!
//! A file on a network or FUSE file system may not answer for ever, and a thread that waits for it cannot be stopped.
//! Threads of their own read such files, one for each kind of thing that is read ([`Reader`]), and callers wait no
//! longer than a deadline. While a thread hangs no other takes its place: its reader refuses further requests at once,
//! with the file's name, and once the file answers the thread goes on by itself.

mod step;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::exposition::{
    metric::{Kind, Metric, Scope},
    opts,
};
pub use step::{At, Place, at};

/// The families written here.
pub static METRICS: [&Metric; 2] = [&TIMEOUTS, &HANGING];

static TIMEOUTS: Metric = Metric {
    name: "stallscope_read_timeouts_total",
    kind: Kind::Counter,
    help: "Times that something was given up because a file did not answer in time, by what was read.",
    labels: &["what"],
    scope: Scope::Host,
    source: "the agent",
};

static HANGING: Metric = Metric {
    name: "stallscope_reads_hanging",
    kind: Kind::Gauge,
    help: "Whether a file has not answered in time and still does not, by what is read: 1 until it answers.",
    labels: &["what"],
    scope: Scope::Host,
    source: "the agent",
};

/// All readers of an agent, and their metrics.
#[derive(Clone, Debug)]
pub struct Reads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    timeouts: IntCounterVec,
    hanging: IntGaugeVec,
    watched: Mutex<Vec<Arc<Watched>>>,
}

/// Work that may hang, on any thread.
#[derive(Debug)]
pub struct Watched {
    what: &'static str,
    patience: Duration,
    place: Place,
    /// True from the deadline to the end of the work. The lock is held to change both the flag and the place, so that
    /// work that has ended is never late.
    late: Mutex<bool>,
    timeouts: IntCounter,
    hanging: IntGauge,
}

/// Reason for a missing answer, for people, with the name of the file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Late(String);

impl Reads {
    /// Registers the metrics; there are no readers yet.
    ///
    /// # Errors
    /// When `registry` has them already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let timeouts = IntCounterVec::new(opts(&TIMEOUTS), TIMEOUTS.labels)?;
        let hanging = IntGaugeVec::new(opts(&HANGING), HANGING.labels)?;
        registry.register(Box::new(timeouts.clone()))?;
        registry.register(Box::new(hanging.clone()))?;
        Ok(Self(Arc::new(Shared {
            timeouts,
            hanging,
            watched: Mutex::default(),
        })))
    }

    /// Watches over work on a thread of the caller's: each file may take as long as `patience`. `what` is the value of
    /// the label, and a word for messages.
    #[must_use]
    pub fn watch(&self, what: &'static str, patience: Duration) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            what,
            patience,
            place: Place::default(),
            late: Mutex::new(false),
            timeouts: self.0.timeouts.with_label_values(&[what]),
            hanging: self.0.hanging.with_label_values(&[what]),
        });
        self.lock().push(Arc::clone(&watched));
        watched
    }

    /// Makes a reader: a thread that reads for callers, who wait as long as `patience`. It starts with the first
    /// request.
    #[must_use]
    pub fn reader(&self, what: &'static str, patience: Duration) -> Reader {
        Reader(Arc::new(Inner {
            watched: self.watch(what, patience),
            jobs: Mutex::default(),
        }))
    }

    /// Counts and logs work that has begun to hang and that nobody waits for.
    pub fn check(&self, now: Instant) {
        for watched in self.lock().iter() {
            watched.check(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        let watched = self.0.watched.lock();
        watched.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Does some work on this thread, beginning at the file `first`. `None` if the work panicked.
    pub fn work<T>(&self, first: String, job: impl FnOnce() -> T) -> Option<T> {
        self.place.follow();
        self.place.enter(first);
        let done = catch_unwind(AssertUnwindSafe(job));
        let mut late = self.lock();
        self.place.leave();
        self.hanging.set(0);
        if std::mem::take(&mut *late) {
            tracing::info!(what = self.what, "files answer again");
        }
        done.ok()
    }

    /// Returns the reason for a missing answer, if a deadline has passed and the work is not done.
    #[must_use]
    pub fn late(&self) -> Option<Late> {
        self.lock().then(|| self.reason())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, now: Instant) {
        let at = self.place.get();
        if at.is_some_and(|at| at.age(now) >= self.patience) {
            self.give_up();
        }
    }

    /// Counts and logs a hang, once for each time, and returns the reason for the missing answer.
    fn give_up(&self) -> Late {
        let mut late = self.lock();
        let reason = self.reason();
        if self.place.get().is_some() && !std::mem::replace(&mut *late, true) {
            self.timeouts.inc();
            self.hanging.set(1);
            tracing::warn!(what = self.what, "{reason}");
        }
        reason
    }

    fn reason(&self) -> Late {
        let Some(at) = self.place.get() else {
            return Late(format!("nothing was read within {:?}", self.patience));
        };
        Late(format!(
            "{} has not answered for {}: its file system hangs, or the host is overloaded; what needs it is refused until it answers",
            at.what,
            Seconds(at.age(Instant::now()))
        ))
    }
}

/// A thread that reads for callers: see [`Reads::reader`]. Clones share the thread.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Inner>);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Inner {
    watched: Arc<Watched>,
    /// `None` before the thread has started.
    jobs: Mutex<Option<Sender<Job>>>,
}

impl Reader {
    /// Does `job` on the thread, beginning at the file `first`, and waits for its result.
    ///
    /// # Errors
    /// When that takes too long, or an earlier job still hangs.
    pub fn ask<T: Send + 'static>(
        &self,
        first: String,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let watched = &self.0.watched;
        let answer = self.begin(first, job)?;
        match answer.recv_timeout(watched.patience) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(watched.give_up()),
            Err(RecvTimeoutError::Disconnected) => Err(failed(watched.what)),
        }
    }

    /// Begins a job as [`Reader::ask`] does, without waiting for it.
    ///
    /// # Errors
    /// When an earlier job still hangs, or the thread cannot be started.
    pub fn begin<T: Send + 'static>(
        &self,
        first: String,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Receiver<T>, Late> {
        let watched = Arc::clone(&self.0.watched);
        if let Some(late) = watched.late() {
            return Err(late);
        }
        let (answer, answered) = sync_channel(1);
        let job: Job = Box::new(move || {
            if let Some(found) = watched.work(first, job) {
                // The caller may have given up.
                let _ = answer.send(found);
            }
        });
        self.jobs()?
            .send(job)
            .map_err(|_| failed(self.0.watched.what))?;
        Ok(answered)
    }

    /// See [`Watched::late`].
    #[must_use]
    pub fn late(&self) -> Option<Late> {
        self.0.watched.late()
    }

    fn jobs(&self) -> Result<Sender<Job>, Late> {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            return Ok(jobs.clone());
        }
        let (sender, receiver) = channel::<Job>();
        let what = self.0.watched.what;
        thread::Builder::new()
            .name(format!("read-{what}"))
            .spawn(move || receiver.into_iter().for_each(|job| job()))
            .map_err(|error| Late(format!("cannot start a thread to read {what}: {error}")))?;
        *jobs = Some(sender.clone());
        Ok(sender)
    }
}

fn failed(what: &str) -> Late {
    Late(format!(
        "reading {what} failed unexpectedly: see the agent's log"
    ))
}

/// Waits for a single job on a thread that ends with it.
///
/// # Errors
/// When it takes longer than `patience`; the thread is left behind.
pub fn once<T: Send + 'static>(
    first: String,
    patience: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Late> {
    let place = Place::default();
    let (answer, answered) = sync_channel(1);
    place.enter(first);
    let there = place.clone();
    let work = move || {
        there.follow();
        let _ = answer.send(job());
    };
    thread::Builder::new()
        .name("read-once".to_owned())
        .spawn(work)
        .map_err(|error| Late(format!("cannot start a thread: {error}")))?;
    answered.recv_timeout(patience).map_err(|_| {
        let at = place
            .get()
            .map_or_else(String::new, |at| at.what.into_owned());
        Late(format!("{at} has not answered for {}", Seconds(patience)))
    })
}

/// A length of time for people: `3.0 s`.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests;
