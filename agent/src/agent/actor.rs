//! The agent's own thread: it looks at the host about once a second, and answers requests in between.
//!
//! All measurements belong to this thread. Other threads ask it by messages, and wait no longer than a deadline.
//! Health, readiness and status come from a copy that the thread publishes after each look, so that they are answered
//! whatever the thread is doing.

use std::{
    any::Any,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;
use tokio::{
    io::unix::AsyncFd,
    sync::{
        mpsc::{Receiver, Sender, channel, error::TrySendError},
        oneshot,
    },
    time::sleep_until,
};

use crate::host::deadline::{Place, Seconds, at};

/// Minimum time between two looks, however many cgroups come and go.
const PAUSE: Duration = Duration::from_millis(50);

/// Age of the last look from which on the agent is unhealthy. Looks are due every second, and the longest task between
/// two is to load larger tables, which takes some seconds on a slow machine. Beyond this age 32-bit counters could wrap
/// unseen ([`Agent::tick`](super::Agent::tick)), and the exported values would be wrong.
pub const STALE: Duration = Duration::from_secs(30);

/// Maximum age of the published status, even if nothing in it is known to have changed.
const REFRESH: Duration = Duration::from_secs(30);

/// Maximum number of queued messages; further ones are refused. Only an agent that is late by many deadlines fills the
/// queue.
const WAITING: usize = 16;

/// Worker of the thread: the agent, or a test double.
pub trait Looks: Send + 'static {
    /// Reads changes of the host.
    fn look(&mut self);
    /// Returns the time until the next look.
    fn next(&self) -> Duration;
    /// Returns a descriptor that becomes readable when a look is due at once.
    fn changes(&self) -> Option<AsyncFd<OwnedFd>>;
    /// Returns whether the descriptor of [`Looks::changes`] still reports changes.
    fn follows_changes(&self) -> bool;
    /// Returns `Ok` when there is something to serve.
    ///
    /// # Errors
    /// When there is nothing to serve, with the reason.
    fn ready(&self) -> Result<(), String>;
    /// Returns a text that changes whenever the status has to be made again; cheap to make.
    fn version(&self) -> String;
    /// Returns the status.
    fn status(&self) -> Value;
    /// Returns the reason why the thread should end: an essential part of the agent has ended.
    fn ended(&self) -> Option<String>;
}

/// Handle to the thread. Clones refer to the same thread.
pub struct Handle<A> {
    messages: Sender<Message<A>>,
    copy: Arc<Copy>,
}

type Message<A> = Box<dyn FnOnce(&mut A) + Send>;

impl<A> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            copy: Arc::clone(&self.copy),
        }
    }
}

/// State that the thread publishes.
struct Copy {
    /// The thread's present task.
    place: Place,
    left: Mutex<Left>,
}

struct Left {
    looked: Instant,
    ready: Result<(), String>,
    status: Value,
}

impl Copy {
    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reason why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    /// The thread was busy for longer than the caller waits.
    #[error("{0}")]
    Late(String),
    /// The answer panicked.
    #[error("{0}")]
    Failed(String),
}

