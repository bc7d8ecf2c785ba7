//! Directory of this node's pods, whichever source named them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{PodIdentity, PodUid};

/// Time for which a pod that has ended keeps its name, for counts that are read after its end.
pub const RETENTION: Duration = Duration::from_secs(300);

/// Maximum number of ended pods that keep their name; a node has room for a few hundred.
const MAX_ENDED: usize = 4000;

/// Maximum number of containers remembered per pod: a container in a crash loop has a new ID each time.
const MAX_CONTAINERS: usize = 256;

/// Number of digits of a container ID, and the minimum that identifies a container where a file's name is cut short.
const ID_DIGITS: usize = 64;
const TELLING_DIGITS: usize = 8;

/// One pod, as far as a source describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The workload that owns the pod; none if the pod has none, or if the source does not state it.
    pub workload: Option<Workload>,
    /// The requested labels of the pod; none if the source has no labels.
    pub labels: BTreeMap<String, String>,
    /// True if its containers can be resized while they run; none if the source does not state it.
    pub resizable: Option<bool>,
    /// Names of containers by ID, without the runtime's prefix (`containerd://`). An ID may be cut short to its
    /// first digits.
    pub containers: Vec<(String, String)>,
}

/// The workload that owns a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// The kind as the API writes it: `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, …
    pub kind: String,
    /// The workload's name, in the pod's namespace.
    pub name: String,
}

/// Result of looking a cgroup's pod up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found<'a> {
    /// The pod is unknown.
    Nothing,
    /// The pod. The cgroup is the pod's own, or that of a container without a name: the sandbox, or one that no source
    /// has named yet.
    Pod(&'a Pod),
    /// The pod, and the name of the container.
    Container(&'a Pod, &'a str),
}

/// A source gave two running pods the same UID. The first keeps it.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("pods {known} and {claimed} are both said to have UID {uid}; the first keeps it")]
pub struct Conflict {
    uid: PodUid,
    known: String,
    claimed: String,
}

/// Pods by UID, with their containers' names.
#[derive(Debug, Default)]
pub struct Directory {
    pods: HashMap<PodUid, Known>,
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    ended: Option<Instant>,
}

impl Directory {
    /// Adds or updates a pod. Containers that were named before keep their names.
    ///
    /// # Errors
    /// When another pod that still runs has the same UID.
    pub fn put(&mut self, uid: PodUid, mut pod: Pod) -> Result<(), Conflict> {
        if let Some(known) = self.pods.get_mut(&uid) {
            if known.ended.is_none() && !known.pod.is(&pod) {
                return Err(Conflict {
                    uid,
                    known: known.pod.to_string(),
                    claimed: pod.to_string(),
                });
            }
            if known.pod.is(&pod) {
                let mut containers = std::mem::take(&mut known.pod.containers);
                containers.retain(|(id, _)| !pod.containers.iter().any(|(new, _)| new == id));
                containers.append(&mut pod.containers);
                pod.containers = containers;
            }
        }
        let excess = pod.containers.len().saturating_sub(MAX_CONTAINERS);
        pod.containers.drain(..excess);
        self.pods.insert(uid, Known { pod, ended: None });
        Ok(())
    }

    /// Marks a pod as ended: it keeps its name for [`RETENTION`].
    pub fn end(&mut self, uid: &PodUid, now: Instant) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.ended.get_or_insert(now);
        }
    }

    /// Marks all pods but these as ended.
    pub fn end_others<'a>(&mut self, listed: impl IntoIterator<Item = &'a PodUid>, now: Instant) {
        let listed: std::collections::HashSet<_> = listed.into_iter().collect();
        for (uid, known) in &mut self.pods {
            if !listed.contains(uid) {
                known.ended.get_or_insert(now);
            }
        }
    }

    /// Forgets pods that ended at least [`RETENTION`] ago, and the first to end when there are too many.
    pub fn expire(&mut self, now: Instant) {
        self.pods.retain(|_, known| {
            known
                .ended
                .is_none_or(|ended| now.saturating_duration_since(ended) < RETENTION)
        });
        let mut ended: Vec<_> = self
            .pods
            .iter()
            .filter_map(|(uid, known)| Some((known.ended?, uid.clone())))
            .collect();
        let excess = ended.len().saturating_sub(MAX_ENDED);
        ended.sort_unstable();
        for (_, uid) in ended.drain(..excess) {
            self.pods.remove(&uid);
        }
    }

    /// Finds a cgroup's pod and container.
    #[must_use]
    pub fn find(&self, identity: &PodIdentity) -> Found<'_> {
        let Some(Known { pod, .. }) = self.pods.get(&identity.uid) else {
            return Found::Nothing;
        };
        match identity
            .container_id
            .as_deref()
            .and_then(|id| pod.container(id))
        {
            Some(name) => Found::Container(pod, name),
            None => Found::Pod(pod),
        }
    }

    /// Returns the number of pods that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.pods
            .values()
            .filter(|known| known.ended.is_none())
            .count()
    }
}

impl Pod {
    fn is(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }

