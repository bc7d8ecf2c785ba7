//! Claims of cgroups to be a pod's: one pod has one cgroup.
//!
//! A kubelet has one cgroup for each pod. Another cgroup may be named after the pod: the kubelet's own from before its
//! cgroup root or driver was changed, or, with nested pods, one that somebody made in a container. It is not summed
//! with the pod, but counted by its own path as long as the first one exists.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    attribution::pods::PodTrees,
    host::cgroup::{CgroupId, CgroupPath},
};

/// Maximum number of refused cgroups per pod that may claim again when the pod's first cgroup is gone.
const MAX_REFUSED: usize = 1024;

/// Returns the key of a pod that a cgroup claims to belong to, made from its [group
/// key](crate::attribution::Owner::group_key). Where kubelet and runtime have different drivers, the kubelet has a
/// cgroup for a pod and the runtime has others for its containers: these two have different keys.
pub(super) fn key(group: &Arc<str>, path: &CgroupPath) -> Arc<str> {
    if path.components().any(PodTrees::is_mixed) {
        return format!("{group} of the runtime").into();
    }
    Arc::clone(group)
}

/// Claims to pods, by the pods' [`key`]s.
#[derive(Default)]
pub(super) struct Claims(HashMap<Arc<str>, Claim>);

struct Claim {
    /// The label of the pod's cgroup.
    cgroup: String,
    nested: bool,
    /// Number of live cgroups in it.
    members: usize,
    refused: HashSet<CgroupId>,
}

/// Verdict on a claim.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The cgroup is the pod's.
    Granted,
    /// The cgroup is the pod's, and the one that was taken for the pod so far is not.
    Superseded,
    /// Another cgroup is the pod's already.
    Refused {
        /// True if this is the first refusal for the pod.
        first: bool,
    },
}

impl Claims {
    /// Decides on the claim of cgroup `id` to be a pod's. `cgroup` is the label of the pod's cgroup, at or above `id`.
    /// The kubelet's own cgroups take precedence over `nested` ones.
    pub(super) fn claim(
        &mut self,
        key: &Arc<str>,
        cgroup: &str,
        nested: bool,
        id: CgroupId,
    ) -> Verdict {
        let held = self.0.entry(Arc::clone(key)).or_insert_with(|| Claim {
            cgroup: cgroup.to_owned(),
            nested,
            members: 0,
            refused: HashSet::new(),
        });
        if held.cgroup == cgroup {
            held.members += 1;
            return Verdict::Granted;
        }
        if held.nested && !nested {
            let mut refused = std::mem::take(&mut held.refused);
            refused.remove(&id);
            *held = Claim {
                cgroup: cgroup.to_owned(),
                nested,
                members: 1,
                refused,
            };
            return Verdict::Superseded;
        }
        let first = held.refused.is_empty();
        if held.refused.len() < MAX_REFUSED {
            held.refused.insert(id);
        }
        Verdict::Refused { first }
    }

    /// Returns the label of the cgroup that is the pod's.
    pub(super) fn holder(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|held| held.cgroup.as_str())
    }

    /// Removes one cgroup of the pod's. If it was the last, returns the refused ones, which may claim again.
    pub(super) fn leave(&mut self, key: &str) -> HashSet<CgroupId> {
        let Some(held) = self.0.get_mut(key) else {
            return HashSet::new();
        };
        held.members = held.members.saturating_sub(1);
        if held.members > 0 {
            return HashSet::new();
        }
        self.0
            .remove(key)
            .map_or_else(HashSet::new, |held| held.refused)
    }
}
