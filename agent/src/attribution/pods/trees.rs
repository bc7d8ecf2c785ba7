//! Cgroup trees in which a pod's name is trusted.
//!
//! A cgroup's name proves nothing: the owner of a delegated cgroup, or root in a container, can make `…/pod<UID>/<ID>`
//! in it. A kubelet's pods are in the kubelet's own tree, which only the host's root can make.

use std::{fmt, str::FromStr};

use super::{InPath, pod_at, pod_in};
use crate::{attribution::container, host::cgroup::CgroupPath};

/// The pod trees that the agent follows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PodTrees {
    /// The host kubelet's tree, found at the places where kubelets make it:
    ///
    /// - `/kubepods` and `/kubepods.slice`;
    /// - `/a.slice/a-b.slice/a-b-kubepods.slice`, slices from the root on: systemd lets no user delegate these
    ///   (systemd.resource-control(5), `Delegate=`), and kind has its pods below `/kubelet.slice`;
    /// - `/kubelet/kubepods`, kind's with the driver cgroupfs;
    /// - `kubepods-…-pod<UID>.slice:<runtime>:<ID>` in the runtime's own service, where kubelet and runtime have
    ///   different drivers.
    #[default]
    Found,
    /// The trees in these cgroups, whoever can write there: for a kubelet whose `cgroupRoot` has another form, or that
    /// of a kubelet in a container.
    Given(Vec<TreeRoot>),
    /// The found tree, and those of kubelets in containers. Pods of the latter are pods then, not parts of the
    /// container.
    Nested,
}

/// A cgroup that has a kubelet's tree of pods in it, or is that tree: the kubelet's `cgroupRoot` as a path from the
/// hierarchy's mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TreeRoot(CgroupPath);

impl FromStr for TreeRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let below_mount = text.strip_prefix("/sys/fs/cgroup");
        if below_mount.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(format!(
                "`{text}` is a directory: expected the path of a cgroup from the mount of its hierarchy on, such as /kubelet.slice"
            ));
        }
        if !text.starts_with('/') || text.split('/').any(|name| matches!(name, "." | "..")) {
            return Err(format!(
                "`{text}` is no path of a cgroup: expected one from the mount of the hierarchy on, such as /kubelet.slice"
            ));
        }
        Ok(Self(CgroupPath::new(text.as_bytes())))
    }
}

impl fmt::Display for TreeRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PodTrees {
    /// Returns the pod in a path of which the host's root made the first `trusted` names ([`Cgroup::trusted`]).
    ///
    /// With [`Found`](Self::Found) and [`Given`](Self::Given) this is the outermost pod: what a pod makes in its own
    /// cgroup belongs to it.
    ///
    /// [`Cgroup::trusted`]: crate::host::cgroup::Cgroup::trusted
    pub(crate) fn find(&self, components: &[&[u8]], trusted: usize) -> Option<InPath> {
        let found = || {
            let tree = found(components)?;
            let pod = outermost(components, tree)?;
            (pod.pod <= trusted).then_some(pod)
        };
        match self {
            Self::Found => found(),
            Self::Given(roots) => {
                let depth = roots.iter().find_map(|root| root.tree(components));
                outermost(components, depth?)
            }
            Self::Nested => nested(components, trusted).or_else(found),
        }
    }

    /// Returns whether any name in a path has the form of a pod's.
    pub(crate) fn names_pod(components: &[&[u8]]) -> bool {
        components
            .iter()
            .any(|component| pod_in(component).is_some())
    }

    /// Returns whether a cgroup is named after a pod's slice and a container.
    pub(crate) fn is_mixed(component: &[u8]) -> bool {
        is_mixed(component)
    }

    /// Returns the number of names up to the tree of pods in a path, even if the path has no pod.
    pub(crate) fn tree(&self, components: &[&[u8]]) -> Option<usize> {
        match self {
            Self::Found | Self::Nested => found(components),
            Self::Given(roots) => roots.iter().find_map(|root| root.tree(components)),
        }
    }
}

impl fmt::Display for PodTrees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => f.write_str("the kubelet's own cgroups"),
            Self::Nested => f.write_str("the kubelet's own cgroups and those in containers"),
            Self::Given(roots) => {
                for (at, root) in roots.iter().enumerate() {
                    write!(f, "{}{root}", if at == 0 { "" } else { " and " })?;
                }
                f.write_str(" as given")
            }
        }
    }
}

impl TreeRoot {
    /// Returns the number of names up to the tree that this cgroup contains or is.
    fn tree(&self, components: &[&[u8]]) -> Option<usize> {
        let depth = self.0.components().count();
        let is_below = self
            .0
            .components()
            .eq(components.iter().copied().take(depth));
        let last = depth.checked_sub(1).map(|last| components.get(last));
        if is_below && last.flatten().is_some_and(|name| is_tree(name)) {
            return Some(depth);
        }
        let next = components.get(depth).filter(|_| is_below)?;
        if is_mixed(next) {
            return Some(depth);
        }
        is_tree(next).then_some(depth + 1)
    }
}

/// Returns the number of names up to the host kubelet's tree.
fn found(components: &[&[u8]]) -> Option<usize> {
    match components {
        [b"kubepods" | b"kubepods.slice", ..] => return Some(1),
        [b"kubelet", b"kubepods", ..] => return Some(2),
        _ => {}
    }
    // Nested slices repeat the names above (systemd.slice(5)).
    let mut above: &[u8] = b"";
    for (depth, component) in components.iter().enumerate() {
        if is_mixed(component) {
            return Some(depth);
        }
        if component.ends_with(b".service") {
            let next = components.get(depth + 1).is_some_and(|next| is_mixed(next));
            return next.then_some(depth + 1);
        }
        let name = component.strip_suffix(b".slice")?;
        let inside = name.strip_prefix(above)?;
        (above.is_empty() || inside.starts_with(b"-")).then_some(())?;
        if is_tree(component) {
            return Some(depth + 1);
        }
        above = name;
    }
    None
}

/// Returns the innermost pod in a container of the host: a pod of a kubelet that runs in that container.
fn nested(components: &[&[u8]], trusted: usize) -> Option<InPath> {
    let outer = container::depth(components).filter(|depth| *depth <= trusted)?;
    let inner = (outer..components.len())
        .rev()
        .find(|at| pod_in(components[*at]).is_some())?;
    let mut pod = pod_at(components, inner)?;
    pod.nested = true;
    Some(pod)
}

/// Returns the first pod at or below a depth.
fn outermost(components: &[&[u8]], depth: usize) -> Option<InPath> {
    let at = (depth..components.len()).find(|at| pod_in(components[*at]).is_some())?;
    pod_at(components, at)
}

/// Returns whether a cgroup is named as the root of a kubelet's pods.
fn is_tree(component: &[u8]) -> bool {
    let name = component.strip_suffix(b".slice").unwrap_or(component);
    name == b"kubepods" || (name.len() < component.len() && name.ends_with(b"-kubepods"))
}

/// Returns whether a cgroup is named after a pod's slice and a container, by a runtime that takes the slice for a plain
/// name.
fn is_mixed(component: &[u8]) -> bool {
    let Some(pod) = pod_in(component) else {
        return false;
    };
    let level = pod.before.strip_suffix(b"-").unwrap_or(pod.before);
    let level = ["-burstable", "-besteffort"]
        .iter()
        .find_map(|qos| level.strip_suffix(qos.as_bytes()))
        .unwrap_or(level);
    let is_root = level == b"kubepods" || level.ends_with(b"-kubepods");
    is_root && component.windows(7).any(|part| part == b".slice:")
}