    /// Returns a container's name by its whole ID. An ID cut to fewer than [`TELLING_DIGITS`] digits matches none.
    fn container(&self, id: &str) -> Option<&str> {
        let matches = |known: &str| {
            known == id
                || ((TELLING_DIGITS..ID_DIGITS).contains(&known.len()) && id.starts_with(known))
        };
        let mut all = self.containers.iter().rev();
        all.find(|(known, _)| matches(known))
            .map(|(_, name)| name.as_str())
    }
}

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(last: u32) -> PodUid {
        PodUid::parse(&format!("8d0d32a5-8c5b-4b0c-9b0f-0000{last:08x}")).expect("a UID")
    }

    fn pod(name: &str, containers: &[(&str, &str)]) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            containers: containers
                .iter()
                .map(|(id, name)| ((*id).to_owned(), (*name).to_owned()))
                .collect(),
            ..Pod::default()
        }
    }

    fn identity(uid: PodUid, container_id: Option<&str>) -> PodIdentity {
        PodIdentity {
            uid,
            container_id: container_id.map(str::to_owned),
            qos: None,
        }
    }

    #[test]
    fn containers_are_found_by_their_pods_uid_and_their_id() -> Result<(), Conflict> {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let mut directory = Directory::default();
        directory.put(uid(1), pod("cart-0", &[(&a, "server")]))?;
        let found = |uid, id| match directory.find(&identity(uid, id)) {
            Found::Nothing => String::new(),
            Found::Pod(pod) => pod.to_string(),
            Found::Container(pod, name) => format!("{pod}/{name}"),
        };
        assert_eq!(found(uid(1), Some(&a)), "shop/cart-0/server");
        assert_eq!(found(uid(1), Some(&b)), "shop/cart-0");
        assert_eq!(found(uid(1), None), "shop/cart-0");
        // A container of another pod is not found, even by its ID.
        assert_eq!(found(uid(2), Some(&a)), "");
        Ok(())
    }

    #[test]
    fn an_id_that_is_cut_short_is_matched_by_what_is_left_of_it() -> Result<(), Conflict> {
        let id = format!("0123456789{}", "a".repeat(54));
        let mut directory = Directory::default();
        let names = [("012345678", "server"), ("0123", "other"), ("", "nothing")];
        directory.put(uid(1), pod("cart-0", &names))?;
        let server = directory.find(&identity(uid(1), Some(&id)));
        assert!(matches!(server, Found::Container(_, "server")));
        let other = format!("0123{}", "b".repeat(60));
        let other = directory.find(&identity(uid(1), Some(&other)));
        assert!(matches!(other, Found::Pod(_)));
        Ok(())
    }

    #[test]
    fn earlier_containers_keep_their_names_within_a_bound() -> Result<(), Conflict> {
        let ids: Vec<String> = (0..1000).map(|i| format!("{i:064x}")).collect();
        let mut directory = Directory::default();
        for id in &ids {
            directory.put(uid(1), pod("crash-0", &[(id, "server")]))?;
        }
        let named = |id: &String| {
            matches!(
                directory.find(&identity(uid(1), Some(id))),
                Found::Container(..)
            )
        };
        assert_eq!(ids.iter().filter(|id| named(id)).count(), MAX_CONTAINERS);
        assert!(named(&ids[999]) && !named(&ids[0]));
        Ok(())
    }

    #[test]
    fn an_ended_pod_keeps_its_name_for_a_while() -> Result<(), Conflict> {
        let start = Instant::now();
        let mut directory = Directory::default();
        directory.put(uid(1), pod("cart-0", &[]))?;
        directory.put(uid(2), pod("cart-1", &[]))?;
        directory.end_others([&uid(2)], start);
        assert_eq!(directory.running(), 1);
        directory.expire(start + RETENTION / 2);
        assert_ne!(directory.find(&identity(uid(1), None)), Found::Nothing);
        directory.expire(start + RETENTION);
        assert_eq!(directory.find(&identity(uid(1), None)), Found::Nothing);
        assert_ne!(directory.find(&identity(uid(2), None)), Found::Nothing);
        Ok(())
    }

    #[test]
    fn ended_pods_are_bounded_in_number() -> Result<(), Conflict> {
        let start = Instant::now();
        let mut directory = Directory::default();
        for i in 0..u32::try_from(MAX_ENDED).expect("fits") + 10 {
            directory.put(uid(i), pod("job", &[]))?;
            directory.end(&uid(i), start + Duration::from_millis(u64::from(i)));
        }
        directory.expire(start);
        assert_eq!(directory.pods.len(), MAX_ENDED);
        assert_eq!(directory.find(&identity(uid(9), None)), Found::Nothing);
        assert_ne!(directory.find(&identity(uid(10), None)), Found::Nothing);
        Ok(())
    }

    #[test]
    fn a_uid_that_two_pods_claim_stays_with_the_first_while_it_runs() -> Result<(), Conflict> {
        let mut directory = Directory::default();
        directory.put(uid(1), pod("cart-0", &[]))?;
        let refused = directory.put(uid(1), pod("liar", &[]));
        let text = refused.expect_err("it is taken").to_string();
        assert!(text.contains("shop/cart-0 and shop/liar"), "{text}");
        directory.end(&uid(1), Instant::now());
        directory.put(uid(1), pod("next", &[]))
    }
}
