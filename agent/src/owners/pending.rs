//! Cgroups of pods, from their first sight until they have a name.

use std::time::{Duration, Instant};

use super::{Activity, Claimed, Owner, OwnerIndex, OwnerKind, Owners, Subject};
use crate::{
    exposition::OwnerLabels,
    pods::{Found, PodIdentity},
};

/// How long counts wait for a name. A kubelet makes a pod's log directory before its containers and their links right
/// after, an API server or runtime answers within seconds; a scrape interval is longer than a test's patience.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What a cgroup of a pod is waited with for.
pub(super) struct Waiting {
    identity: PodIdentity,
    /// The label of the pod's cgroup.
    cgroup: String,
    since: Instant,
    resolution: Resolution,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Resolution {
    Pending,
    /// The pod has a name.
    Named,
    Unresolved,
}

/// Live cgroups of pods, by whether their pod has a name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PodCgroups {
    /// It has.
    pub named: u64,
    /// Not yet, and their counts wait for it.
    pub pending: u64,
    /// It has none, and they are counted as [`Owners::UNRESOLVED`].
    pub unresolved: u64,
    /// It is another cgroup's already, and they are counted by their path.
    pub refused: u64,
}

impl Waiting {
    /// For the name of an owner that is a pod or in one.
    pub(super) fn for_name_of(owner: &Owner, now: Instant) -> Option<Self> {
        let (OwnerKind::Pod(identity), Some(cgroup)) = (&owner.kind, &owner.pod_cgroup) else {
            return None;
        };
        Some(Self {
            identity: identity.clone(),
            cgroup: cgroup.clone(),
            since: now,
            resolution: Resolution::Pending,
        })
    }
}

impl Owners {
    /// The pods that some owners' cgroups are of, and what is known of them.
    pub fn pods_of<'a>(
        &'a self,
        owners: &'a [OwnerIndex],
    ) -> impl Iterator<Item = (&'a PodIdentity, Found<'a>)> {
        let members = self.members.values();
        let members = members.filter(|member| {
            member
                .place
                .owner()
                .is_some_and(|owner| owners.contains(&owner))
        });
        members.filter_map(|member| {
            let identity = &member.pod.as_ref()?.identity;
            Some((identity, self.names.find(identity)))
        })
    }

    /// Gives names to cgroups that have none yet, as far as they are known, and stops waiting for those that do not
    /// come. A cgroup that gets its name later has what it counts from then on under it.
    pub(super) fn settle(&mut self, now: Instant, activity: Activity<'_>) {
        let changed = self.names.poll(now);
        let mut asked = false;
        let unsettled: Vec<_> = self.unsettled.iter().copied().collect();
        for id in unsettled {
            let Some(member) = self.members.get(&id) else {
                self.unsettled.remove(&id);
                continue;
            };
            let Some(pod) = &member.pod else { continue };
            let waits = pod.resolution == Resolution::Pending;
            if !(changed || waits) {
                continue;
            }
            let patient = waits && now.saturating_duration_since(pod.since) < PATIENCE;
            let found = self.names.find(&pod.identity);
            let whole = match found {
                Found::Nothing => false,
                Found::Pod(_) => pod.identity.container_id.is_none(),
                Found::Container(..) => true,
            };
            if patient && !whole {
                asked = true;
                continue;
            }
            let labels = self.labels_of_pod(pod);
            let resolution = match labels {
                None => Resolution::Unresolved,
                Some(_) => Resolution::Named,
            };
            if whole {
                self.unsettled.remove(&id);
            }
            self.place(id, labels, now, activity);
            if let Some(pod) = self.members.get_mut(&id).and_then(|m| m.pod.as_mut()) {
                pod.resolution = resolution;
            }
        }
        if asked {
            self.names.want();
        }
    }

    /// The labels of a cgroup of a pod, if it has a name.
    pub(super) fn labels_of_pod(&self, pod: &Waiting) -> Option<OwnerLabels> {
        let subject = match self.names.find(&pod.identity) {
            Found::Nothing => return None,
            found => Subject::Named {
                identity: &pod.identity,
                found,
                cgroup: &pod.cgroup,
            },
        };
        Some(self.label_set.render(subject))
    }

    /// How many cgroups of pods have a name.
    #[must_use]
    pub fn pod_cgroups(&self) -> PodCgroups {
        let mut count = PodCgroups::default();
        let live = self
            .members
            .values()
            .filter(|member| member.removed.is_none());
        for member in live {
            match member.pod.as_ref().map(|pod| pod.resolution) {
                Some(Resolution::Pending) => count.pending += 1,
                Some(Resolution::Named) => count.named += 1,
                Some(Resolution::Unresolved) => count.unresolved += 1,
                None if member.claim == Claimed::Refused => count.refused += 1,
                None => {}
            }
        }
        count
    }
}
