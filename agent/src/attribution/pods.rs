//! Kubernetes pods, and their identity as a cgroup's path states it.
//!
//! The kubelet makes `<root>/kubepods/<QoS>/pod<UID>` (cgroup driver `cgroupfs`) or `<root>-kubepods-<QoS>-pod<UID with
//! _ for ->.slice` (driver `systemd`), leaving the level out for guaranteed pods (kubernetes/pkg/kubelet/cm:
//! `pod_container_manager_linux.go`, `cgroup_manager_linux.go`); the runtime makes the containers' cgroups below it. A
//! path has only the pod UID, the container ID and the QoS class. The names come from a separate source, which fills a
//! [`Directory`] through a [`feed`].

pub mod api;
pub mod cri;
mod directory;
pub mod feed;
pub mod files;
pub mod names;
mod rejected;
mod trees;

use std::fmt;

use crate::attribution::container;
use crate::host::cgroup::CgroupPath;
pub use directory::{Conflict, Directory, Found, Pod, RETENTION, Workload};
pub use trees::{PodTrees, TreeRoot};

/// Puts pods into a directory as a source does, and checks that each is found.
fn fuzz_directory(pods: Vec<(PodUid, Pod)>) {
    let mut directory = Directory::default();
    let now = std::time::Instant::now();
    for (uid, pod) in pods {
        let mut identity = PodIdentity {
            uid: uid.clone(),
            container_id: None,
            qos: None,
        };
        let ids: Vec<String> = pod.containers.iter().map(|(id, _)| id.clone()).collect();
        let known = directory.put(uid, pod).is_ok();
        assert!(!known || directory.find(&identity) != Found::Nothing);
        for id in ids {
            identity.container_id = Some(id);
            assert!(!known || directory.find(&identity) != Found::Nothing);
        }
        directory.end(&identity.uid, now);
    }
    directory.expire(now + RETENTION);
    assert_eq!(directory.running(), 0);
}

/// The pod, and the container in it, that a cgroup belongs to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodIdentity {
    /// The pod.
    pub uid: PodUid,
    /// The container ID, 64 hex digits; the sandbox ("pause") has one too. None for the pod's own cgroup and for a
    /// runtime's helpers in it.
    pub container_id: Option<String>,
    /// The QoS class; none where the path does not state it.
    pub qos: Option<QosClass>,
}

impl PodIdentity {
    /// Returns the pod that `path` names in the kubelet's tree ([`PodTrees::Found`]), if any. The function sees only
    /// the path: the caller has to know that only the host's root can have made it.
    #[must_use]
    pub fn parse(path: &CgroupPath) -> Option<Self> {
        let components: Vec<&[u8]> = path.components().collect();
        let pod = PodTrees::Found.find(&components, components.len());
        pod.map(|found| found.identity)
    }
}

/// A pod's UID as the pod's cgroup has it.
///
/// For a pod of the API, its `metadata.uid`. A static pod (a file of the kubelet's) has 32 hex digits, the hash of its
/// configuration: the API's mirror pod has another UID and this one as annotation `kubernetes.io/config.hash`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodUid(String);

impl PodUid {
    /// Parses a UID as the API writes it (RFC 4122 text, lower case), or a static pod's configuration hash of 32 hex
    /// digits. Returns none for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (!text.contains(['_', '.', ':'])).then_some(())?;
        uid_at(text.as_bytes())
    }

    /// Returns the UID with dashes, whichever cgroup driver made the path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the UID is a static pod's configuration hash.
    #[must_use]
    pub fn is_config_hash(&self) -> bool {
        !self.0.contains('-')
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QosClass {
    /// Requests equal limits in each container.
    Guaranteed,
    /// Some requests or limits are set.
    Burstable,
    /// No requests and no limits.
    BestEffort,
}

impl QosClass {
    /// Returns the name as in a pod's `status.qosClass`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A pod found in a cgroup path.
pub(crate) struct InPath {
    /// The pod, and the container in it.
    pub(crate) identity: PodIdentity,
    /// Number of components up to the cgroup that owns the rest: the container's, or else the pod's.
    pub(crate) owner: usize,
    /// Number of components up to the pod's cgroup.
    pub(crate) pod: usize,
    /// True for a pod of a kubelet that runs in a container.
    pub(crate) nested: bool,
}

/// Returns the pod that the component at `index` names.
fn pod_at(components: &[&[u8]], index: usize) -> Option<InPath> {
    let pod = pod_in(components[index])?;
    let above = index.checked_sub(1).map(|above| components[above]);
    let qos = qos(pod.before, above);
    // `…pod<UID>.slice:cri-containerd:<ID>`: the kubelet gives a slice to a runtime that takes it for a plain name.
    let container = container::named_by(components[index], None)
        .map(|found| (index, found))
        .or_else(|| {
            (index + 1..components.len()).find_map(|below| {
                let above = Some(components[below - 1]);
                Some((below, container::named_by(components[below], above)?))
            })
        });
    let owner = container.as_ref().map_or(index, |(below, _)| *below) + 1;
    Some(InPath {
        identity: PodIdentity {
            uid: pod.uid,
            container_id: container.map(|(_, found)| found.id),
            qos,
        },
        owner,
        pod: index + 1,
        nested: false,
    })
}

struct PodName<'a> {
    /// The part of the component before `pod`.
    before: &'a [u8],
    uid: PodUid,
}

/// Finds the last `pod<UID>` in one component, at its start or after a dash.
fn pod_in(component: &[u8]) -> Option<PodName<'_>> {
    let starts = (0..component.len())
        .rev()
        .filter(|&start| component[start..].starts_with(b"pod"));
    starts
        .filter(|&start| start == 0 || component[start - 1] == b'-')
        .find_map(|start| {
            let uid = uid_at(&component[start + 3..])?;
            Some(PodName {
                before: &component[..start],
                uid,
            })
        })
}

/// Parses the UID at the start of a text. It has to end where the text ends or the name's suffix (`.slice`, `:…`)
/// begins.
fn uid_at(text: &[u8]) -> Option<PodUid> {
    let length = text
        .iter()
        .position(|byte| matches!(byte, b'.' | b':'))
        .unwrap_or(text.len());
    let text = str::from_utf8(&text[..length]).ok()?;
    let is_hex = |part: &str| {
        part.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if text.len() == 32 && is_hex(text) {
        return Some(PodUid(text.to_owned()));
    }
    let has_groups = |separator| {
        let groups = text.split(separator);
        groups.clone().map(str::len).eq([8, 4, 4, 4, 12]) && groups.clone().all(is_hex)
    };
    (has_groups('-') || has_groups('_')).then(|| PodUid(text.replace('_', "-")))
}

/// Returns the QoS class from the part before `pod` (driver `systemd`) or, where that is empty, from the directory
/// above (`cgroupfs`).
fn qos(before: &[u8], above: Option<&[u8]>) -> Option<QosClass> {
    let level = before
        .strip_suffix(b"-")
        .or(above.filter(|_| before.is_empty()))?;
    // With another root the level has a prefix: `kubelet-kubepods-burstable`.
    let last = level.rsplit(|&byte| byte == b'-').next()?;
    match last {
        b"kubepods" => Some(QosClass::Guaranteed),
        b"burstable" => Some(QosClass::Burstable),
        b"besteffort" => Some(QosClass::BestEffort),
        _ => None,
    }
}
