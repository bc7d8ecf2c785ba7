//! Claims and reattribution of cgroups that are named after pods.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    sync::Arc,
    time::Instant,
};

use super::{
    Activity, Claimed, Owners,
    claims::{self, Verdict},
};
use crate::{
    attribution::{self, Owner, Rank, pods::PodTrees},
    host::cgroup::{Cgroup, CgroupId, CgroupPath},
};

impl Owners {
    /// Decides whether a cgroup named after a pod is that pod's. Adds the cgroups that have to claim again to `asking`.
    pub(super) fn claim(
        &mut self,
        owner: Owner,
        cgroup: &Cgroup,
        asking: &mut HashSet<CgroupId>,
    ) -> (Owner, Claimed) {
        let Some(pod) = &owner.pod_cgroup else {
            return (owner, Claimed::No);
        };
        let nested = owner.rank != Rank::Pod;
        let group: Arc<str> = owner.group_key().into();
        let key = claims::key(&group, &cgroup.path);
        match self.claims.claim(&key, pod, nested, cgroup.id) {
            Verdict::Granted => (owner, Claimed::Granted),
            Verdict::Superseded => {
                let members = self.members.iter_mut();
                let before = members.filter(|(_, member)| {
                    member.claim == Claimed::Granted
                        && member.removed.is_none()
                        && *member.group_key == *group
                        && claims::key(&member.group_key, &member.path) == key
                });
                asking.extend(before.map(|(id, member)| {
                    member.claim = Claimed::Refused;
                    *id
                }));
                (owner, Claimed::Granted)
            }
            Verdict::Refused { first } => {
                if first {
                    tracing::warn!(
                        cgroup = %cgroup.path,
                        pod = group.strip_prefix("pod:").unwrap_or(&group),
                        known = self.claims.holder(&key),
                        "a second cgroup is named after a pod: it is counted by its own path, as no pod"
                    );
                }
                let outside =
                    attribution::attribute_outside(&cgroup.path, cgroup.trusted, &self.trees);
                (outside, Claimed::Refused)
            }
        }
    }

    /// Attributes cgroups again whose claims may have another verdict by now.
    pub(super) fn settle_claims(
        &mut self,
        mut asking: HashSet<CgroupId>,
        now: Instant,
        activity: Activity<'_>,
    ) {
        // A cgroup may free others in turn, but none twice: a claim that was given up is another's.
        for _ in 0..2 {
            for id in std::mem::take(&mut asking) {
                let Some(member) = self.members.get(&id) else {
                    continue;
                };
                if member.removed.is_some() {
                    continue;
                }
                let cgroup = Cgroup {
                    id,
                    parent: None,
                    path: member.path.clone(),
                    trusted: member.trusted,
                };
                asking.extend(self.add(cgroup, now, activity));
            }
        }
    }

    /// Describes the cgroup trees followed as pods, for `stallscope status`.
    #[must_use]
    pub fn trees(&self) -> String {
        let mut trees = BTreeSet::new();
        let mut inside = 0_usize;
        for member in self.members.values().filter(|m| m.removed.is_none()) {
            let components: Vec<&[u8]> = member.path.components().collect();
            let is_pod = member.claim == Claimed::Granted;
            let is_root = |depth: &usize| is_pod || *depth == components.len();
            if let Some(depth) = self.trees.tree(&components).filter(is_root) {
                let tree = components[..depth].iter().copied();
                trees.insert(CgroupPath::from_components(tree).label().into_owned());
            }
            inside += usize::from(!is_pod && PodTrees::names_pod(&components));
        }
        let mut text = if trees.is_empty() {
            format!("no tree of pods is there: looked for {}", self.trees)
        } else {
            let trees: Vec<String> = trees.into_iter().collect();
            format!("in {}: {}", trees.join(" and "), self.trees)
        };
        if inside > 0 {
            let hint = match self.trees {
                PodTrees::Found => {
                    "a cluster in a container, or somebody's invention; see --nested-pods and --kubelet-cgroup-root"
                }
                PodTrees::Given(_) | PodTrees::Nested => "see --kubelet-cgroup-root",
            };
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "; {inside} cgroups elsewhere are named after pods and are not taken for such ({hint})"
            );
        }
        text
    }
}
