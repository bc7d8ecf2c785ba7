//! The names that the kubelet gives its files.

use std::path::{Component, Path};

use crate::attribution::pods::PodUid;

/// Maximum length of a link's name without its `.log`, in bytes: the kubelet cuts longer ones
/// (kubernetes/pkg/kubelet/kuberuntime/legacy.go).
const MAX_STEM: usize = 251;

/// Number of digits of a container ID.
const ID_DIGITS: usize = 64;

/// A pod, as the name of its directory identifies it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PodName {
    pub(super) uid: PodUid,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A container, as its link identifies it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) pod: PodName,
    pub(super) container: String,
    /// The container ID, or its first digits; empty where the kubelet had no room for any.
    pub(super) id: String,
}

/// Reason why a link is rejected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wrong {
    /// Its target is not a container's log below a pod's directory.
    Target,
    /// Its own name has another form, or contradicts its target.
    Name,
}

impl PodName {
    /// Reads `<namespace>_<pod>_<UID>` (`BuildPodLogsDirectory` in kubernetes/pkg/kubelet/kuberuntime/helpers.go).
    pub(super) fn parse(directory: &str) -> Option<Self> {
        let mut parts = directory.split('_');
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = parts.next().is_none() && is_label(namespace) && is_subdomain(name);
        Some(Self {
            uid: PodUid::parse(uid)?,
            namespace: fits.then(|| namespace.to_owned())?,
            name: name.to_owned(),
        })
    }
}

impl Link {
    /// Reads `<pod>_<namespace>_<container>-<ID>.log`, a link to `…/<namespace>_<pod>_<UID>/<container>/<N>.log`.
    ///
    /// Only the target has the UID and the uncut names; only the link's name has the ID.
    pub(super) fn parse(name: &str, target: &Path) -> Result<Self, Wrong> {
        let (pod, container) = target_of(target).ok_or(Wrong::Target)?;
        let stem = name.strip_suffix(".log").ok_or(Wrong::Name)?;
        let before = format!("{}_{}_{container}-", pod.name, pod.namespace);
        let id = match stem.strip_prefix(&before) {
            Some(id) => id,
            // The kubelet has cut the stem within the names.
            None if stem.len() == MAX_STEM && before.starts_with(stem) => "",
            None => return Err(Wrong::Name),
        };
        let is_whole = id.len() == ID_DIGITS;
        let is_cut = stem.len() == MAX_STEM && id.len() < ID_DIGITS;
        if !(is_whole || is_cut) || !id.bytes().all(is_hex) {
            return Err(Wrong::Name);
        }
        Ok(Self {
            pod,
            container: container.to_owned(),
            id: id.to_owned(),
        })
    }

    /// Returns the ID, if it was not cut short.
    pub(super) fn whole_id(&self) -> Option<&str> {
        (self.id.len() == ID_DIGITS).then_some(&self.id)
    }
}

/// Parses the pod and the container at the end of a target. Any directory may be in front: the kubelet's `podLogsDir`.
fn target_of(target: &Path) -> Option<(PodName, &str)> {
    let mut parts = target.components().rev();
    let mut next = || match parts.next()? {
        Component::Normal(part) => part.to_str(),
        _ => None,
    };
    let (log, container, directory) = (next()?, next()?, next()?);
    let number = log.strip_suffix(".log")?;
    let is_log = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_log && is_label(container)).then_some(())?;
    Some((PodName::parse(directory)?, container))
}

/// Returns whether a text may name a namespace or container: an RFC 1123 label.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(is_in_label)
}

/// Returns whether a text may name a pod: an RFC 1123 subdomain.
fn is_subdomain(text: &str) -> bool {
    let may_be = |byte| is_in_label(byte) || byte == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(may_be)
}

fn is_in_label(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests;
