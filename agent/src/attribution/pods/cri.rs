//! Names from the container runtime, over its CRI socket.
//!
//! Two calls of the container runtime interface, version 1, list all sandboxes and containers. The agent does not
//! watch: it asks at the start, when a cgroup has no name, and once a minute.

mod exchange;
mod join;
mod messages;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use self::exchange::{Failure, Listed};
use self::join::Join;
use super::feed::{Closed, Feed, Message};
use crate::host::deadline::{Reader, Reads};

/// Timeout of the runtime's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time between two requests when no name is wanted: the agent learns so of pods that have ended.
const PERIOD: Duration = Duration::from_secs(60);

/// Minimum pause after an answer, and the pause as a multiple of the time that the answer took. The longer one counts.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_RATIO: u32 = 9;

/// Pause after a first failure, and the longest: each further failure doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Sockets of known runtimes: containerd, k3s and RKE2, CRI-O, Docker through cri-dockerd.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
];

/// Returns the first socket of a known runtime that exists.
#[must_use]
pub fn default_socket() -> Option<PathBuf> {
    let mut sockets = SOCKETS.iter().map(Path::new);
    sockets.find(|path| path.exists()).map(Path::to_owned)
}

/// Starts the thread that asks the runtime behind `socket`, until the agent drops its end of the feed.
///
/// # Errors
/// When the thread cannot be started. A socket that does not answer is no error: the feed reports it, and the thread
/// tries for ever.
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

/// Parses bytes as both answers of a runtime and makes pods of them: the entry point for `fuzz/`.
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
        let answer = timeout(PATIENCE, exchange::list(socket, reader)).await;
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
            // The next request follows either way: when a name is wanted, or when the period is over.
            let _ = timeout(PERIOD.saturating_sub(pause), feed.wanted()).await;
        }
    }
}

/// Passes on the runtime's answer. Returns whether there was one.
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
