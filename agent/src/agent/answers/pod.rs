//! The pod that an explanation is about.

use std::collections::BTreeSet;

use super::Agent;
use crate::{
    api::Labels,
    attribution::{
        owners::OwnerIndex,
        pods::{Found, PodIdentity, Workload},
    },
    explain::{Maker, PodFacts},
    ledger::history::{History, Subject},
};

impl Agent {
    /// Returns the facts about the pod that some owners are or belong to: from the source of names, and from recorded
    /// labels if the source has forgotten the pod. None outside of Kubernetes.
    pub(super) fn pod_facts(&self, history: &History, chosen: &[OwnerIndex]) -> Option<PodFacts> {
        let subjects = history.subjects();
        let recorded = subjects.filter_map(|(subject, labels)| match subject {
            Subject::Owner(owner) if chosen.contains(&owner) => {
                Some(labels?.pairs().into_iter().collect::<Labels>())
            }
            _ => None,
        });
        let mut facts = Gathered::default();
        for labels in recorded {
            facts.add_labels(&labels);
        }
        let tell = self.owners.names().tell_makers();
        for (identity, found) in self.owners.pods_of(chosen) {
            facts.add_found(identity, found, tell);
        }
        facts.done()
    }
}

/// Facts about a pod, gathered from several cgroups and labels.
#[derive(Default)]
struct Gathered {
    names: BTreeSet<(String, String)>,
    containers: BTreeSet<String>,
    facts: PodFacts,
}

impl Gathered {
    fn add_labels(&mut self, labels: &Labels) {
        let label = |name: &str| {
            let value = labels.get(name).filter(|value| !value.is_empty());
            value.cloned()
        };
        let (Some(namespace), Some(pod)) = (label("namespace"), label("pod")) else {
            return;
        };
        self.names.insert((namespace, pod));
        self.containers.extend(label("container"));
        if let (Some(kind), Some(name)) = (label("workload_type"), label("workload")) {
            self.facts.maker = Maker::Workload(Workload { kind, name });
        }
    }

    fn add_found(&mut self, identity: &PodIdentity, found: Found<'_>, tells_makers: bool) {
        let (pod, container) = match found {
            Found::Nothing => return,
            Found::Pod(pod) => (pod, None),
            Found::Container(pod, container) => (pod, Some(container)),
        };
        self.names.insert((pod.namespace.clone(), pod.name.clone()));
        self.containers.extend(container.map(str::to_owned));
        self.facts.qos = self.facts.qos.or(identity.qos);
        self.facts.resizable = self.facts.resizable.or(pod.resizable);
        if identity.uid.is_config_hash() {
            self.facts.maker = Maker::Kubelet;
        } else if let Some(workload) = &pod.workload {
            self.facts.maker = Maker::Workload(workload.clone());
        } else if tells_makers {
            self.facts.maker = Maker::Nobody;
        }
    }

    fn done(mut self) -> Option<PodFacts> {
        self.facts.pods = self.names.len();
        (self.facts.namespace, self.facts.name) = self.names.into_iter().next()?;
        self.facts.containers = self.containers.into_iter().collect();
        Some(self.facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attribution::pods::Pod, host::cgroup::CgroupPath};

    const UID: &str = "8d0d32a5-8c5b-4b0c-9b0f-1f9a2b3c4d5e";
    const HASH: &str = "9b3d5c0f9f7a4f0a8f1a5f6c7d8e9f00";

    fn identity(uid: &str, class: &str) -> PodIdentity {
        let path = format!("/kubepods/{class}/pod{uid}/{}", "a".repeat(64));
        PodIdentity::parse(&CgroupPath::new(path.as_bytes())).expect("a pod")
    }

    fn pod(workload: Option<(&str, &str)>) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: "cart-0".to_owned(),
            workload: workload.map(|(kind, name)| Workload {
                kind: kind.to_owned(),
                name: name.to_owned(),
            }),
            resizable: Some(true),
            ..Pod::default()
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn gathered(identity: &PodIdentity, found: Found<'_>, tells_makers: bool) -> PodFacts {
        let mut facts = Gathered::default();
        facts.add_labels(&labels(&[
            ("namespace", "shop"),
            ("pod", "cart-0"),
            ("container", "server"),
        ]));
        facts.add_found(identity, found, tells_makers);
        facts.done().expect("a pod")
    }

    #[test]
    fn what_made_a_pod_is_known_as_far_as_the_source_says() {
        let (normal, fixed) = (identity(UID, "burstable"), identity(HASH, "burstable"));
        let set = pod(Some(("StatefulSet", "cart")));
        let bare = pod(None);
        let maker = |identity, pod, tells| gathered(identity, Found::Pod(pod), tells).maker;
        let cart = Workload {
            kind: "StatefulSet".to_owned(),
            name: "cart".to_owned(),
        };
        assert_eq!(maker(&normal, &set, true), Maker::Workload(cart));
        assert_eq!(maker(&normal, &bare, true), Maker::Nobody);
        assert_eq!(maker(&normal, &bare, false), Maker::Unknown);
        assert_eq!(maker(&fixed, &bare, false), Maker::Kubelet);
        let gone = gathered(&normal, Found::Nothing, true);
        assert_eq!(gone.maker, Maker::Unknown);
        assert_eq!((gone.containers, gone.pods), (vec!["server".to_owned()], 1));
        let found = gathered(&normal, Found::Container(&set, "server"), true);
        assert_eq!(found.containers, ["server"]);
        assert_eq!((found.resizable, found.qos), (Some(true), normal.qos));
    }

    #[test]
    fn outside_of_kubernetes_there_is_no_pod() {
        let mut facts = Gathered::default();
        facts.add_labels(&labels(&[("namespace", ""), ("pod", ""), ("cgroup", "/a")]));
        assert_eq!(facts.done(), None);
        let mut facts = Gathered::default();
        facts.add_labels(&labels(&[
            ("namespace", "shop"),
            ("pod", "cart-0"),
            ("workload", "cart"),
            ("workload_type", "deployment"),
        ]));
        facts.add_labels(&labels(&[("namespace", "shop"), ("pod", "cart-1")]));
        let facts = facts.done().expect("pods");
        assert_eq!((facts.pods, facts.name.as_str()), (2, "cart-0"));
        assert!(matches!(facts.maker, Maker::Workload(_)));
    }
}
