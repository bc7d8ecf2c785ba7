//! Attribution: from a cgroup's path to the owner of the counts in it.

pub mod owners;
pub mod pods;

pub(crate) mod container;

use crate::attribution::pods::{InPath, PodIdentity, PodTrees};
use crate::host::cgroup::CgroupPath;

/// Owner of a cgroup. It is the same for all cgroups of one container or service, so that counts can be summed by it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// Kind of the owner.
    pub kind: OwnerKind,
    /// See [`group_key`](Self::group_key).
    group: String,
    /// Value of the label `cgroup`: the path of the owning cgroup as text. Different cgroups never have the same text.
    pub cgroup: String,
    /// The same for the cgroup of the whole pod; none outside of pods.
    pub pod_cgroup: Option<String>,
    /// Rank among owners when there is room for too few.
    pub rank: Rank,
}

/// Ranks of owners, in the order in which they keep series of their own when there are too many owners.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rank {
    /// Pods of the host's kubelet, and the containers in them.
    Pod,
    /// Services of the host, and containers that the host's runtimes have made.
    Host,
    /// Other cgroups made by the host's root, and pods of kubelets in containers.
    Other,
    /// Cgroups made below a delegated cgroup, by anybody who may write there.
    Delegated,
}

/// Kinds of owners.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum OwnerKind {
    /// The root cgroup: kernel threads, and tasks that were put into no other cgroup.
    Root,
    /// A service of the host: a systemd unit or slice, or the kubelet and runtimes outside of pods.
    HostService,
    /// A container outside of any pod.
    Container {
        /// The container ID, 64 hex digits, or the container's name in LXC.
        id: String,
        /// The container's runtime, according to the path.
        runtime: Runtime,
    },
    /// A pod, or a container in it.
    Pod(PodIdentity),
    /// Any other cgroup.
    Other,
}

/// Container runtimes, as far as a path identifies them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd, through its CRI plugin or nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Podman.
    Podman,
    /// LXC, and managers built on it.
    Lxc,
    /// A runtime that the path does not name; the container is recognized by its ID.
    Unknown,
}

impl Runtime {
    /// Returns the name for labels and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Unknown => "unknown",
        }
    }
}

/// Returns the owner of the cgroup at `path`, of which the host's root made the first `trusted` names
/// ([`Cgroup::trusted`]).
///
/// The owner is the pod, if the path has one in the `trees`, else the outermost container, else the innermost systemd
/// unit, else the cgroup itself.
///
/// [`Cgroup::trusted`]: crate::host::cgroup::Cgroup::trusted
#[must_use]
pub fn attribute(path: &CgroupPath, trusted: usize, trees: &PodTrees) -> Owner {
    let components: Vec<&[u8]> = path.components().collect();
    let pod = trees.find(&components, trusted);
    attribute_to(&components, trusted, trees, pod)
}

/// Returns the owner of the cgroup at `path` as if pods did not exist.
pub(crate) fn attribute_outside(path: &CgroupPath, trusted: usize, trees: &PodTrees) -> Owner {
    let components: Vec<&[u8]> = path.components().collect();
    attribute_to(&components, trusted, trees, None)
}

