//! Serves what was measured over HTTP, and nothing else: no request changes anything.
//!
//! The door is open to whoever reaches the port, so every wait for a client has an end and every client's share of
//! memory a bound ([`Limits`]). The connection is driven by hyper itself, because `axum::serve` lets neither be set.

mod accept;
mod ask;
mod bind;
mod budget;
mod connection;
mod hosts;
mod own;
mod page;
mod patient;
mod peers;
mod routes;
mod scrape;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[doc(hidden)]
pub use self::accept::negotiate;
pub use self::bind::{BindError, Holder, bind};
pub use self::hosts::{AllowedHost, Hosts};
pub use self::own::METRICS;

use self::own::Own;
use self::peers::{Peer, Peers};
use crate::api::{Refusal, Request};
use crate::exposition::Format;

/// Answers a question about the history. Runs on a thread where it may block.
pub type Answer = Arc<dyn Fn(&Request) -> Result<serde_json::Value, Refusal> + Send + Sync>;

/// What the server asks of the rest of the agent.
#[derive(Clone)]
pub struct Handlers {
    /// One scrape in the given format. Runs on a thread where it may block, one at a time.
    pub collect: Arc<dyn Fn(Format) -> anyhow::Result<Bytes> + Send + Sync>,
    /// Whether the agent is well, or why not. Must not block.
    pub health: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
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
    /// Connections that wait for a request; with one more, the one that has waited longest is closed, of the peer with
    /// most of them first.
    pub waiting: usize,
    /// Requests at a time, from the end of the head until the client has taken the answer; one more is refused. Those
    /// for `/healthz` and `/readyz` are not counted.
    pub requests: usize,
    /// Those of one peer: of an IPv4 address, of an IPv6 network of 64 bits, of this host.
    pub requests_by_peer: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// From accepting a connection, or from its last answer, to the end of the next request's head.
    /// Between the usual scrape intervals, so that a scraper does not meet a connection as it is being closed.
    pub head_time: Duration,
    /// How long a client may take nothing of its answer.
    pub stall_time: Duration,
    /// How long a client may take for the whole of its answer.
    pub answer_time: Duration,
    /// Bytes of answers kept in memory because a client is still reading them; the next answer waits. One that is
    /// larger is kept alone.
    pub unread_bytes: usize,
    /// How long an answer waits for room; then the client is told to ask again.
    pub room_time: Duration,
    /// How long a client may take for the whole of its answer when others wait for room.
    pub slow_time: Duration,
    /// How long a client waits for a scrape: less than Prometheus does by default, so that the reason reaches its log.
    pub scrape_time: Duration,
    /// How long a client waits for its turn to ask about the history.
    pub question_time: Duration,
    /// How long open connections may hold up a shutdown.
    pub shutdown_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 64,
            requests: 96,
            requests_by_peer: 24,
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(20),
            stall_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(60),
            unread_bytes: 32 << 20,
            room_time: Duration::from_secs(3),
            slow_time: Duration::from_secs(1),
            scrape_time: Duration::from_secs(8),
            question_time: Duration::from_secs(8),
            shutdown_time: Duration::from_millis(500),
        }
    }
}

/// How the server treats its clients.
#[derive(Clone, Debug)]
pub struct Config {
    /// How much they may take.
    pub limits: Limits,
    /// Under which names they may ask.
    pub hosts: Hosts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            hosts: Hosts::new([]),
        }
    }
}

/// Serves until `shutdown` completes.
///
/// A collect that hangs does not hold this up, but its thread does hold up dropping the runtime: end that with
/// `Runtime::shutdown_background`.
///
/// # Errors
///
/// Fails if the server's own metrics are in `registry` already.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    handlers: Handlers,
    registry: &prometheus::Registry,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let limits = config.limits;
    let own = Own::register(registry).context("cannot register the server's own metrics")?;
    let peers = Arc::new(Peers::new(limits, own.clone()));
    let router = routes::router(handlers, &config, own, Arc::clone(&peers));
    let (stopping, stop) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, remote) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        let local = stream.local_addr().map(|local| local.ip()).ok();
        let guest = peers.arrive(Peer::new(remote.ip(), local));
        connections.spawn(connection::run(
            stream,
            guest,
            router.clone(),
            limits,
            stop.clone(),
        ));
        // Between two connections those that are there are heard: a flood of new ones closes none whose request has
        // arrived.
        tokio::task::yield_now().await;
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

/// Accepts the next connection. An error here is one client's, or a lack of descriptors or memory that passes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // It left before its turn came; the next one waits already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
