//! The agent's own thread: it looks at the host time and again, and answers in between.
//!
//! Everything that is measured belongs to this thread, and whoever wants something of it asks by a message and waits no
//! longer than a deadline. Health, readiness and status come from a copy that it leaves behind after each look, so that
//! they are answered whatever it is at.

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

use crate::deadline::{Place, Seconds, at};

/// The least time between two looks, however much comes and goes.
const PAUSE: Duration = Duration::from_millis(50);

/// The age of the last look from which on the agent is not well. Looks are due every second, and the longest thing done
/// between two is to load larger tables, which takes some seconds on a slow machine. Beyond this, counters of 32 bits
/// could wrap unseen ([`Agent::tick`](super::Agent::tick)): what would be exported then is wrong.
pub const STALE: Duration = Duration::from_secs(30);

/// How often the copy is made anew though nothing in it is known to have changed.
const REFRESH: Duration = Duration::from_secs(30);

/// Messages that may wait; whoever comes then is refused, which takes an agent that is late by many deadlines.
const WAITING: usize = 16;

/// What looks at the host: the agent, or another in tests.
pub trait Looks: Send + 'static {
    /// Takes in what has changed.
    fn look(&mut self);
    /// How long until the next look.
    fn next(&self) -> Duration;
    /// Becomes readable when there is reason to look at once.
    fn changes(&self) -> Option<AsyncFd<OwnedFd>>;
    /// Whether what [`Looks::changes`] gave still tells.
    fn follows_changes(&self) -> bool;
    /// Whether there is something to serve.
    ///
    /// # Errors
    /// Says why not.
    fn ready(&self) -> Result<(), String>;
    /// What the status depends on that may change from look to look; cheap to make.
    fn version(&self) -> String;
    /// The status.
    fn status(&self) -> Value;
    /// Why there is nothing left to do: a part without which measuring makes no sense has ended.
    fn ended(&self) -> Option<String>;
}

/// Asks the thread. Clones ask the same.
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

/// What the thread leaves behind.
struct Copy {
    /// What it is at.
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

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    /// The thread is at something else for longer than the caller waits.
    #[error("{0}")]
    Late(String),
    /// The answer panicked.
    #[error("{0}")]
    Failed(String),
}

/// Starts the thread. The second value is told why the thread has ended, if it ever does.
///
/// # Errors
/// When there can be no thread.
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

/// Looks and answers until there is nothing left to do, and says why that is.
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
        // In fallback nothing is ever readable, and a duplicate would hold on to the watches.
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

/// Waits until there is reason to look, but not before `rested`. False when that can no longer be waited for.
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

/// What was left behind last.
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
    /// Has `job` done between two looks, and waits for what comes of it; `doing` says what that is, as in "answering
    /// /metrics".
    ///
    /// # Errors
    /// When that is not within `patience`, or panics.
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
            // Whoever asked may have given up.
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

    /// Whether the last look is younger than [`STALE`].
    ///
    /// # Errors
    /// Says how old it is, and what the agent is at.
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

    /// Whether the agent has something to serve, and is well.
    ///
    /// # Errors
    /// Says why not.
    pub fn ready(&self) -> Result<(), String> {
        self.health()?;
        self.copy.lock().ready.clone()
    }

    /// What `/api/v1/status` answers: as of the last look, whose age is in it.
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

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests;