fn attribute_to(
    components: &[&[u8]],
    trusted: usize,
    trees: &PodTrees,
    pod: Option<InPath>,
) -> Owner {
    let owning = |depth: usize| {
        CgroupPath::from_components(components[..depth].iter().copied())
            .label()
            .into_owned()
    };

    if components.is_empty() {
        return Owner {
            kind: OwnerKind::Root,
            group: "/".to_owned(),
            cgroup: "/".to_owned(),
            pod_cgroup: None,
            rank: Rank::Host,
        };
    }
    if let Some(found) = pod {
        return Owner {
            group: format!("pod:{}", found.identity.uid),
            kind: OwnerKind::Pod(found.identity),
            cgroup: owning(found.owner),
            pod_cgroup: Some(pod_label(owning(found.pod))),
            rank: if found.nested { Rank::Other } else { Rank::Pod },
        };
    }
    if let Some((named, depth)) = container::find(components) {
        let cgroup = owning(depth);
        return Owner {
            kind: OwnerKind::Container {
                id: named.id,
                runtime: named.runtime,
            },
            group: cgroup.clone(),
            cgroup,
            pod_cgroup: None,
            rank: if depth <= trusted {
                Rank::Host
            } else {
                Rank::Delegated
            },
        };
    }
    let unit = components.iter().rposition(|component| is_unit(component));
    let depth = unit.map_or(components.len(), |index| index + 1);
    let cgroup = owning(depth);
    let leads_to_pods = trees.tree(components).is_some_and(|depth| depth <= trusted);
    let kind = if !leads_to_pods && is_host(components) {
        OwnerKind::HostService
    } else {
        OwnerKind::Other
    };
    let rank = match kind {
        _ if depth > trusted => Rank::Delegated,
        OwnerKind::HostService => Rank::Host,
        _ => Rank::Other,
    };
    Owner {
        kind,
        group: cgroup.clone(),
        cgroup,
        pod_cgroup: None,
        rank,
    }
}

/// Returns the label of a pod's cgroup. If the runtime took the pod's slice for a part of the container's name, this is
/// the slice's part: `…-pod<UID>.slice`.
fn pod_label(mut label: String) -> String {
    let last = label.rfind('/').unwrap_or_default();
    if let Some(colon) = label[last..].find(':') {
        label.truncate(last + colon);
    }
    label
}

impl Owner {
    /// Returns whether the owner is the host itself rather than a workload.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        matches!(self.kind, OwnerKind::Root | OwnerKind::HostService)
    }

    /// Returns a key that is equal for owners that belong together and are not neighbours: all containers of one pod.
    #[must_use]
    pub fn group_key(&self) -> &str {
        &self.group
    }

    /// Returns a short name for people: a unit (`nginx.service`), a container ID cut to 12 digits, else the path.
    ///
    /// It is not an identity: two owners may share one.
    #[must_use]
    pub fn short_name(&self) -> &str {
        match &self.kind {
            OwnerKind::Root | OwnerKind::Other => &self.cgroup,
            OwnerKind::HostService => self.cgroup.rsplit('/').next().unwrap_or(&self.cgroup),
            OwnerKind::Container {
                id,
                runtime: Runtime::Lxc,
            } => id,
            OwnerKind::Container { id, .. }
            | OwnerKind::Pod(PodIdentity {
                container_id: Some(id),
                ..
            }) => id.get(..12).unwrap_or(id),
            OwnerKind::Pod(identity) => identity.uid.as_str(),
        }
    }
}

/// Returns whether a component is a systemd unit of a type that has a cgroup (systemd.unit(5), systemd.cgroup(7)).
fn is_unit(component: &[u8]) -> bool {
    let kinds = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
    kinds
        .iter()
        .any(|kind| component.ends_with(kind.as_bytes()) && component.len() > kind.len())
}

/// Returns whether a path that leads to no container belongs to the host itself.
fn is_host(components: &[&[u8]]) -> bool {
    let top = components[0];
    // systemd.special(7); slices that distributions give to the kubelet and the runtime; Talos, which has no systemd;
    // the monitor process of an LXC container.
    let tops: [&[u8]; 10] = [
        b"system.slice",
        b"user.slice",
        b"init.scope",
        b"runtime.slice",
        b"podruntime.slice",
        b"kubelet.slice",
        b"kubelet",
        b"podruntime",
        b"system",
        b"init",
    ];
    let monitors = |component: &&[u8]| {
        component.starts_with(b"libpod-conmon-") || component.starts_with(b"crio-conmon-")
    };
    tops.contains(&top)
        || top.starts_with(b"lxc.monitor")
        || components
            .iter()
            .any(|component| component.ends_with(b".service") || monitors(component))
}
