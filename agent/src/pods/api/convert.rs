//! From the API's pod to the directory's.

use std::collections::{BTreeMap, HashMap};

use super::failure::quoted;
use super::wire;
use crate::pods::{Pod, PodUid, Workload};

/// The lengths that the API server holds its objects to, in bytes
/// (kubernetes/apimachinery/pkg/util/validation: `validation.go`).
const MAX_NAME: usize = 253;
const MAX_SHORT_NAME: usize = 63;
const MAX_VERSION: usize = 256;

/// Containers of one pod that are read at most, dead ones included.
const MAX_CONTAINERS: usize = 256;

/// The digits of a container's ID.
const ID_DIGITS: usize = 64;

/// The digits that the `CronJob` controller appends to its Jobs' names, at least: minutes since 1970, seconds in
/// Kubernetes before 1.21 (kubernetes/pkg/controller/cronjob: `utils.go`).
const SCHEDULE_DIGITS: usize = 8;

/// What could be read of a pod.
pub(super) struct Reading {
    /// Which change of the pod this is, for a watch to go on from.
    pub version: Option<String>,
    /// The pod; none without a UID or a name.
    pub pod: Option<(PodUid, Pod)>,
    /// What makes no sense in it.
    pub doubts: Vec<Doubt>,
}

/// Something in a pod that makes no sense.
#[derive(Debug)]
pub(super) struct Doubt {
    /// `bad_pod`, `bad_uid`, `bad_container` or `bad_label`.
    pub reason: &'static str,
    pub text: String,
}

/// Reads a pod from its JSON; of its labels those in `labels`.
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

/// A resource version that can be sent back.
pub(super) fn version(text: String) -> Option<String> {
    is_name(&text, MAX_VERSION).then_some(text)
}

fn is_name(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
}

/// The UID that the pod's cgroup has: for a static pod the hash of its configuration, since the UID of its mirror in the
/// API is another.
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

/// What made the pod, past the objects that stand between: a `ReplicaSet` is named after its Deployment, and, as a guess,
/// a Job after its `CronJob`.
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

/// Whether the API server knows of resizing in place: it fills in each container's policy then (KEP-1287; by default
/// from Kubernetes 1.33 on).
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
        // An empty value is a value.
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

/// Names by ID, those of dead containers first: where there are too many, the first are forgotten.
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
            // A container that has yet to start has an empty ID.
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

/// `<runtime>://<ID>`.
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
