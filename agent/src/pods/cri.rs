//! Names from the container runtime itself, over its CRI socket.
//!
//! Two calls of the container runtime interface, version 1, list all there is: pods' sandboxes and containers. Nothing is
//! watched: it is asked at the start, when a cgroup has no name, and once a minute.

mod ask;
mod join;
mod messages;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use self::ask::{Failure, Listed};
use self::join::Join;
use super::feed::{Closed, Feed, Message};
use crate::deadline::{Reader, Reads};

/// How long the runtime has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// It is asked again after this long though nothing is wanted: pods that have ended are found so.
const PERIOD: Duration = Duration::from_secs(60);

/// It is left alone for this long after an answer, and for some times as long as that took.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_RATIO: u32 = 9;

/// After a failure it is asked again after the first of these, then twice as long each time up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Where runtimes have their sockets: containerd, k3s and RKE2, CRI-O, Docker by cri-dockerd.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
];

/// The first of the sockets of known runtimes that is there.
#[must_use]
pub fn default_socket() -> Option<PathBuf> {
    let mut sockets = SOCKETS.iter().map(Path::new);
    sockets.find(|path| path.exists()).map(Path::to_owned)
}

/// Asks the runtime behind `socket` on a thread of its own, until nobody listens any more.
///
/// # Errors
/// When the thread cannot be started. A socket that does not answer is none: the feed says so, and it is tried for ever.
pub fn spawn(socket: PathBuf, feed: Feed, reads: &Reads) -> anyhow::Result<()> {
    let reader = reads.reader("cri_socket", PATIENCE);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot ask the container runtime: no event loop")?;
    std::thread::Builder::new()
        .name("pods-cri".to_owned())
        .spawn(move || tokio.block_on(run(&socket, &feed, &reader)))
        .context("cannot ask the container runtime: no thread")?;
    Ok(())
}

/// Reads bytes as both answers of a runtime, and makes pods of them: the door for `fuzz/`.
#[doc(hidden)]
pub fn fuzz(answer: &[u8]) {
    let sandboxes = messages::List::decode(answer);
    let containers = messages::List::decode(answer);
    if let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) {
        let mut join = Join::default();
        let pods = join.news(Listed {
            sandboxes,
            containers,
        });
        super::fuzz_directory(pods.unwrap_or_default());
    }
}

async fn run(socket: &Path, feed: &Feed, reader: &Reader) -> Closed {
    let mut join = Join::default();
    let mut retry = FIRST_RETRY;
    loop {
        let start = Instant::now();
        let answer = timeout(PATIENCE, ask::list(socket, reader)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::timeout(socket, PATIENCE)));
        let pause = match say(feed, &mut join, answer) {
            Ok(true) => {
                retry = FIRST_RETRY;
                PAUSE.max(start.elapsed() * PAUSE_RATIO)
            }
            Ok(false) => {
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
            Err(closed) => return closed,
        };
        sleep(pause).await;
        if retry == FIRST_RETRY {
            // Whether it is wanted or time is up, it is asked.
            let _ = timeout(PERIOD.saturating_sub(pause), feed.wanted()).await;
        }
    }
}

/// Says what the runtime answered; whether it did.
fn say(feed: &Feed, join: &mut Join, answer: Result<Listed, Failure>) -> Result<bool, Closed> {
    match answer {
        Ok(listed) => {
            feed.say(Message::Up)?;
            if let Some(pods) = join.news(listed) {
                feed.say(Message::All(pods))?;
            }
            join.doubts.say(feed)?;
            Ok(true)
        }
        Err(Failure { reason, text }) => {
            feed.down(reason, text)?;
            Ok(false)
        }
    }
}
