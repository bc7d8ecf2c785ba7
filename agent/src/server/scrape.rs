//! One collect for however many scrapers ask at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::own::Own;
use super::{Handlers, Limits};
use crate::api;
use crate::exposition::Format;

type Outcome = Result<Bytes, Refusal>;

/// Why there is no scrape.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

/// Runs the collects: one at a time, and one for all who ask while it is not done.
///
/// The values a latecomer gets were read a few milliseconds before it asked, which no scraper can tell from
/// network delay; N scrapers then cost one collect and one buffer.
pub(super) struct Scrapes {
    handlers: Handlers,
    limits: Limits,
    own: Own,
    /// Readers and encoder work on shared state, and two formats at once would only double the peak of memory.
    turn: tokio::sync::Mutex<()>,
    /// Permits for scrapes in memory; each travels with its bytes until the last client has read them.
    unread: Arc<Semaphore>,
    /// The collects that can be joined, by format.
    running: Mutex<Vec<(Format, watch::Receiver<Option<Outcome>>)>>,
}

impl Scrapes {
    pub(super) fn new(handlers: Handlers, limits: Limits, own: Own) -> Self {
        let unread = Arc::new(Semaphore::new(limits.unread_scrapes));
        Self {
            handlers,
            limits,
            own,
            turn: tokio::sync::Mutex::default(),
            unread,
            running: Mutex::default(),
        }
    }

    /// Answers one scraper.
    pub(super) async fn scrape(self: &Arc<Self>, format: Format) -> Outcome {
        let mut running = self.join(format);
        let outcome =
            match timeout(self.limits.scrape_time, running.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone(),
                // The task is gone without a word: only a shutdown does that.
                Ok(Err(_)) => None,
                Err(_) => Some(Err(Refusal {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    reason: format!(
                        "no scrape within {:?}: a collect still runs",
                        self.limits.scrape_time
                    ),
                })),
            };
        outcome.unwrap_or_else(|| {
            Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                reason: "the agent is stopping".to_owned(),
            })
        })
    }

    /// Joins the collect that is under way, or starts one.
    fn join(self: &Arc<Self>, format: Format) -> watch::Receiver<Option<Outcome>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, receiver)) = running.iter().find(|(other, _)| *other == format) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        running.push((format, receiver.clone()));
        let scrapes = Arc::clone(self);
        // A task of its own: the client that started it may leave while others wait.
        tokio::spawn(async move {
            let outcome = scrapes.collect(format).await;
            scrapes
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(other, _)| *other != format);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn collect(&self, format: Format) -> Outcome {
        let unread = Arc::clone(&self.unread).acquire_owned();
        let Ok(Ok(permit)) = timeout(self.limits.stall_time, unread).await else {
            return Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                reason: format!(
                    "{} scrapes wait for clients that do not read them",
                    self.limits.unread_scrapes
                ),
            });
        };
        let _turn = self.turn.lock().await;
        let collect = Arc::clone(&self.handlers.collect);
        let start = Instant::now();
        // Off the runtime's only thread: health must be answered while a collect reads.
        let result = tokio::task::spawn_blocking(move || collect(format)).await;
        self.own.collect.observe(start.elapsed().as_secs_f64());
        let (status, failure) = match result {
            Ok(Ok(text)) => {
                self.own
                    .size
                    .set(i64::try_from(text.len()).unwrap_or(i64::MAX));
                return Ok(Bytes::from_owner(Unread {
                    text,
                    _permit: permit,
                }));
            }
            Ok(Err(error)) => (status(&error), format!("collect failed: {error:#}")),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("collect failed: {error}"),
            ),
        };
        tracing::warn!("{failure}");
        Err(Refusal {
            status,
            reason: failure,
        })
    }
}

/// Who is late may be in time for the next scrape.
fn status(error: &anyhow::Error) -> StatusCode {
    match error.downcast_ref::<api::Refusal>() {
        Some(refusal) if refusal.kind == api::Kind::Late => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A scrape in memory.
struct Unread {
    text: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}
