//! Names from the Kubernetes API: the pods of this node, listed once and then watched.
//!
//! The agent needs the verbs `list` and `watch` on `pods`, nothing else. `fieldSelector=spec.nodeName=<node>` limits
//! each request to one node. The agent gives up on an answer that is too long, too slow or malformed. It retries for
//! ever, at growing intervals.

mod body;
mod bounded_feed;
mod connect;
mod convert;
mod failure;
mod session;
mod wire;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, ensure};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use super::feed::{Closed, Feed};
use bounded_feed::Teller;
use session::{Position, Stop};

/// Directory where a pod finds its service account.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Maximum number of pods kept: a node runs a few hundred.
pub const MAX_PODS: usize = 4000;

/// Maximum length of a node's name, in bytes (a DNS subdomain, as the API checks it).
const MAX_NODE: usize = 253;

/// Settings of the source: the API server, the credentials, and the pods to ask for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node, as in its pods' `spec.nodeName`.
    pub node: String,
    /// The API server's URL. Without it, the kubeconfig's is used, or else that of the cluster the agent runs in
    /// (`KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`).
    pub address: Option<String>,
    /// A kubeconfig file; its current context is used. Without it, the service account's token is used.
    pub kubeconfig: Option<PathBuf>,
    /// The keys of the labels to read of each pod.
    pub labels: Vec<String>,
    /// The directory with the service account's `token` and `ca.crt`.
    pub service_account: PathBuf,
    /// Timeouts and pauses.
    pub timing: Timing,
}

impl Config {
    /// Returns the settings for the pods of `node`, from the API of the cluster the agent runs in.
    #[must_use]
    pub fn in_cluster(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            address: None,
            kubeconfig: None,
            labels: Vec::new(),
            service_account: PathBuf::from(SERVICE_ACCOUNT),
            timing: Timing::default(),
        }
    }
}

/// Timeouts and pauses.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The pause after a first failure. Each further failure doubles it, and a random part makes it up to twice as
    /// long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Timeout of connecting.
    pub connect: Duration,
    /// Timeout of the start of an answer, of a whole list, and of the rest of a line once its first bytes are there.
    pub answer: Duration,
    /// The time after which the API server is asked to end a watch, so that the agent starts the next; at most 240 s. A
    /// random part makes it up to a fifth longer.
    pub watch: Duration,
    /// The time a session has to last before the pauses start from the first again.
    pub steady: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            watch: Duration::from_secs(240),
            steady: Duration::from_secs(60),
        }
    }
}

/// Starts the thread that keeps `feed` informed until the agent drops its end.
///
/// The API need not answer yet.
///
/// # Errors
/// When `config` is invalid by itself, whatever the API answers.
pub fn spawn(config: Config, feed: Feed) -> anyhow::Result<()> {
    check_node(&config.node)?;
    connect::check(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the pod source")?;
    let body = move || {
        // The library's own messages contain whole answers; the feed gets what matters.
        let _silent =
            tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
        // The agent has dropped its end: nothing is left to do.
        let Err(Closed) = runtime.block_on(run(&config, Teller::new(feed)));
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name("pod-source".to_owned())
        .spawn(body)
        .context("cannot start the thread of the pod source")?;
    Ok(())
}

/// Parses bytes as each kind of the API's answers and makes pods of them: the entry point for `fuzz/`.
#[doc(hidden)]
pub fn fuzz(answer: &[u8]) {
    let labels = ["app".to_owned()];
    let mut pods = Vec::new();
    if let Ok(page) = serde_json::from_slice::<wire::Page>(answer) {
        for item in page.items.iter().flatten() {
            pods.extend(convert::read(item.get(), &labels).pod);
        }
        let _ = page.metadata.resource_version.map(convert::version);
    }
    if let Ok(event) = serde_json::from_slice::<wire::Event>(answer) {
        let object = event.object.get();
        pods.extend(convert::read(object, &labels).pod);
        let _ = serde_json::from_str::<wire::Bookmark>(object);
        let said = serde_json::from_str::<wire::Status>(object).unwrap_or_default();
        let _ = failure::Failure::said("", said.code.unwrap_or(500), &said);
    }
    let _ = failure::Failure::status(
        "",
        hyper::StatusCode::FORBIDDEN,
        &hyper::HeaderMap::new(),
        answer,
    );
    super::fuzz_directory(pods);
}

/// Lists and watches until the agent drops its end.
async fn run(config: &Config, mut teller: Teller) -> Result<std::convert::Infallible, Closed> {
    let mut position = Position::Start;
    let mut pauses = pauses(config.timing);
    loop {
        let start = Instant::now();
        let mut pause = match session::run(config, &mut teller, &mut position).await {
            Ok(()) => Duration::ZERO,
            Err(Stop::Closed) => return Err(Closed),
            Err(Stop::Failed(failure)) => {
                teller.down(&failure)?;
                failure.pause.min(config.timing.longest_pause)
            }
        };
        let steady = start.elapsed() >= config.timing.steady;
        if steady {
            pauses = self::pauses(config.timing);
        }
        // A watch that ended in its own time is followed by the next without a pause.
        if !steady || !pause.is_zero() {
            pause = pause.max(pauses.next().unwrap_or(config.timing.longest_pause));
        }
        sleep(pause).await;
    }
}

/// Returns the pauses between attempts. Half of the longest is random, so that a cluster's nodes do not all retry at
/// once.
fn pauses(timing: Timing) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(timing.first_pause)
        .with_max_delay(timing.longest_pause / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

fn check_node(node: &str) -> anyhow::Result<()> {
    ensure!(
        !node.is_empty(),
        "the Kubernetes API is asked for the pods of one node, and no node is named: give --node-name, in a pod from \
         spec.nodeName by the downward API"
    );
    let is_name = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
    };
    ensure!(
        node.len() <= MAX_NODE && node.bytes().all(is_name),
        "{node:?} is no node's name: expected lower-case letters, digits, '-' and '.', at most {MAX_NODE}; give \
         --node-name as `kubectl get nodes` shows it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::pods::feed::feed;

    #[test]
    fn a_node_that_cannot_be_is_refused() {
        for node in ["", "Node", "a,b", "a=b", "a b", "ä", &"a".repeat(254)] {
            let config = Config {
                address: Some("http://127.0.0.1:1".to_owned()),
                ..Config::in_cluster(node)
            };
            let error = spawn(config, feed().0)
                .expect_err("no such node")
                .to_string();
            assert!(error.contains("--node-name"), "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_stay_random() {
        let timing = Timing::default();
        let all: Vec<Duration> = pauses(timing).take(50).collect();
        assert!(all[0] >= timing.first_pause && all[0] <= 2 * timing.first_pause);
        assert!(all.iter().all(|pause| *pause <= timing.longest_pause));
        let late = &all[10..];
        assert!(late.iter().all(|pause| *pause >= timing.longest_pause / 2));
        assert!(late.iter().any(|pause| *pause != late[0]));
    }
}
