//! Names of this node's pods: the source that gives them, the source's state, and the directory that it fills.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Directory, Found, PodIdentity, api, cri,
    feed::{Feed, Inbox, Message, Trouble, feed},
    files::{News, Reading},
};
use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::deadline::Reads,
};

/// The families that this module writes.
pub static METRICS: [&Metric; 4] = [&INFO, &UP, &ERRORS, &PODS];

static INFO: Metric = Metric {
    name: "stallscope_pod_source_info",
    kind: Kind::Info,
    help: "Where the names of pods come from, and why from there.",
    labels: &["source", "reason"],
    scope: Scope::Host,
    source: "`--pod-source`",
};

static UP: Metric = Metric {
    name: "stallscope_pod_source_up",
    kind: Kind::Gauge,
    help: "Whether the source of pods' names could be read the last time it was tried; names already known are kept.",
    labels: &["source"],
    scope: Scope::Host,
    source: "the agent",
};

static ERRORS: Metric = Metric {
    name: "stallscope_pod_source_errors_total",
    kind: Kind::Counter,
    help: "What could not be read from the source of pods' names, or made no sense, by reason.",
    labels: &["source", "reason"],
    scope: Scope::Host,
    source: "the agent",
};

static PODS: Metric = Metric {
    name: "stallscope_pod_source_pods",
    kind: Kind::Gauge,
    help: "Pods that the source says this node runs.",
    labels: &["source"],
    scope: Scope::Host,
    source: "the agent",
};

/// A source of names.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// No source: pods are known by their cgroup.
    #[default]
    None,
    /// The directory with the kubelet's `pods` and `containers`.
    Files(PathBuf),
    /// The Kubernetes API.
    Api(api::Config),
    /// The container runtime's socket.
    Cri(PathBuf),
}

impl Source {
    /// Returns the source's name as the value of `--pod-source`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Files(_) => "files",
            Self::Api(_) => "api",
            Self::Cri(_) => "cri",
        }
    }
}

/// A source, and the reason why it was chosen.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The source.
    pub source: Source,
    /// The reason, as text for people.
    pub reason: String,
}

/// The source of names, and the directory that it fills.
#[derive(Debug)]
pub struct Names {
    chosen: Chosen,
    inbox: Inbox,
    /// The source's end of the feed, until the source has started.
    feed: Option<Feed>,
    /// The source of files, which the agent polls; the other sources send messages by themselves.
    files: Option<Reading>,
    /// True once the source has dropped its end of the feed.
    ended: bool,
    directory: Directory,
    health: Health,
}

/// State of a source.
#[derive(Debug, Default)]
struct Health {
    /// True if the last attempt succeeded; none before the first attempt is over.
    up: Option<bool>,
    errors: BTreeMap<&'static str, u64>,
    /// Reasons why the source could not be read, since it last could: each is logged once.
    down: BTreeSet<&'static str>,
    /// Texts of the doubts that were logged, by reason.
    doubts: BTreeMap<&'static str, BTreeSet<String>>,
}

/// Maximum number of doubts logged per reason; further ones are counted, and shown with `RUST_LOG=debug`.
const LOGGED_DOUBTS: usize = 8;

impl Names {
    /// Makes the names from a source that is not started yet.
    #[must_use]
    pub fn new(chosen: Chosen) -> Self {
        let (feed, inbox) = feed();
        Self {
            chosen,
            inbox,
            feed: Some(feed),
            files: None,
            ended: false,
            directory: Directory::default(),
            health: Health::default(),
        }
    }

    /// Starts the source; does nothing if it runs already. With files, a poll waits at most a `moment` for `reads`.
    ///
    /// # Errors
    /// When the source can never work with its settings.
    pub fn start(&mut self, reads: &Reads, moment: Duration) -> anyhow::Result<()> {
        let Some(feed) = self.feed.take() else {
            return Ok(());
        };
        match &self.chosen.source {
            Source::None => {}
            Source::Files(root) => {
                self.files = Some(Reading::new(root.clone(), feed, reads, moment));
            }
            Source::Api(config) => api::spawn(config.clone(), feed)?,
            Source::Cri(socket) => cri::spawn(socket.clone(), feed, reads)?,
        }
        Ok(())
    }

    /// Returns whether there is a source at all.
    #[must_use]
    pub const fn expected(&self) -> bool {
        !matches!(self.chosen.source, Source::None)
    }

