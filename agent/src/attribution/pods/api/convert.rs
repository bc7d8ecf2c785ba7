//! Conversion of the API's pods to the directory's.

use std::collections::{BTreeMap, HashMap};

use super::failure::quoted;
use super::wire;
use crate::attribution::pods::{Pod, PodUid, Workload};

/// Maximum lengths that the API server enforces on its objects, in bytes (kubernetes/apimachinery/pkg/util/validation:
/// `validation.go`).
const MAX_NAME: usize = 253;
const MAX_SHORT_NAME: usize = 63;
const MAX_VERSION: usize = 256;

/// Maximum number of containers read of one pod, dead ones included.
const MAX_CONTAINERS: usize = 256;

/// Number of digits of a container ID.
const ID_DIGITS: usize = 64;

/// Minimum number of digits that the `CronJob` controller appends to its Jobs' names: minutes since 1970, seconds in
/// Kubernetes before 1.21 (kubernetes/pkg/controller/cronjob: `utils.go`).
const SCHEDULE_DIGITS: usize = 8;

/// Result of reading one pod.
pub(super) struct Reading {
    /// The pod's resource version, from which a watch can go on.
    pub version: Option<String>,
    /// The pod; none without a valid UID or name.
    pub pod: Option<(PodUid, Pod)>,
    /// Malformed parts of the pod.
    pub doubts: Vec<Doubt>,
}

/// A malformed part of a pod.
#[derive(Debug)]
pub(super) struct Doubt {
    /// `bad_pod`, `bad_uid`, `bad_container` or `bad_label`.
    pub reason: &'static str,
    pub text: String,
}

/// Reads a pod from its JSON, with those of its labels that `labels` lists.
pub(super) fn read(json: &str, labels: &[String]) -> Reading {
    let mut reading = Reading {
        version: None,
        pod: None,
        doubts: Vec::new(),
    };
    match serde_json::from_str::<wire::Pod>(json) {
        Ok(raw) => convert(raw, labels, &mut reading),
        Err(error) => {
            let text = format!(
                "the Kubernetes API describes a pod that cannot be read ({}): {}; it stays without a name",
                quoted(&error.to_string()),
                quoted(json)
            );
            reading.doubt("bad_pod", text);
        }
    }
    reading
}

impl Reading {
    fn doubt(&mut self, reason: &'static str, text: String) {
        self.doubts.push(Doubt { reason, text });
    }
}

fn convert(raw: wire::Pod, asked: &[String], reading: &mut Reading) {
    let mut metadata = raw.metadata;
    reading.version = metadata.resource_version.take().and_then(version);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    if !is_name(namespace, MAX_SHORT_NAME) || !is_name(name, MAX_NAME) {
        let text = format!(
            "the Kubernetes API names a pod {} in namespace {}: expected at most {MAX_NAME} and {MAX_SHORT_NAME} \
             printable bytes; it stays without a name",
            quoted(name),
            quoted(namespace)
        );
        return reading.doubt("bad_pod", text);
    }
    let of = format!("{namespace}/{name}");
    let Some(uid) = uid(&metadata, &of, reading) else {
        return;
    };
    let pod = Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        workload: workload(&metadata),
        labels: labels(metadata.labels.as_ref(), asked, &of, reading),
        resizable: raw.spec.as_ref().map(resizable),
        containers: containers(raw.status.unwrap_or_default(), &of, reading),
    };
    reading.pod = Some((uid, pod));
}

/// Returns `text` if it is a resource version that can be sent back.
pub(super) fn version(text: String) -> Option<String> {
    is_name(&text, MAX_VERSION).then_some(text)
}

fn is_name(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
}

/// Returns the UID that the pod's cgroup has. For a static pod that is the hash of its configuration: its mirror pod in
/// the API has another UID.
fn uid(metadata: &wire::Metadata, of: &str, reading: &mut Reading) -> Option<PodUid> {
    if let Some(hash) = static_hash(metadata) {
        if let Some(uid) = PodUid::parse(hash) {
            return Some(uid);
        }
        let text = format!(
            "static pod {of} has annotation kubernetes.io/config.hash {}, which is none; its UID is taken instead",
            quoted(hash)
        );
        reading.doubt("bad_uid", text);
    }
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let parsed = PodUid::parse(uid);
    if parsed.is_none() {
        let text = format!(
            "the Kubernetes API says that pod {of} has UID {}, which is none; its cgroups stay without a name",
            quoted(uid)
        );
        reading.doubt("bad_uid", text);
    }
    parsed
}

