//! HTTP server for the measurements. It is read-only: no request changes anything.
//!
//! Anybody who reaches the port may connect, so every wait for a client has a timeout and every client's share of
//! memory a bound ([`Limits`]). The server drives connections with hyper itself, because `axum::serve` lets neither be
//! set.

mod accept;
mod bind;
mod budget;
mod connection;
mod hosts;
mod metrics;
mod page;
mod peers;
mod queries;
mod routes;
mod scrape;
mod stall_timeout;

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
pub use self::metrics::METRICS;

use self::metrics::Own;
use self::peers::{Peer, Peers};
use crate::api::{Refusal, Request};
use crate::exposition::Format;

/// Function that answers a question about the history. Runs on a thread where it may block.
pub type Answer = Arc<dyn Fn(&Request) -> Result<serde_json::Value, Refusal> + Send + Sync>;

/// Functions of the agent that the server calls.
#[derive(Clone)]
pub struct Handlers {
    /// Makes one scrape in the given format. Runs on a thread where it may block, one at a time.
    pub collect: Arc<dyn Fn(Format) -> anyhow::Result<Bytes> + Send + Sync>,
    /// Returns the reason if the agent is not healthy. Must not block.
    pub health: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Returns the reason if the agent does not measure yet. Must not block.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Returns the answer of `/api/v1/status`. Must not block.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Answer of `/api/v1/topology`.
    pub topology: serde_json::Value,
    /// Functions that answer from the history.
    pub answers: Answers,
}

/// Answers from the history.
#[derive(Clone)]
pub struct Answers {
    /// Makes the answer of `/api/v1/top`.
    pub top: Answer,
    /// Makes the answer of `/api/v1/timeline`.
    pub timeline: Answer,
    /// Makes the answer of `/api/v1/explain`.
    pub explain: Answer,
}

impl Default for Answers {
    /// Refuses every question: for a server without a history.
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

/// Bounds on the time and memory that clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections that wait for a request. For one more, the server closes the one that has waited
    /// longest, of the peer with most of them.
    pub waiting: usize,
    /// Maximum number of requests at a time, each from the end of its head until the client has taken the answer; one
    /// more is refused. Requests for `/healthz` and `/readyz` are not counted.
    pub requests: usize,
    /// The same for one peer: an IPv4 address, an IPv6 network of 64 bits, or this host.
    pub requests_by_peer: usize,
    /// Maximum size of a request's head, in bytes.
    pub head_bytes: usize,
    /// Timeout from accepting a connection, or from its last answer, to the end of the next request's head. Its default
    /// lies between the usual scrape intervals, so that a scraper does not meet a connection that is just being closed.
    pub head_time: Duration,
    /// Timeout of a client that takes nothing of its answer.
    pub stall_time: Duration,
    /// Timeout of a client that has not taken the whole of its answer.
    pub answer_time: Duration,
    /// Budget for answers that clients are still reading, in bytes; beyond it the next answer waits. An answer that is
    /// larger than the budget takes all of it.
    pub unread_bytes: usize,
    /// Timeout of an answer that waits for room in the budget; then the client is told to ask again.
    pub room_time: Duration,
    /// Timeout of a client that has not taken the whole of its answer, when other answers wait for room.
    pub slow_time: Duration,
    /// Timeout of a scrape: less than Prometheus' default, so that the reason reaches its log.
    pub scrape_time: Duration,
    /// Timeout of waiting for one's turn to ask about the history.
    pub question_time: Duration,
    /// Maximum time for which open connections delay a shutdown.
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

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds on clients.
    pub limits: Limits,
    /// Names under which clients may ask.
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
/// A collect that hangs does not delay this function, but its thread delays dropping the runtime: end the runtime with
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
        // Lets open connections run between two new ones, so that a flood of new connections closes none whose request
        // has arrived.
        tokio::task::yield_now().await;
    }
    drop(listener);
    drop(stop);
    // The receivers see that the sender is gone; each connection then ends after its current request.
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

/// Accepts the next connection. An error concerns one client, or is a shortage of descriptors or memory that will pass.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client left before it was accepted; try the next one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
