//! Pods from the runtime's two lists.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::exchange::Listed;
use super::messages::{Container, MAX_ITEMS, Sandbox, SandboxMetadata};
use crate::attribution::pods::rejected::Doubts;
use crate::attribution::pods::{Pod, PodUid};

/// Longest name that Kubernetes allows, in bytes: a pod's; other names have 63 at most.
const MAX_NAME: usize = 253;

/// Joins sandboxes and containers, and remembers the pods last passed on.
#[derive(Debug, Default)]
pub(super) struct Join {
    pub(super) doubts: Doubts,
    said: Option<Vec<(PodUid, Pod)>>,
}

impl Join {
    /// Returns all pods of an answer, or none if they are those of the answer before: the agent has work with each
    /// list.
    pub(super) fn news(&mut self, listed: Listed) -> Option<Vec<(PodUid, Pod)>> {
        let pods = Some(self.pods(listed));
        if self.said == pods {
            return None;
        }
        self.said.clone_from(&pods);
        pods
    }

    /// All pods of an answer.
    ///
    /// A sandbox's UID is the pod's as the kubelet and the cgroup have it: for a static pod the hash of its
    /// configuration. For a container whose sandbox is gone, the labels that the kubelet sets on each container give
    /// the same.
    fn pods(&mut self, listed: Listed) -> Vec<(PodUid, Pod)> {
        self.doubts = self.doubts.next();
        if listed.sandboxes.beyond + listed.containers.beyond > 0 {
            self.doubts.note("many", || {
                format!(
                    "the runtime lists more than {MAX_ITEMS} sandboxes or containers, which no node has; the others are left out; \
                     remove what has ended"
                )
            });
        }
        let mut pods = BTreeMap::new();
        let mut by_sandbox = HashMap::new();
        for Sandbox { id, metadata } in listed.sandboxes.items {
            // None for a pod that is left out; its containers are left out with it.
            by_sandbox.insert(id, self.add(&mut pods, metadata.unwrap_or_default()));
        }
        let mut containers = listed.containers.items;
        // Newest last: the directory keeps the last ones where a pod has very many.
        containers.sort_by_key(|container| container.created);
        for mut container in containers {
            let uid = match by_sandbox.get(&container.sandbox) {
                Some(uid) => uid.clone(),
                None => self.add(&mut pods, pod_by_labels(&mut container.labels)),
            };
            let pod = uid.and_then(|uid| pods.get_mut(&uid));
            if let Some((pod, name)) = pod.zip(name_of(&mut container)) {
                pod.containers.push((container.id, name));
            }
        }
        pods.into_iter().collect()
    }

    /// Adds a pod. Returns none if it is not the kubelet's, or contradicts another.
    fn add(&mut self, pods: &mut BTreeMap<PodUid, Pod>, said: SandboxMetadata) -> Option<PodUid> {
        let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len());
        let uid = PodUid::parse(&said.uid);
        let Some(uid) = uid.filter(|_| is_name(&said.name) && is_name(&said.namespace)) else {
            self.doubts.note("name", || {
                format!(
                    "the runtime lists a pod {:.80?} in {:.80?} with UID {:.80?}, which no kubelet makes; it is left out",
                    said.name, said.namespace, said.uid
                )
            });
            return None;
        };
        match pods.entry(uid.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Pod {
                    namespace: said.namespace,
                    name: said.name,
                    ..Pod::default()
                });
            }
            Entry::Occupied(entry) => {
                let known = entry.get();
                if known.namespace != said.namespace || known.name != said.name {
                    self.doubts.note("conflict", || {
                        format!(
                            "the runtime lists {known} and {}/{} with UID {uid}; the first keeps it",
                            said.namespace, said.name
                        )
                    });
                    return None;
                }
            }
        }
        Some(uid)
    }
}

/// Returns the pod from the kubelet's labels (kubernetes/pkg/kubelet/types/labels.go in k8s.io/kubelet).
fn pod_by_labels(labels: &mut HashMap<String, String>) -> SandboxMetadata {
    let mut take = |key| labels.remove(key).unwrap_or_default();
    SandboxMetadata {
        name: take("io.kubernetes.pod.name"),
        uid: take("io.kubernetes.pod.uid"),
        namespace: take("io.kubernetes.pod.namespace"),
    }
}

/// Returns a container's name; none where its ID or its name does not have Kubernetes' form.
fn name_of(container: &mut Container) -> Option<String> {
    let name = container.metadata.take().map(|metadata| metadata.name);
    let name = name
        .filter(|name| !name.is_empty())
        .or_else(|| container.labels.remove("io.kubernetes.container.name"))?;
    let is_id =
        container.id.len() == 64 && container.id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && (1..=MAX_NAME).contains(&name.len())).then_some(name)
}

#[cfg(test)]
mod tests;
