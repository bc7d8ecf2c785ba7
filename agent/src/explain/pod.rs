//! The resources of a pod's container: where they are set depends on what made the pod.
//!
//! What a controller made it makes again, from its own template: a change of a `ReplicaSet` is undone by its Deployment,
//! a pod that runs takes no change but an in-place resize, a Job's template none at all, and a static pod is a file on
//! its node.

use serde_json::json;

use super::Remedy;
use crate::{
    ShellCommand,
    pods::{QosClass, Workload},
};

/// The pod of a subject, as far as is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name; that of one of them where the subject is several of one workload.
    pub name: String,
    /// How many there are.
    pub pods: usize,
    /// The containers that are the subject, by name.
    pub containers: Vec<String>,
    /// What made it.
    pub maker: Maker,
    /// Its class.
    pub qos: Option<QosClass>,
    /// Whether its containers can be resized while they run; none where nobody said.
    pub resizable: Option<bool>,
}

/// What made a pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Maker {
    /// The source of names does not say.
    #[default]
    Unknown,
    /// Nothing: somebody made it by itself.
    Nobody,
    /// The kubelet, from a file on the node: a static pod.
    Kubelet,
    /// A controller.
    Workload(Workload),
}

/// A change of a container's resources.
#[derive(Clone, Debug)]
pub(super) struct Change {
    resource: &'static str,
    /// As the API takes it, such as `1500m`.
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

    /// `limits` and `requests`, as far as they change: those of a Guaranteed pod have to stay equal.
    fn fields(&self, qos: Option<QosClass>) -> &'static [&'static str] {
        match (self.limit, qos) {
            (false, _) => &["requests"],
            (true, Some(QosClass::Guaranteed)) => &["limits", "requests"],
            (true, _) => &["limits"],
        }
    }
}

/// CPUs as the API takes them.
pub(super) fn cpu_amount(cpus: f64) -> String {
    let milli = (cpus * 1000.0).round();
    if milli % 1000.0 == 0.0 {
        format!("{}", milli / 1000.0)
    } else {
        format!("{milli}m")
    }
}

impl PodFacts {
    /// What makes a change of its container last, and what makes it at once.
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

    /// The change where it stays: in what the pod is made from.
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
            // It may be a Deployment's, or that of a controller of another kind, which would set it back.
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

    /// The command that says what made the pod, where it is not known.
    fn find_maker(&self, text: &str, change: &Change, container: &str) -> Remedy {
        let fields = self.fields(change, container);
        Remedy::run(
            format!(
                "{text} ({fields}) in the manifest of the pod's owner, which this command prints; a ReplicaSet is owned by the Deployment named like it up to the last dash, and a pod without an owner has a manifest of its own"
            ),
            self.owners("pod", &self.name),
        )
    }

    /// The command that names the owners of an object.
    fn owners(&self, kind: &str, name: &str) -> ShellCommand {
        self.kubectl()
            .args(["get", kind, name, "-o"])
            .arg(r#"jsonpath={range .metadata.ownerReferences[*]}{.kind}/{.name}{"\n"}{end}"#)
    }

    fn edit(&self, text: &str, what: &str, change: &Change, container: &str) -> Remedy {
        let fields = self.fields(change, container);
        Remedy::advice(format!("{text}: edit {what} ({fields})"))
    }

    /// What to write, in the words of a manifest.
    fn fields(&self, change: &Change, container: &str) -> String {
        let fields = change.fields(self.qos).iter();
        let fields: Vec<_> = fields
            .map(|field| format!("resources.{field}.{}: {}", change.resource, change.amount))
            .collect();
        format!("container {container}: {}", fields.join(", "))
    }

    /// The change in the pod that runs, which lasts as long as it does: KEP-1287, on by default from 1.33 on. It may not
    /// change the class, so nothing is asked for in a pod that asked for nothing.
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

/// Whether the API lets an object be called so (RFC 1123): nothing in such a name is an option or a pattern for kubectl.
fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name
            .bytes()
            .all(|byte| inside(byte) || b"-.".contains(&byte))
        && name.bytes().next().is_some_and(inside)
}