fn static_hash(metadata: &wire::Metadata) -> Option<&str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.mirror.as_ref()?;
    let source = annotations.source.as_deref()?;
    (source != "api").then(|| annotations.hash.as_deref().unwrap_or_default())
}

/// Returns the workload that owns the pod, skipping intermediate objects: a `ReplicaSet` is named after its Deployment,
/// and a Job, as a guess, after its `CronJob`.
fn workload(metadata: &wire::Metadata) -> Option<Workload> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let (kind, name) = (owner.kind.as_deref()?, owner.name.as_deref()?);
    let group = owner.api_version.as_deref()?.split('/').next()?;
    if !is_name(kind, MAX_SHORT_NAME) || !is_name(name, MAX_NAME) {
        return None;
    }
    let hash = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"));
    let above = match (group, kind) {
        ("apps", "ReplicaSet") => hash
            .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'))
            .map(|name| ("Deployment", name)),
        ("batch", "Job") => scheduled(name).map(|name| ("CronJob", name)),
        _ => None,
    };
    let (kind, name) = above
        .filter(|(_, name)| !name.is_empty())
        .unwrap_or((kind, name));
    Some(Workload {
        kind: kind.to_owned(),
        name: name.to_owned(),
    })
}

/// Returns whether the API server supports resizing in place: it then fills in each container's policy (KEP-1287; by
/// default from Kubernetes 1.33 on).
fn resizable(spec: &wire::PodSpec) -> bool {
    let mut containers = spec.containers.iter().flatten();
    containers.any(|container| container.resize_policy.is_some())
}

fn scheduled(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = time.len() >= SCHEDULE_DIGITS && time.bytes().all(|byte| byte.is_ascii_digit());
    is_time.then_some(name)
}

fn labels(
    all: Option<&HashMap<String, String>>,
    asked: &[String],
    of: &str,
    reading: &mut Reading,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for key in asked {
        let Some(value) = all.and_then(|all| all.get(key)) else {
            continue;
        };
        // An empty value is valid.
        if value.is_empty() || is_name(value, MAX_SHORT_NAME) {
            labels.insert(key.clone(), value.clone());
        } else {
            let text = format!(
                "label {key} of pod {of} is {}: expected at most {MAX_SHORT_NAME} printable bytes; it is left out",
                quoted(value)
            );
            reading.doubt("bad_label", text);
        }
    }
    labels
}

/// Returns container names by ID. Dead containers come first, because the directory forgets the first ones when there
/// are too many.
fn containers(status: wire::PodStatus, of: &str, reading: &mut Reading) -> Vec<(String, String)> {
    let all = [status.containers, status.init, status.ephemeral];
    let mut all: Vec<_> = all.into_iter().flatten().flatten().collect();
    all.truncate(MAX_CONTAINERS / 2);
    let mut containers = Vec::new();
    for dead in [true, false] {
        for container in &all {
            let last = container
                .last
                .as_ref()
                .and_then(|last| last.terminated.as_ref());
            let id = if dead {
                last.and_then(|last| last.id.as_ref())
            } else {
                container.id.as_ref()
            };
            // A container that has not started has an empty ID.
            let Some(id) = id.filter(|id| !id.is_empty()) else {
                continue;
            };
            let name = container.name.as_deref().unwrap_or_default();
            match container_id(id).filter(|_| is_name(name, MAX_SHORT_NAME)) {
                Some(id) => containers.push((id.to_owned(), name.to_owned())),
                None => reading.doubt("bad_container", bad_container(of, name, id)),
            }
        }
    }
    containers
}

/// Parses `<runtime>://<ID>`.
fn container_id(text: &str) -> Option<&str> {
    let (_, id) = text.split_once("://")?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == ID_DIGITS && id.bytes().all(is_digit)).then_some(id)
}

fn bad_container(of: &str, name: &str, id: &str) -> String {
    format!(
        "container {} of pod {of} has ID {}: expected <runtime>://<{ID_DIGITS} hexadecimal digits> and a name of at \
         most {MAX_SHORT_NAME} bytes; it stays without a name",
        quoted(name),
        quoted(id)
    )
}

#[cfg(test)]
mod tests;
