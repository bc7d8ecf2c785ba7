//! Cgroups of pods while their names are pending.

use std::time::{Duration, Instant};

use super::{Activity, Claimed, Owner, OwnerIndex, OwnerKind, Owners, Subject};
use crate::{
    attribution::pods::{Found, PodIdentity},
    exposition::OwnerLabels,
};

/// Maximum time for which counts wait for a name. A kubelet makes a pod's log directory before its containers, and
/// their links right after; an API server or runtime answers within seconds. It is shorter than a usual scrape
/// interval, so that tests need not wait that long.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// State of a pod cgroup whose name is pending.
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

/// Numbers of live cgroups of pods, by whether their pod has a name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PodCgroups {
    /// Cgroups whose pod has a name.
    pub named: u64,
    /// Cgroups whose name is pending; their counts wait for it.
    pub pending: u64,
    /// Cgroups without a name, counted as [`Owners::UNRESOLVED`].
    pub unresolved: u64,
    /// Cgroups whose pod is another cgroup's already, counted by their path.
    pub refused: u64,
}

impl Waiting {
    /// Starts to wait for the name of an owner that is a pod or in one.
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
    /// Returns the pods that some owners' cgroups belong to, and the directory's entries for them.
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

    /// Gives names to cgroups whose names have become known, and stops waiting for those that are overdue. A cgroup
    /// whose name comes later has its further counts under that name.
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

    /// Returns the labels of a pod's cgroup, if the pod has a name.
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

    /// Counts the cgroups of pods by whether their pod has a name.
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
