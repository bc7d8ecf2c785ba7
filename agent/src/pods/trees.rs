//! The cgroups below which pods are taken for pods.
//!
//! A cgroup's name proves nothing: whoever has a delegated cgroup, or root in a container, can make `…/pod<UID>/<ID>` in
//! it. A kubelet's pods are in its own tree, which only the host's root can make.

use std::{fmt, str::FromStr};

use super::{InPath, pod_at, pod_in};
use crate::{attribution::container, cgroup::CgroupPath};

/// Which trees of pods are followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PodTrees {
    /// The kubelet's, found by where kubelets make them:
    ///
    /// - `/kubepods` and `/kubepods.slice`;
    /// - `/a.slice/a-b.slice/a-b-kubepods.slice`, slices from the root on: systemd lets no user delegate these
    ///   (systemd.resource-control(5), `Delegate=`), and kind has its pods below `/kubelet.slice`;
    /// - `/kubelet/kubepods`, kind's with the driver cgroupfs;
    /// - `kubepods-…-pod<UID>.slice:<runtime>:<ID>` in the runtime's own service, where kubelet and runtime have
    ///   different drivers.
    #[default]
    Found,
    /// Those in these cgroups, whoever can write there: a kubelet's `cgroupRoot` of another form, or that of a kubelet in
    /// a container.
    Given(Vec<TreeRoot>),
    /// The found ones, and those of kubelets in containers, whose pods are then pods rather than parts of the container.
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
    /// The pod in a path of which the first `trusted` names are the host root's ([`Cgroup::trusted`]).
    ///
    /// The outermost one of the tree: what a pod makes in its own cgroup belongs to it.
    ///
    /// [`Cgroup::trusted`]: crate::cgroup::Cgroup::trusted
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

    /// Whether a path has the name of a pod in it, wherever that is.
    pub(crate) fn names_pod(components: &[&[u8]]) -> bool {
        components
            .iter()
            .any(|component| pod_in(component).is_some())
    }

    /// Whether a cgroup is named after a pod's slice and a container.
    pub(crate) fn is_mixed(component: &[u8]) -> bool {
        is_mixed(component)
    }

    /// How many names of a path lead to the tree of pods in it; also where no pod is.
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
    /// How many names lead to the tree that this cgroup has in it or is.
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

/// The tree that a kubelet of the host has: how many names lead to it.
fn found(components: &[&[u8]]) -> Option<usize> {
    match components {
        [b"kubepods" | b"kubepods.slice", ..] => return Some(1),
        [b"kubelet", b"kubepods", ..] => return Some(2),
        _ => {}
    }
    // Slices inside one another repeat the names above (systemd.slice(5)).
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

/// The pod of a kubelet that runs in a container of the host: the innermost.
fn nested(components: &[&[u8]], trusted: usize) -> Option<InPath> {
    let outer = container::depth(components).filter(|depth| *depth <= trusted)?;
    let inner = (outer..components.len())
        .rev()
        .find(|at| pod_in(components[*at]).is_some())?;
    let mut pod = pod_at(components, inner)?;
    pod.nested = true;
    Some(pod)
}

/// The first pod at or below a depth.
fn outermost(components: &[&[u8]], depth: usize) -> Option<InPath> {
    let at = (depth..components.len()).find(|at| pod_in(components[*at]).is_some())?;
    pod_at(components, at)
}

/// Whether a cgroup is named as the root of a kubelet's pods.
fn is_tree(component: &[u8]) -> bool {
    let name = component.strip_suffix(b".slice").unwrap_or(component);
    name == b"kubepods" || (name.len() < component.len() && name.ends_with(b"-kubepods"))
}

/// Whether a cgroup is named after a pod's slice and a container, by a runtime that takes the slice for a plain name.
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