/// Starts the thread. The returned receiver gets the reason if the thread ever ends.
///
/// # Errors
/// When the thread or its event loop cannot be started.
pub fn start<A: Looks>(mut agent: A) -> anyhow::Result<(Handle<A>, oneshot::Receiver<String>)> {
    let (messages, waiting) = channel(WAITING);
    let copy = Arc::new(Copy {
        place: Place::default(),
        left: Mutex::new(Left {
            looked: Instant::now(),
            ready: agent.ready(),
            status: agent.status(),
        }),
    });
    let handle = Handle {
        messages,
        copy: Arc::clone(&copy),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop of the agent")?;
    let (tell, ended) = oneshot::channel();
    let work = move || {
        let live = || runtime.block_on(live(&mut agent, waiting, &copy));
        let why = catch_unwind(AssertUnwindSafe(live))
            .unwrap_or_else(|panic| format!("it panicked: {}", message(&*panic)));
        let _ = tell.send(why);
    };
    thread::Builder::new()
        .name("agent".to_owned())
        .spawn(work)
        .context("cannot start the thread of the agent")?;
    Ok((handle, ended))
}

/// Looks and answers until the thread has to end. Returns the reason.
async fn live<A: Looks>(agent: &mut A, mut waiting: Receiver<Message<A>>, copy: &Copy) -> String {
    copy.place.follow();
    let mut changes = agent.changes();
    let mut published = Published::default();
    loop {
        at(|| "looking at the host");
        agent.look();
        let looked = Instant::now();
        published.publish(agent, copy, Some(looked));
        if let Some(why) = agent.ended() {
            return why;
        }
        // In fallback the descriptor never becomes readable, and this duplicate would keep the watches alive.
        changes = changes.filter(|_| agent.follows_changes());
        let next = looked + agent.next().max(PAUSE);
        loop {
            copy.place.leave();
            tokio::select! {
                biased;
                () = sleep_until(next.into()) => break,
                told = told(changes.as_ref(), looked + PAUSE) => {
                    changes = changes.filter(|_| told);
                    break;
                }
                message = waiting.recv() => match message {
                    Some(message) => {
                        message(agent);
                        published.publish(agent, copy, None);
                    }
                    None => return "nobody is left to ask it".to_owned(),
                },
            }
        }
    }
}

/// Waits until a look is due, but not before `rested`. Returns false when the descriptor can no longer be waited for.
async fn told(changes: Option<&AsyncFd<OwnedFd>>, rested: Instant) -> bool {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    sleep_until(rested.into()).await;
    match changes.readable().await {
        Ok(mut ready) => {
            ready.clear_ready();
            true
        }
        Err(_) => false,
    }
}

/// Version and time of the last published status.
#[derive(Default)]
struct Published {
    version: String,
    made: Option<Instant>,
}

impl Published {
    fn publish(&mut self, agent: &impl Looks, copy: &Copy, looked: Option<Instant>) {
        let now = Instant::now();
        let version = agent.version();
        let old = |made| now.saturating_duration_since(made) >= REFRESH;
        let status = (self.version != version || self.made.is_none_or(old)).then(|| {
            self.version = version;
            self.made = Some(now);
            agent.status()
        });
        let ready = agent.ready();
        let mut left = copy.lock();
        left.looked = looked.unwrap_or(left.looked);
        left.ready = ready;
        left.status = status.unwrap_or_else(|| left.status.take());
    }
}

impl<A: 'static> Handle<A> {
    /// Runs `job` between two looks and waits for its result. `doing` describes the job, as in "answering /metrics".
    ///
    /// # Errors
    /// When there is no result within `patience`, or the job panics.
    pub fn ask<T: Send + 'static>(
        &self,
        doing: &'static str,
        patience: Duration,
        job: impl FnOnce(&mut A) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (answer, answered) = sync_channel(1);
        let place = self.copy.place.clone();
        let asked = Instant::now();
        let message = Box::new(move |agent: &mut A| {
            if asked.elapsed() >= patience {
                return;
            }
            place.enter(doing);
            let done = catch_unwind(AssertUnwindSafe(|| job(agent)));
            // The caller may have given up.
            let _ = answer.send(done.map_err(|panic| message(&*panic)));
        });
        self.messages
            .try_send(message)
            .map_err(|error| match error {
                TrySendError::Full(_) => NoAnswer::Late(self.late(Instant::now())),
                TrySendError::Closed(_) => NoAnswer::Failed("the agent has ended".to_owned()),
            })?;
        match answered.recv_timeout(patience) {
            Ok(done) => done.map_err(|why| NoAnswer::Failed(format!("{doing} failed: {why}"))),
            Err(RecvTimeoutError::Timeout) => Err(NoAnswer::Late(self.late(Instant::now()))),
            Err(RecvTimeoutError::Disconnected) => {
                Err(NoAnswer::Failed("the agent has ended".to_owned()))
            }
        }
    }

    /// Checks that the last look is younger than [`STALE`].
    ///
    /// # Errors
    /// When it is not; the error has its age and the thread's present task.
    pub fn health(&self) -> Result<(), String> {
        self.health_at(Instant::now())
    }

    fn health_at(&self, now: Instant) -> Result<(), String> {
        let looked = self.copy.lock().looked;
        if now.saturating_duration_since(looked) < STALE {
            return Ok(());
        }
        Err(self.late(now))
    }

    /// Checks that the agent has something to serve, and is healthy.
    ///
    /// # Errors
    /// When it has not or is not, with the reason.
    pub fn ready(&self) -> Result<(), String> {
        self.health()?;
        self.copy.lock().ready.clone()
    }

    /// Returns the answer of `/api/v1/status`: the state at the last look, with the age of that look.
    #[must_use]
    pub fn status(&self) -> Value {
        let left = self.copy.lock();
        let (mut status, looked) = (left.status.clone(), left.looked);
        drop(left);
        if let Value::Object(fields) = &mut status {
            let age = (looked.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            fields.insert("last_look_age_seconds".to_owned(), age.into());
        }
        status
    }

    fn late(&self, now: Instant) -> String {
        let age = now.saturating_duration_since(self.copy.lock().looked);
        let doing = self.copy.place.get().map_or_else(
            || "it waits for its turn on a CPU".to_owned(),
            |at| format!("it is {} for {}", at.what, Seconds(at.age(now))),
        );
        format!(
            "the agent is late: its last look at the host was {} ago, and {doing}",
            Seconds(age)
        )
    }
}

/// Returns the message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests;
