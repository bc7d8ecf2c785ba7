//! Which cgroup is which pod: no two are one.
//!
//! A kubelet has one cgroup for each pod. Another that is named after it (a kubelet's of before its cgroup root or driver
//! was changed, or with nested pods one that somebody made in a container) is not summed with it, but counted by its own
//! path for as long as the first is there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    cgroup::{CgroupId, CgroupPath},
    pods::PodTrees,
};

/// Refused cgroups of one pod that are asked again when the pod's first cgroup is gone.
const MAX_REFUSED: usize = 1024;

/// What a cgroup claims: to be of a pod, known by its [group key](crate::attribution::Owner::group_key). Where kubelet and
/// runtime have different drivers, the kubelet has a cgroup for a pod and the runtime others for its containers.
pub(super) fn key(group: &Arc<str>, path: &CgroupPath) -> Arc<str> {
    if path.components().any(PodTrees::is_mixed) {
        return format!("{group} of the runtime").into();
    }
    Arc::clone(group)
}

/// See the module. Pods are known by their [`key`]s.
#[derive(Default)]
pub(super) struct Claims(HashMap<Arc<str>, Claim>);

struct Claim {
    /// The label of the pod's cgroup.
    cgroup: String,
    nested: bool,
    /// Live cgroups in it.
    members: usize,
    refused: HashSet<CgroupId>,
}

/// How a claim fared.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is that pod's.
    Granted,
    /// It is, and what was taken for the pod so far is not.
    Superseded,
    /// Another is that pod's already.
    Refused {
        /// Whether this is said for the first time.
        first: bool,
    },
}

impl Claims {
    /// A cgroup below `cgroup`, the label of a pod's, says that it is the pod's; the kubelet's own go before `nested` ones.
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

    /// The label of the cgroup that is the pod's.
    pub(super) fn holder(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|held| held.cgroup.as_str())
    }

    /// A cgroup of the pod's is gone. When it was the last, those that were refused may ask again.
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
