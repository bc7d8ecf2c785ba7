//! Remedies that change the resources of a pod's container: the place to set them depends on the pod's maker.
//!
//! A controller makes its objects again from its own template. A Deployment undoes a change of its `ReplicaSet`, a
//! running pod accepts only an in-place resize, a Job's template accepts no change, and a static pod is a file on its
//! node.

use serde_json::json;

use super::Remedy;
use crate::{
    attribution::pods::{QosClass, Workload},
    text::shell_command::ShellCommand,
};

/// Pod of a subject, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name; that of one pod if the subject is several pods of one workload.
    pub name: String,
    /// Number of pods.
    pub pods: usize,
    /// Names of the containers that are the subject.
    pub containers: Vec<String>,
    /// Maker of the pod.
    pub maker: Maker,
    /// QoS class.
    pub qos: Option<QosClass>,
    /// True if its containers can be resized while they run; none if that is not known.
    pub resizable: Option<bool>,
}

/// Maker of a pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Maker {
    /// The source of names does not state it.
    #[default]
    Unknown,
    /// No controller: somebody created the pod by itself.
    Nobody,
    /// The kubelet, from a file on the node: a static pod.
    Kubelet,
    /// A controller.
    Workload(Workload),
}

/// Change of a container's resources.
#[derive(Clone, Debug)]
pub(super) struct Change {
    resource: &'static str,
    /// Amount in the API's format, such as `1500m`.
    amount: String,
    limit: bool,
}

impl Change {
    pub(super) fn limit(resource: &'static str, amount: String) -> Self {
        Self {
            resource,
            amount,
            limit: true,
        }
    }

    pub(super) fn request(resource: &'static str, amount: String) -> Self {
        Self {
            resource,
            amount,
            limit: false,
        }
    }

    /// Returns the fields that change, of `limits` and `requests`. In a Guaranteed pod they have to stay equal.
    fn fields(&self, qos: Option<QosClass>) -> &'static [&'static str] {
        match (self.limit, qos) {
            (false, _) => &["requests"],
            (true, Some(QosClass::Guaranteed)) => &["limits", "requests"],
            (true, _) => &["limits"],
        }
    }
}

/// Formats CPUs for the API.
pub(super) fn cpu_amount(cpus: f64) -> String {
    let milli = (cpus * 1000.0).round();
    if milli % 1000.0 == 0.0 {
        format!("{}", milli / 1000.0)
    } else {
        format!("{milli}m")
    }
}

impl PodFacts {
    /// Returns the remedy that changes the container for good, and the one that changes it at once.
    pub(super) fn change(&self, text: &str, change: &Change) -> Vec<Remedy> {
        let [container] = &self.containers[..] else {
            return vec![self.ask_for_a_container(text)];
        };
        let names = [&self.namespace, &self.name, container];
        if !names.into_iter().all(|name| is_name(name)) {
            return vec![self.edit(text, "its manifest", change, container)];
        }
        let mut remedies = vec![self.lasting(text, change, container)];
        remedies.extend(self.resize(change, container));
        remedies
    }

    fn ask_for_a_container(&self, text: &str) -> Remedy {
        let which = if self.containers.is_empty() {
            "which container it is, the source of names does not say".to_owned()
        } else {
            format!(
                "choose one of its containers with --container: {}",
                self.containers.join(", ")
            )
        };
        Remedy::advice(format!("{text}: {which}"))
    }

