//! The fields that are read of the API's JSON. All of them may be missing; other fields are skipped and never kept.

use std::{borrow::Cow, collections::HashMap};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// A page of a list. Pods stay as text, so that one malformed pod does not spoil the others.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub metadata: PageMetadata,
    /// Go writes an empty list as null.
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub resource_version: Option<String>,
    #[serde(rename = "continue")]
    pub rest: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// `metav1.Status`: the API's error object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub code: Option<u16>,
    pub message: Option<String>,
}

/// A bookmark.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Bookmark {
    pub metadata: PageMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub metadata: Metadata,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PodSpec {
    pub containers: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    /// Filled in by API servers that support resizing pods in place.
    #[serde(rename = "resizePolicy")]
    pub resize_policy: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub labels: Option<HashMap<String, String>>,
    pub annotations: Option<Annotations>,
    pub owner_references: Option<Vec<Owner>>,
}

/// Annotations that the kubelet sets on the mirror pod of a static pod (kubernetes/pkg/kubelet/types: `pod_update.go`).
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash")]
    pub hash: Option<String>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    pub mirror: Option<String>,
    #[serde(rename = "kubernetes.io/config.source")]
    pub source: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    #[serde(rename = "apiVersion")]
    pub api_version: Option<String>,
    pub kind: Option<String>,
    pub name: Option<String>,
    pub controller: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    #[serde(rename = "containerStatuses")]
    pub containers: Option<Vec<ContainerStatus>>,
    #[serde(rename = "initContainerStatuses")]
    pub init: Option<Vec<ContainerStatus>>,
    #[serde(rename = "ephemeralContainerStatuses")]
    pub ephemeral: Option<Vec<ContainerStatus>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerStatus {
    pub name: Option<String>,
    #[serde(rename = "containerID")]
    pub id: Option<String>,
    #[serde(rename = "lastState")]
    pub last: Option<State>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Terminated {
    #[serde(rename = "containerID")]
    pub id: Option<String>,
}
