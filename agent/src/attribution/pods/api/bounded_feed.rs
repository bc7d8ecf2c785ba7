//! The source's end of the feed, with bounds on what it passes on, whatever the API answers.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::MAX_PODS;
use super::convert::Reading;
use super::failure::Failure;
use crate::attribution::pods::feed::{Closed, Feed, Message};
use crate::attribution::pods::{Pod, PodUid};

/// Maximum number of changes passed on per second. The agent reads the feed once a second; faster changes wait in the
/// connection.
const CHANGES: u32 = 2048;
const PACE: Duration = Duration::from_secs(1);

/// Maximum number of doubts passed on per minute: a malformed pod is in every list and in every change of it.
const DOUBTS: u32 = 32;
const PATIENCE: Duration = Duration::from_secs(60);

/// The feed, and the pods last passed to it.
pub(super) struct Teller {
    feed: Feed,
    /// Namespace and name of the pods that run.
    known: HashMap<PodUid, (String, String)>,
    changes: Budget,
    doubts: Budget,
}

/// A limit on the number of events in a period.
struct Budget {
    until: Instant,
    left: u32,
}

impl Budget {
    fn new() -> Self {
        Self {
            until: Instant::now(),
            left: 0,
        }
    }

    fn take(&mut self, most: u32, every: Duration) -> bool {
        let now = Instant::now();
        if now >= self.until {
            self.until = now + every;
            self.left = most;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl Teller {
    pub(super) fn new(feed: Feed) -> Self {
        Self {
            feed,
            known: HashMap::new(),
            changes: Budget::new(),
            doubts: Budget::new(),
        }
    }

    pub(super) fn up(&self) -> Result<(), Closed> {
        self.feed.say(Message::Up)
    }

    pub(super) fn down(&self, failure: &Failure) -> Result<(), Closed> {
        self.feed.down(failure.reason, failure.text.as_str())
    }

    /// Passes on the complete set of pods.
    pub(super) fn all(&mut self, pods: Vec<(PodUid, Pod)>) -> Result<(), Closed> {
        self.known.clear();
        for (uid, pod) in &pods {
            let names = || (pod.namespace.clone(), pod.name.clone());
            self.known.entry(uid.clone()).or_insert_with(names);
        }
        self.feed.say(Message::All(pods))
    }

    /// Passes on a new or changed pod.
    pub(super) async fn put(&mut self, reading: Reading) -> Result<(), Closed> {
        let Some((uid, pod)) = self.take(reading).await? else {
            return Ok(());
        };
        if !self.known.contains_key(&uid) && self.known.len() >= MAX_PODS {
            return self.too_many();
        }
        // Of two pods with one UID the first keeps it; the directory reports the conflict.
        let names = || (pod.namespace.clone(), pod.name.clone());
        self.known.entry(uid.clone()).or_insert_with(names);
        self.feed.say(Message::Put(uid, pod))
    }

    /// Passes on the end of a pod.
    pub(super) async fn ended(&mut self, reading: Reading) -> Result<(), Closed> {
        let Some((uid, pod)) = self.take(reading).await? else {
            return Ok(());
        };
        let same = |names: &(String, String)| names.0 == pod.namespace && names.1 == pod.name;
        if !self.known.get(&uid).is_some_and(same) {
            return Ok(());
        }
        self.known.remove(&uid);
        // A short-lived container that ended with its pod gets its name only here.
        self.feed.say(Message::Put(uid.clone(), pod))?;
        self.feed.say(Message::Ended(uid))
    }

    pub(super) fn doubts(&mut self, reading: &mut Reading) -> Result<(), Closed> {
        for doubt in reading.doubts.drain(..) {
            self.doubt(doubt.reason, &doubt.text)?;
        }
        Ok(())
    }

    pub(super) fn doubt(&mut self, reason: &'static str, text: &str) -> Result<(), Closed> {
        if self.doubts.take(DOUBTS, PATIENCE) {
            self.feed.doubt(reason, text)?;
        }
        Ok(())
    }

    pub(super) fn too_many(&mut self) -> Result<(), Closed> {
        let text = format!(
            "the Kubernetes API has more than {MAX_PODS} pods for this node; the others stay without a name: check that \
             --node-name names one node"
        );
        self.doubt("too_many_pods", &text)
    }

    /// Returns the pod of a change once the budget allows it, and passes on its doubts.
    async fn take(&mut self, mut reading: Reading) -> Result<Option<(PodUid, Pod)>, Closed> {
        if !self.changes.take(CHANGES, PACE) {
            sleep_until(self.changes.until).await;
            self.changes.take(CHANGES, PACE);
        }
        self.doubts(&mut reading)?;
        Ok(reading.pod)
    }
}
