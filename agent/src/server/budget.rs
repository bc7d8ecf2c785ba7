//! Memory budget of the answers that clients have not read yet: one for all clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep_until};

use super::Limits;
use super::metrics::Own;
use super::peers::Peers;

/// Unit of the budget, in bytes.
const KIB: usize = 1024;

/// Value of `Retry-After` for a client whose answer found no room, in seconds.
pub(super) const RETRY_AFTER: &str = "5";

/// Error: the budget has no room for one more answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full {
    bytes: usize,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "answers that clients have yet to read take all of the {} KiB kept for them; ask again",
            self.bytes / KIB
        )
    }
}

/// Bytes for answers, each from when it is made until the last client has read or dropped it.
pub(super) struct Budget {
    /// One permit for each KiB.
    free: Arc<Semaphore>,
    limits: Limits,
    peers: Arc<Peers>,
    unread: IntGauge,
}

impl Budget {
    pub(super) fn new(limits: Limits, peers: Arc<Peers>, own: &Own) -> Self {
        Self {
            free: Arc::new(Semaphore::new(units(limits.unread_bytes) as usize)),
            limits,
            peers,
            unread: own.unread.clone(),
        }
    }

    /// Waits for room. Meanwhile closes connections whose clients are slow in reading their answers.
    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Full> {
        const PAUSE: Duration = Duration::from_millis(100);
        let units = units(bytes.min(self.limits.unread_bytes));
        let mut permit = std::pin::pin!(Arc::clone(&self.free).acquire_many_owned(units));
        let end = Instant::now() + self.limits.room_time;
        loop {
            let pause = end.min(Instant::now() + PAUSE);
            tokio::select! {
                biased;
                Ok(permit) = &mut permit => return Ok(permit),
                () = sleep_until(pause) => {}
            }
            if pause == end {
                return Err(Full {
                    bytes: self.limits.unread_bytes,
                });
            }
            self.peers.close_slowest();
        }
    }

    /// Returns the text with a permit for its size, which may be more or less than was reserved.
    async fn keep(&self, mut permit: OwnedSemaphorePermit, text: Bytes) -> Result<Bytes, Full> {
        let units = units(text.len().min(self.limits.unread_bytes)) as usize;
        match permit.num_permits() {
            more if more > units => drop(permit.split(more - units)),
            less if less < units => permit.merge(self.reserve((units - less) * KIB).await?),
            _ => {}
        }
        let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
        self.unread.add(bytes);
        Ok(Bytes::from_owner(Held {
            text,
            unread: self.unread.clone(),
            bytes,
            _permit: permit,
        }))
    }
}

fn units(bytes: usize) -> u32 {
    let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
    bytes.div_ceil(KIB).clamp(1, most) as u32
}

/// An answer in memory, with its permit.
struct Held {
    text: Bytes,
    unread: IntGauge,
    bytes: i64,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unread.sub(self.bytes);
    }
}

/// A kind of answers, made one at a time: beside the unread ones there is only one more in memory.
#[derive(Clone)]
pub(super) struct Kind {
    budget: Arc<Budget>,
    turn: Arc<Semaphore>,
    /// Size of the last answer, in bytes; that much room has to be free before work on the next one starts.
    last: Arc<AtomicUsize>,
}

impl Kind {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            turn: Arc::new(Semaphore::new(1)),
            last: Arc::default(),
        }
    }

    /// Returns another kind that shares this one's turn: no answer of either is made while one of the other is.
    pub(super) fn beside(&self) -> Self {
        Self {
            last: Arc::default(),
            ..self.clone()
        }
    }

    /// Waits for the turn of one more answer, and for room for it.
    pub(super) async fn place(&self) -> Result<Place, Full> {
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            unreachable!("nothing closes it");
        };
        let room = self
            .budget
            .reserve(self.last.load(Ordering::Relaxed))
            .await?;
        Ok(Place {
            kind: self.clone(),
            room,
            _turn: turn,
        })
    }
}

/// Permission to make an answer; no other of its kind is made while this is held.
pub(super) struct Place {
    kind: Kind,
    room: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Place {
    /// Returns the answer, which takes up its room until the last client has read or dropped it.
    pub(super) async fn keep(self, text: Bytes) -> Result<Bytes, Full> {
        self.kind.last.store(text.len(), Ordering::Relaxed);
        self.kind.budget.keep(self.room, text).await
    }
}
