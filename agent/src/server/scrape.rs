//! One collect for all scrapers that ask at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::budget::{Budget, Full, Kind};
use super::metrics::Own;
use super::{Handlers, Limits};
use crate::api;
use crate::exposition::Format;

type Outcome = Result<Bytes, Refusal>;

/// Reason why there is no scrape.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: full.to_string(),
        }
    }
}

/// Runs collects one at a time. All scrapers that ask while one runs share it.
///
/// A latecomer gets values that were read a few milliseconds before it asked, which no scraper can tell from network
/// delay. So N scrapers take the time of one collect and the memory of one buffer.
pub(super) struct Scrapes {
    handlers: Handlers,
    limits: Limits,
    own: Own,
    /// One collect at a time: readers and the encoder work on shared state, and two formats at once would only double
    /// the peak of memory.
    kind: Kind,
    /// The collects that can be joined, by format.
    running: Mutex<Vec<(Format, watch::Receiver<Option<Outcome>>)>>,
}

impl Scrapes {
    pub(super) fn new(handlers: Handlers, limits: Limits, own: Own, budget: &Arc<Budget>) -> Self {
        Self {
            handlers,
            limits,
            own,
            kind: Kind::new(budget),
            running: Mutex::default(),
        }
    }

    /// Answers one scraper.
    pub(super) async fn scrape(self: &Arc<Self>, format: Format) -> Outcome {
        let mut running = self.join(format);
        let outcome =
            match timeout(self.limits.scrape_time, running.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone(),
                // The task ended without a result: only a shutdown does that.
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
        // A separate task: the client that started it may leave while others wait.
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
        let place = self.kind.place().await?;
        let collect = Arc::clone(&self.handlers.collect);
        let start = Instant::now();
        // Runs off the runtime's only thread, so that health is answered while a collect reads.
        let result = tokio::task::spawn_blocking(move || collect(format)).await;
        self.own.collect.observe(start.elapsed().as_secs_f64());
        let (status, failure) = match result {
            Ok(Ok(text)) => {
                self.own
                    .size
                    .set(i64::try_from(text.len()).unwrap_or(i64::MAX));
                return Ok(place.keep(text).await?);
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

/// Returns the status for a failed collect: 503 if it was late, since the next scrape may be in time.
fn status(error: &anyhow::Error) -> StatusCode {
    match error.downcast_ref::<api::Refusal>() {
        Some(refusal) if refusal.kind == api::Kind::Late => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