    /// Returns the remedy that lasts: a change of the object from which the pod is made.
    fn lasting(&self, text: &str, change: &Change, container: &str) -> Remedy {
        let workload = match &self.maker {
            Maker::Workload(workload) if is_name(&workload.name) => workload,
            Maker::Unknown | Maker::Workload(_) => {
                return self.find_maker(text, change, container);
            }
            Maker::Nobody => {
                let what = "its manifest, and create the pod anew, since no controller does";
                return self.edit(text, what, change, container);
            }
            Maker::Kubelet => {
                let what = "its manifest on the node, in the kubelet's staticPodPath (by default /etc/kubernetes/manifests)";
                return self.edit(text, what, change, container);
            }
        };
        let name = &workload.name;
        let kind = workload.kind.to_ascii_lowercase();
        let effect = match kind.as_str() {
            "deployment" | "statefulset" | "daemonset" => "; its pods are replaced",
            "cronjob" => ", from its next run on",
            "job" => {
                let what = format!(
                    "the manifest of Job {name}, and make it anew: a Job cannot be changed"
                );
                return self.edit(text, &what, change, container);
            }
            "node" => {
                let what = "its manifest on the node, in the kubelet's staticPodPath (by default /etc/kubernetes/manifests)";
                return self.edit(text, what, change, container);
            }
            // The ReplicaSet may belong to a Deployment, or to a controller of another kind, which would undo the
            // change.
            "replicaset" => {
                let command = self.owners("replicaset", name);
                let rest = format!(
                    "in the manifest of the owner of ReplicaSet {name}, which this command prints, or in its own where it has none",
                );
                let fields = self.fields(change, container);
                return Remedy::run(format!("{text} ({fields}) {rest}"), command);
            }
            _ => {
                let what = format!("the manifest of {} {name}", workload.kind);
                return self.edit(text, &what, change, container);
            }
        };
        let fields = change.fields(self.qos).iter();
        let command = self
            .kubectl()
            .args(["set", "resources"])
            .arg(format!("{kind}/{name}"))
            .args(["-c", container])
            .args(fields.map(|field| format!("--{field}={}={}", change.resource, change.amount)));
        Remedy::run(format!("{text}{effect}"), command)
    }

    /// Returns the remedy with the command that prints the pod's maker, for a pod whose maker is not known.
    fn find_maker(&self, text: &str, change: &Change, container: &str) -> Remedy {
        let fields = self.fields(change, container);
        Remedy::run(
            format!(
                "{text} ({fields}) in the manifest of the pod's owner, which this command prints; a ReplicaSet is owned by the Deployment named like it up to the last dash, and a pod without an owner has a manifest of its own"
            ),
            self.owners("pod", &self.name),
        )
    }

    /// Makes the command that prints the owners of an object.
    fn owners(&self, kind: &str, name: &str) -> ShellCommand {
        self.kubectl()
            .args(["get", kind, name, "-o"])
            .arg(r#"jsonpath={range .metadata.ownerReferences[*]}{.kind}/{.name}{"\n"}{end}"#)
    }

    fn edit(&self, text: &str, what: &str, change: &Change, container: &str) -> Remedy {
        let fields = self.fields(change, container);
        Remedy::advice(format!("{text}: edit {what} ({fields})"))
    }

    /// Describes the change in the fields of a manifest.
    fn fields(&self, change: &Change, container: &str) -> String {
        let fields = change.fields(self.qos).iter();
        let fields: Vec<_> = fields
            .map(|field| format!("resources.{field}.{}: {}", change.resource, change.amount))
            .collect();
        format!("container {container}: {}", fields.join(", "))
    }

    /// Returns the remedy that resizes the running pod, which lasts as long as the pod (KEP-1287, on by default since
    /// 1.33). A resize may not change the QoS class, so a BestEffort pod gets none.
    fn resize(&self, change: &Change, container: &str) -> Option<Remedy> {
        let is_static = match &self.maker {
            Maker::Kubelet => true,
            Maker::Workload(workload) => workload.kind.eq_ignore_ascii_case("node"),
            Maker::Unknown | Maker::Nobody => false,
        };
        let best_effort = self.qos == Some(QosClass::BestEffort);
        if is_static || best_effort || self.pods != 1 || self.resizable == Some(false) {
            return None;
        }
        let fields = change.fields(self.qos).iter();
        let resources: serde_json::Map<_, _> = fields
            .map(|field| ((*field).to_owned(), json!({change.resource: change.amount})))
            .collect();
        let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
        let since = if self.resizable == Some(true) {
            "with kubectl from 1.32 on"
        } else {
            "with Kubernetes from 1.33 on"
        };
        Some(Remedy::run(
            format!("Or at once, for as long as this pod lives, {since}"),
            self.kubectl()
                .args([
                    "patch",
                    "pod",
                    &self.name,
                    "--subresource=resize",
                    "--patch",
                ])
                .arg(patch.to_string()),
        ))
    }

    fn kubectl(&self) -> ShellCommand {
        ShellCommand::new("kubectl").args(["-n", &self.namespace])
    }
}

/// Returns whether the API accepts a name for an object (RFC 1123). Such a name holds nothing that kubectl takes for an
/// option or a pattern.
fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name
            .bytes()
            .all(|byte| inside(byte) || b"-.".contains(&byte))
        && name.bytes().next().is_some_and(inside)
}
