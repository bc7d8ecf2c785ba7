//! Serves what was measured over HTTP, and nothing else: no request changes anything.
//!
//! The door is open to whoever reaches the port, so every wait for a client has an end and every client's share of
//! memory a bound ([`Limits`]). The connection is driven by hyper itself, because `axum::serve` lets neither be set.

mod accept;
mod ask;
mod bind;
mod connection;
mod own;
mod page;
mod routes;
mod scrape;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

#[doc(hidden)]
pub use self::accept::negotiate;
pub use self::bind::{BindError, Holder, bind};
pub use self::own::METRICS;

use self::own::Own;
use crate::api::{Refusal, Request};
use crate::exposition::Format;

/// Answers a question about the history. Runs on a thread where it may block.
pub type Answer = Arc<dyn Fn(&Request) -> Result<serde_json::Value, Refusal> + Send + Sync>;

/// What the server asks of the rest of the agent.
#[derive(Clone)]
pub struct Handlers {
    /// One scrape in the given format. Runs on a thread where it may block, one at a time.
    pub collect: Arc<dyn Fn(Format) -> anyhow::Result<Bytes> + Send + Sync>,
    /// Whether the agent measures, or why not yet. Must not block.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// What `/api/v1/status` answers. Must not block.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// What `/api/v1/topology` answers.
    pub topology: serde_json::Value,
    /// What is answered from the history.
    pub answers: Answers,
}

/// Answers from the history.
#[derive(Clone)]
pub struct Answers {
    /// What `/api/v1/top` answers.
    pub top: Answer,
    /// What `/api/v1/timeline` answers.
    pub timeline: Answer,
    /// What `/api/v1/explain` answers.
    pub explain: Answer,
}

impl Default for Answers {
    /// For a server without a history.
    fn default() -> Self {
        let none: Answer = Arc::new(|_| Err(Refusal::missing("there is no history")));
        Self {
            top: Arc::clone(&none),
            timeline: Arc::clone(&none),
            explain: none,
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}

/// How much of time and memory clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; one more is told so and closed.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// From accepting a connection, or from its last answer, to the end of the next request's head.
    /// Between the usual scrape intervals, so that a scraper does not meet a connection as it is being closed.
    pub head_time: Duration,
    /// How long a client may take nothing of its answer.
    pub stall_time: Duration,
    /// How long a client may take for the whole of its answer.
    pub answer_time: Duration,
    /// Scrapes kept in memory because a client is still reading them; the next one waits.
    pub unread_scrapes: usize,
    /// How long a client waits for a scrape.
    pub scrape_time: Duration,
    /// How long open connections may hold up a shutdown.
    pub shutdown_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(20),
            stall_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(60),
            unread_scrapes: 4,
            scrape_time: Duration::from_secs(30),
            shutdown_time: Duration::from_millis(1500),
        }
    }
}

/// Serves until `shutdown` completes, with the default limits.
///
/// # Errors
///
/// Fails if the server's own metrics are in `registry` already.
pub async fn serve(
    listener: TcpListener,
    handlers: Handlers,
    registry: &prometheus::Registry,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    serve_within(Limits::default(), listener, handlers, registry, shutdown).await
}

/// Serves until `shutdown` completes.
///
/// A collect that hangs does not hold this up, but its thread does hold up dropping the runtime: end that with
/// `Runtime::shutdown_background`.
///
/// # Errors
///
/// Fails if the server's own metrics are in `registry` already.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    handlers: Handlers,
    registry: &prometheus::Registry,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let own = Own::register(registry).context("cannot register the server's own metrics")?;
    let router = routes::router(handlers, limits, own.clone());
    let seats = Arc::new(Semaphore::new(limits.connections));
    let (stopping, stop) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            stream = accept(&listener) => stream,
        };
        if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
            let connection = connection::run(stream, router.clone(), limits, stop.clone());
            connections.spawn(async move {
                connection.await;
                drop(seat);
            });
        } else {
            own.refused.inc();
            connection::refuse(&stream);
        }
    }
    drop(listener);
    drop(stop);
    // Receivers see the sender go; each connection ends after the request it is at.
    drop(stopping);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown_time, all)
        .await
        .is_err()
    {
        tracing::debug!(
            left = connections.len(),
            "closed connections that were still busy"
        );
    }
    connections.shutdown().await;
    Ok(())
}

/// Accepts the next connection. An error here is one client's, or a lack of descriptors that passes.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