    /// Returns whether the source states the workload of a pod. If it does, a pod without one has none.
    #[must_use]
    pub const fn tell_makers(&self) -> bool {
        matches!(self.chosen.source, Source::Api(_))
    }

    /// Applies the source's messages. Returns true when names may have changed.
    pub fn poll(&mut self, now: Instant) -> bool {
        let news = self.files.as_mut().and_then(Reading::poll);
        let mut changed = false;
        loop {
            let message = match self.inbox.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => {
                    self.ended = self.expected();
                    break;
                }
            };
            match message {
                Message::Put(uid, pod) => {
                    changed = true;
                    self.health.put(self.directory.put(uid, pod));
                }
                Message::Ended(uid) => self.directory.end(&uid, now),
                Message::All(pods) => {
                    changed = true;
                    self.directory
                        .end_others(pods.iter().map(|(uid, _)| uid), now);
                    for (uid, pod) in pods {
                        self.health.put(self.directory.put(uid, pod));
                    }
                }
                Message::Up => self.health.up(self.chosen.source.name()),
                Message::Trouble(trouble) => self.health.trouble(&trouble),
            }
        }
        match news {
            None => {}
            Some(News::Back) => self.health.up(self.chosen.source.name()),
            Some(News::Late(late)) => self.health.trouble(&Trouble {
                reason: "timeout",
                text: late.to_string(),
                down: true,
            }),
        }
        changed
    }

    /// Returns the reason why no further name will come, if the source has ended.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        let source = self.chosen.source.name();
        self.ended
            .then(|| format!("the source of pods' names ({source}) has ended"))
    }

    /// Asks the source to look again, because there is a pod or container without a name.
    pub fn want(&self) {
        self.inbox.want();
    }

    /// Finds a cgroup's pod and container.
    #[must_use]
    pub fn find(&self, identity: &PodIdentity) -> Found<'_> {
        self.directory.find(identity)
    }

    /// Forgets pods that ended long ago.
    pub fn expire(&mut self, now: Instant) {
        self.directory.expire(now);
    }

    /// Writes the families.
    pub fn encode(&self, out: &mut Encoder) {
        let source = self.chosen.source.name();
        out.family(&INFO)
            .sample(None, &[source, &self.chosen.reason], Value::Count(1));
        if !self.expected() {
            return;
        }
        if let Some(up) = self.health.up {
            out.family(&UP)
                .sample(None, &[source], Value::Count(u64::from(up)));
        }
        let mut family = out.family(&ERRORS);
        for (reason, count) in &self.health.errors {
            family.sample(None, &[source, reason], Value::Count(*count));
        }
        let pods = self.directory.running() as u64;
        out.family(&PODS)
            .sample(None, &[source], Value::Count(pods));
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chosen { source, reason } = &self.chosen;
        write!(f, "{}: {reason}", source.name())?;
        match self.health.up {
            None => Ok(()),
            Some(true) => write!(f, "; {} pods", self.directory.running()),
            Some(false) => {
                let reasons: Vec<_> = self.health.down.iter().copied().collect();
                write!(
                    f,
                    "; not readable now ({}), {} pods known",
                    reasons.join(", "),
                    self.directory.running()
                )
            }
        }
    }
}

impl Health {
    fn put(&mut self, taken: Result<(), super::Conflict>) {
        if let Err(conflict) = taken {
            self.trouble(&Trouble {
                reason: "conflict",
                text: conflict.to_string(),
                down: false,
            });
        }
    }

    fn up(&mut self, source: &str) {
        if self.up.replace(true) == Some(false) {
            tracing::info!(source, "the source of pods' names answers again");
        }
        self.down.clear();
    }

    /// Counts a problem, and logs it at `warn` the first time, then at `debug`.
    fn trouble(&mut self, trouble: &Trouble) {
        let Trouble { reason, text, down } = trouble;
        *self.errors.entry(reason).or_default() += 1;
        let new = if *down {
            self.up = Some(false);
            self.down.insert(reason)
        } else {
            let logged = self.doubts.entry(reason).or_default();
            logged.len() < LOGGED_DOUBTS && logged.insert(text.clone())
        };
        if new {
            tracing::warn!(reason, "{text}");
        } else {
            tracing::debug!(reason, "{text}");
        }
    }
}
