//! What is known of this node's pods, whichever source said it.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{PodIdentity, PodUid};

/// How long a pod that has ended keeps its name, for counts that are read after its end.
pub const RETENTION: Duration = Duration::from_secs(300);

/// Ended pods that keep their name at most; a node has room for a few hundred.
const MAX_ENDED: usize = 4000;

/// Containers of one pod that are remembered at most: one that crashes over and over has a new ID each time.
const MAX_CONTAINERS: usize = 256;

/// The digits of a container's ID, and those that tell it apart where a file's name is cut short.
const ID_DIGITS: usize = 64;
const TELLING_DIGITS: usize = 8;

/// One pod, as far as a source describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// What made the pod; none if it was made by hand, or if the source does not say.
    pub workload: Option<Workload>,
    /// Those of the pod's labels that were asked for; none if the source has no labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its containers can be resized while they run; none if the source does not say.
    pub resizable: Option<bool>,
    /// Names of containers by ID, without the runtime's prefix (`containerd://`). An ID may be cut short to its
    /// first digits.
    pub containers: Vec<(String, String)>,
}

/// What made a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// The kind as the API writes it: `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `ReplicaSet`, …
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}

/// What the directory knows of a cgroup's pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found<'a> {
    /// Nothing.
    Nothing,
    /// The pod. The cgroup is the pod's own, or of a container without a name: the sandbox, or one that no source has
    /// named yet.
    Pod(&'a Pod),
    /// The pod and the name of the container.
    Container(&'a Pod, &'a str),
}

/// Two pods were said to have one UID. The first of them is kept.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("pods {known} and {claimed} are both said to have UID {uid}; the first keeps it")]
pub struct Conflict {
    uid: PodUid,
    known: String,
    claimed: String,
}

/// See the module.
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
    /// Takes in what a source says of a pod. Containers that it named before keep their names.
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

    /// A pod has ended: it keeps its name for [`RETENTION`].
    pub fn end(&mut self, uid: &PodUid, now: Instant) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.ended.get_or_insert(now);
        }
    }

    /// All pods but these have ended.
    pub fn end_others<'a>(&mut self, listed: impl IntoIterator<Item = &'a PodUid>, now: Instant) {
        let listed: std::collections::HashSet<_> = listed.into_iter().collect();
        for (uid, known) in &mut self.pods {
            if !listed.contains(uid) {
                known.ended.get_or_insert(now);
            }
        }
    }

    /// Forgets pods that ended longer than [`RETENTION`] ago, and the longest ended when there are too many.
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

    /// What is known of a cgroup's pod.
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

    /// Pods that run.
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

    /// The name of a container by its whole ID. Names without any digit of an ID say nothing.
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
        // A container of another pod, whatever its ID.
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
