//! The node's pods, joined from both directories.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::names::{Link, PodName};
use crate::attribution::pods::feed::{Closed, Feed, Message};
use crate::attribution::pods::rejected::Doubts;
use crate::attribution::pods::{Pod, PodUid};

/// The node's pods by UID.
#[derive(Debug, Default)]
pub(super) struct View {
    pods: BTreeMap<PodUid, Seen>,
    /// Pods that have or had a directory. Once the directory is gone the pod has ended, though its links stay for a
    /// while.
    with_directory: HashSet<PodUid>,
}

/// One pod.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    namespace: String,
    name: String,
    /// Containers' names by ID.
    containers: BTreeMap<String, String>,
}

impl View {
    /// Joins the entries of both directories. Of two contradicting entries, the one that `self` has wins, else the
    /// first by file name.
    pub(super) fn next<'a>(
        &self,
        directories: impl Iterator<Item = &'a PodName>,
        links: impl Iterator<Item = &'a Link>,
        doubts: &mut Doubts,
    ) -> Self {
        let mut next = Self::default();
        let mut directories: Vec<_> = directories.collect();
        directories.sort_by_key(|pod| !self.has(pod));
        for pod in directories {
            next.with_directory.insert(pod.uid.clone());
            next.add(pod, doubts);
        }
        let mut links: Vec<_> = links.collect();
        links.sort_by_key(|link| !self.has_container(link));
        let mut by_id = HashMap::new();
        for link in links {
            let uid = &link.pod.uid;
            let has_ended = self.with_directory.contains(uid) && !next.pods.contains_key(uid);
            if has_ended {
                // The pod is remembered until the last of its links has gone too.
                next.with_directory.insert(uid.clone());
                continue;
            }
            if let Some(id) = link.whole_id() {
                let first = *by_id.entry(id).or_insert(link);
                if first.pod != link.pod || first.container != link.container {
                    doubts.note("conflict", || two_names(first, link));
                    continue;
                }
            }
            if let Some(seen) = next.add(&link.pod, doubts) {
                seen.name_container(link, doubts);
            }
        }
        next
    }

    /// Returns the pod, adding it if need be; none if the UID belongs to a pod of another name.
    fn add(&mut self, pod: &PodName, doubts: &mut Doubts) -> Option<&mut Seen> {
        let seen = match self.pods.entry(pod.uid.clone()) {
            Entry::Vacant(entry) => entry.insert(Seen {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                containers: BTreeMap::new(),
            }),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if seen.is(pod) {
            return Some(seen);
        }
        doubts.note("conflict", || {
            format!(
                "pods {}/{} and {}/{} both have UID {}; the first keeps it; remove what is not the kubelet's",
                seen.namespace, seen.name, pod.namespace, pod.name, pod.uid
            )
        });
        None
    }

    fn has(&self, pod: &PodName) -> bool {
        self.pods.get(&pod.uid).is_some_and(|seen| seen.is(pod))
    }

    fn has_container(&self, link: &Link) -> bool {
        let seen = self.pods.get(&link.pod.uid);
        seen.is_some_and(|seen| {
            seen.is(&link.pod) && seen.containers.get(&link.id) == Some(&link.container)
        })
    }

    /// Returns the number of pods.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// Reports all pods.
    pub(super) fn say_all(&self, feed: &Feed) -> Result<(), Closed> {
        let all = self.pods.iter();
        let all = all.map(|(uid, seen)| (uid.clone(), seen.beyond(None)));
        feed.say(Message::All(all.collect()))
    }

    /// Reports the difference from `before`: first ended pods, then new pods and new containers.
    pub(super) fn say_changes(&self, before: &Self, feed: &Feed) -> Result<(), Closed> {
        for (uid, was) in &before.pods {
            if self.pods.get(uid).is_none_or(|seen| !seen.is_same_pod(was)) {
                feed.say(Message::Ended(uid.clone()))?;
            }
        }
        for (uid, seen) in &self.pods {
            let was = before.pods.get(uid);
            let was = was.filter(|was| seen.is_same_pod(was));
            let pod = seen.beyond(was);
            if was.is_none() || !pod.containers.is_empty() {
                feed.say(Message::Put(uid.clone(), pod))?;
            }
        }
        Ok(())
    }
}

impl Seen {
    fn is(&self, pod: &PodName) -> bool {
        self.namespace == pod.namespace && self.name == pod.name
    }

    fn is_same_pod(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }

    /// Adds a container. An empty ID identifies none.
    fn name_container(&mut self, link: &Link, doubts: &mut Doubts) {
        if link.id.is_empty() {
            return;
        }
        let name = self
            .containers
            .entry(link.id.clone())
            .or_insert_with(|| link.container.clone());
        if *name != link.container {
            doubts.note("conflict", || {
                format!(
                    "containers {name} and {} of pod {}/{} both have an ID that begins with {}; the first keeps it",
                    link.container, self.namespace, self.name, link.id
                )
            });
        }
    }

    /// Returns the pod with the containers whose ID or name is new since `before`.
    fn beyond(&self, before: Option<&Self>) -> Pod {
        let is_new = |id: &str, name: &str| {
            before.is_none_or(|before| before.containers.get(id).is_none_or(|was| was != name))
        };
        let containers = self.containers.iter();
        Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            containers: containers
                .filter(|(id, name)| is_new(id, name))
                .map(|(id, name)| (id.clone(), name.clone()))
                .collect(),
            ..Pod::default()
        }
    }
}

fn two_names(first: &Link, second: &Link) -> String {
    let shown = |link: &Link| {
        format!(
            "{}/{}/{}",
            link.pod.namespace, link.pod.name, link.container
        )
    };
    format!(
        "two links say that container {} is {} and {}; the first keeps it; remove what is not the kubelet's",
        first.id,
        shown(first),
        shown(second)
    )
}
