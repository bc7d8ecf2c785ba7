//! Memory for answers that clients have yet to read: one budget for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep_until};

use super::Limits;
use super::own::Own;
use super::peers::Peers;

/// The unit of the budget.
const KIB: usize = 1024;

/// When a client for whose answer there was no room may ask again, in seconds.
pub(super) const RETRY_AFTER: &str = "5";

/// There is no room for one more answer.
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

/// Bytes for answers, from when they are made until the last client has read or dropped them.
pub(super) struct Budget {
    /// A permit for each KiB.
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

    /// Waits for room. Who is slow in reading an answer is closed for it.
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

    /// The text, in the room that it takes: more or less than was reserved for it.
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

/// An answer in memory.
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

/// Answers of a kind, made one at a time: beside what clients have yet to read there is only one more in memory.
#[derive(Clone)]
pub(super) struct Kind {
    budget: Arc<Budget>,
    turn: Arc<Semaphore>,
    /// Size of the last one, for which there has to be room before work is put into the next.
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

    /// Another kind, of which none is made while one of this is.
    pub(super) fn beside(&self) -> Self {
        Self {
            last: Arc::default(),
            ..self.clone()
        }
    }

    /// Waits until it is the turn of one more answer, and there is room for it.
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

/// The right to make an answer; no other of its kind is made while this is held.
pub(super) struct Place {
    kind: Kind,
    room: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Place {
    /// The answer, which takes its room until the last client has read or dropped it.
    pub(super) async fn keep(self, text: Bytes) -> Result<Bytes, Full> {
        self.kind.last.store(text.len(), Ordering::Relaxed);
        self.kind.budget.keep(self.room, text).await
    }
}
