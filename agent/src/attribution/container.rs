//! Containers, recognized by the names that runtimes give to their cgroups.

use super::Runtime;
use crate::host::cgroup::label;

/// A container named by one component of a path.
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) runtime: Runtime,
}

/// Finds the outermost container in a path. Returns it with the number of components up to it.
pub(super) fn find(components: &[&[u8]]) -> Option<(Named, usize)> {
    components
        .iter()
        .enumerate()
        .find_map(|(index, component)| {
            let above = index.checked_sub(1).map(|above| components[above]);
            let named = named_by(component, above)
                .or_else(|| lxc(component, above.filter(|_| index == 1)))?;
            Some((named, index + 1))
        })
}

/// Returns the number of components up to the outermost container.
pub(crate) fn depth(components: &[&[u8]]) -> Option<usize> {
    find(components).map(|(_, depth)| depth)
}

/// Returns the container that a component names; `above` is the component above it.
///
/// A container ID is 64 hex digits: alone (driver cgroupfs), as `<prefix>-<ID>` or `<prefix>-<ID>.scope` (systemd), or
/// as `<slice>:<prefix>:<ID>`.
pub(crate) fn named_by(component: &[u8], above: Option<&[u8]>) -> Option<Named> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let (before, id) = name.split_at_checked(name.len().checked_sub(64)?)?;
    let id = str::from_utf8(id).ok().filter(|id| {
        id.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })?;
    let prefix = match before {
        [] => above.unwrap_or_default(),
        [slice_and_prefix @ .., b':'] => slice_and_prefix.rsplit(|&byte| byte == b':').next()?,
        [prefix @ .., b'-'] => prefix,
        _ => return None,
    };
    // A container's monitor process has a cgroup beside it: crio-conmon-<ID>.scope, libpod-conmon-<ID>.scope.
    if prefix == b"conmon" || prefix.ends_with(b"-conmon") {
        return None;
    }
    let runtime = match prefix {
        b"docker" => Runtime::Docker,
        b"cri-containerd" | b"containerd" | b"nerdctl" => Runtime::Containerd,
        b"crio" => Runtime::Crio,
        b"libpod" | b"libpod_parent" | b"podman" => Runtime::Podman,
        _ => Runtime::Unknown,
    };
    Some(Named {
        id: id.to_owned(),
        runtime,
    })
}

/// Recognizes names of LXC: `/lxc.payload.<name>`, `/lxc.payload/<name>` (4.0 and later), `/lxc/<name>` (before).
fn lxc(component: &[u8], top: Option<&[u8]>) -> Option<Named> {
    let name = match top {
        Some(b"lxc" | b"lxc.payload") => component,
        _ => component.strip_prefix(b"lxc.payload.")?,
    };
    (!name.is_empty()).then(|| Named {
        id: label(name).into_owned(),
        runtime: Runtime::Lxc,
    })
}
