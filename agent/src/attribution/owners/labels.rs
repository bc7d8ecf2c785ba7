//! Labels of owners' series.

use std::{borrow::Cow, fmt, str::FromStr};

use crate::{
    attribution::{
        Owner,
        pods::{Found, PodIdentity},
    },
    exposition::OwnerLabels,
};

/// The requested labels, in their order. Owners with equal labels are one owner: their counts are summed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LabelSet(Vec<Label>);

/// One label of an owner.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Label {
    Namespace,
    Pod,
    Container,
    Cgroup,
    Workload,
    WorkloadType,
    QosClass,
    Uid,
    /// A label of the pod, by its key, with its name in the exposition.
    OfPod {
        key: String,
        name: String,
    },
}

/// Subject of a series.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    /// A container or pod that a source has named; `cgroup` is the pod's.
    Named {
        identity: &'a PodIdentity,
        found: Found<'a>,
        cgroup: &'a str,
    },
    /// A cgroup with no other name than its path.
    Cgroup(&'a Owner),
    /// A sum over owners without series of their own, such as `(other)`.
    Sum(&'a str),
}

/// Labels without a parameter, by name.
const FIXED: [(&str, Label); 8] = [
    ("namespace", Label::Namespace),
    ("pod", Label::Pod),
    ("container", Label::Container),
    ("cgroup", Label::Cgroup),
    ("workload", Label::Workload),
    ("workload_type", Label::WorkloadType),
    ("qos_class", Label::QosClass),
    ("uid", Label::Uid),
];

/// Prefix of the key of a pod's label.
const OF_POD: &str = "label:";

impl Default for LabelSet {
    fn default() -> Self {
        let fixed = FIXED.map(|(_, label)| label);
        Self(fixed.into_iter().take(OwnerLabels::NAMES.len()).collect())
    }
}

impl LabelSet {
    /// Returns the keys of the requested labels of pods.
    #[must_use]
    pub fn pod_labels(&self) -> Vec<String> {
        let key = |label: &Label| match label {
            Label::OfPod { key, .. } => Some(key.clone()),
            _ => None,
        };
        self.0.iter().filter_map(key).collect()
    }

    /// Returns the names of the labels in the exposition, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|label| label.name().to_owned()).collect()
    }

    /// Returns the requested labels that only the API has, as they were written.
    #[must_use]
    pub fn of_the_api(&self) -> Vec<String> {
        let api = |label: &&Label| {
            matches!(
                label,
                Label::Workload | Label::WorkloadType | Label::OfPod { .. }
            )
        };
        self.0.iter().filter(api).map(ToString::to_string).collect()
    }

    /// Formats the labels of a subject. A sum has its name in the label `cgroup`, or else in the first label.
    pub(super) fn render(&self, subject: Subject<'_>) -> OwnerLabels {
        let sum_at = self
            .0
            .iter()
            .position(|label| *label == Label::Cgroup)
            .unwrap_or_default();
        OwnerLabels::of(self.0.iter().enumerate().map(|(at, label)| {
            let value = match subject {
                Subject::Sum(name) if at == sum_at => name.into(),
                Subject::Cgroup(owner) if *label == Label::Cgroup => (&owner.cgroup).into(),
                Subject::Sum(_) | Subject::Cgroup(_) => "".into(),
                Subject::Named {
                    identity,
                    found,
                    cgroup,
                } => label.of_pod(identity, found, cgroup),
            };
            (label.name(), value)
        }))
    }
}

impl Label {
    /// Returns the label's name in the exposition.
    fn name(&self) -> &str {
        match self {
            Self::OfPod { name, .. } => name,
            fixed => {
                let mut all = FIXED.iter();
                all.find(|(_, label)| label == fixed)
                    .map_or("", |(name, _)| name)
            }
        }
    }

    fn of_pod<'a>(
        &'a self,
        identity: &'a PodIdentity,
        found: Found<'a>,
        cgroup: &'a str,
    ) -> Cow<'a, str> {
        let (pod, container) = match found {
            Found::Nothing => return "".into(),
            Found::Pod(pod) => (pod, ""),
            Found::Container(pod, container) => (pod, container),
        };
        let workload = pod.workload.as_ref();
        match self {
            Self::Namespace => &pod.namespace,
            Self::Pod => &pod.name,
            Self::Container => container,
            Self::Cgroup => cgroup,
            Self::Workload => workload.map_or("", |workload| &workload.name),
            // In lower case, as the recording rules of the Kubernetes mixin write it.
            Self::WorkloadType => {
                let kind = workload.map(|workload| workload.kind.to_ascii_lowercase());
                return kind.unwrap_or_default().into();
            }
            Self::QosClass => identity.qos.map_or("", |class| class.name()),
            Self::Uid => identity.uid.as_str(),
            Self::OfPod { key, .. } => pod.labels.get(key).map_or("", String::as_str),
        }
        .into()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(key) = text.strip_prefix(OF_POD) {
            return if is_label_key(key) {
                Ok(Self::OfPod {
                    key: key.to_owned(),
                    name: pod_label_name(key),
                })
            } else {
                Err(format!(
                    "`{key}` is no key of a Kubernetes label: expected letters, digits, `-`, `_`, `.` and at most one `/`, as in label:app.kubernetes.io/name"
                ))
            };
        }
        let known = FIXED.iter().find(|(name, _)| *name == text);
        known.map(|(_, label)| label.clone()).ok_or_else(|| {
            let names: Vec<_> = FIXED.iter().map(|(name, _)| *name).collect();
            format!("unknown label `{text}`: expected some of {}, or label:KEY for a label of the pod, with commas between", names.join(", "))
        })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfPod { key, .. } => write!(f, "{OF_POD}{key}"),
            fixed => f.write_str(fixed.name()),
        }
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, label) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{label}")?;
        }
        Ok(())
    }
}

impl FromStr for LabelSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut labels: Vec<Label> = Vec::new();
        for word in text.split(',') {
            let label = Label::parse(word.trim())?;
            if let Some(other) = labels.iter().find(|other| other.name() == label.name()) {
                return Err(format!(
                    "`{other}` and `{label}` would both be the label `{}`: leave one out",
                    label.name()
                ));
            }
            labels.push(label);
        }
        Ok(Self(labels))
    }
}

/// Returns whether a text may be the key of a Kubernetes label: a name of at most 63 characters, optionally after a
/// prefix of at most 253 and a `/` (kubernetes.io, "Labels and Selectors").
fn is_label_key(key: &str) -> bool {
    let word = |text: &str, longest: usize, others: &str| {
        let inside = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= longest
            && text.chars().all(inside)
            && end(text.chars().next())
            && end(text.chars().last())
    };
    let (prefix, name) = key.split_once('/').unwrap_or(("a", key));
    word(prefix, 253, "-.") && word(name, 63, "-_.")
}

/// Returns a label's name as kube-state-metrics forms it: `label_app_kubernetes_io_name`.
fn pod_label_name(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("label_{}", key.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attribution::{
            attribute,
            pods::{Pod, PodTrees, Workload},
        },
        host::cgroup::CgroupPath,
    };

    const UID: &str = "8d0d32a5-8c5b-4b0c-9b0f-1f9a2b3c4d5e";

    fn rendered(labels: &str, subject: Subject<'_>) -> String {
        let set: LabelSet = labels.parse().expect("labels");
        assert_eq!(set.to_string(), labels);
        set.render(subject).as_str().to_owned()
    }

    #[test]
    fn a_container_has_its_pods_labels() {
        let pod = Pod {
            namespace: "shop".to_owned(),
            name: "cart-6d4b75cb6d-hqz2x".to_owned(),
            workload: Some(Workload {
                kind: "Deployment".to_owned(),
                name: "cart".to_owned(),
            }),
            labels: [("app.kubernetes.io/name".to_owned(), "cart".to_owned())].into(),
            resizable: None,
            containers: Vec::new(),
        };
        let path = CgroupPath::new(format!("/kubepods/burstable/pod{UID}").as_bytes());
        let identity = PodIdentity::parse(&path).expect("a pod");
        let subject = Subject::Named {
            identity: &identity,
            found: Found::Container(&pod, "server"),
            cgroup: "/kubepods/pod",
        };
        assert_eq!(
            rendered("namespace,pod,container,cgroup", subject),
            "namespace=\"shop\",pod=\"cart-6d4b75cb6d-hqz2x\",container=\"server\",cgroup=\"/kubepods/pod\""
        );
        assert_eq!(
            rendered(
                "workload,workload_type,qos_class,uid,label:app.kubernetes.io/name,label:tier",
                subject
            ),
            format!(
                "workload=\"cart\",workload_type=\"deployment\",qos_class=\"Burstable\",uid=\"{UID}\",label_app_kubernetes_io_name=\"cart\",label_tier=\"\""
            )
        );
    }

    #[test]
    fn a_sum_is_named_by_its_cgroup_or_else_by_the_first_label() {
        let sum = Subject::Sum("(other)");
        let cgroup = "namespace=\"\",cgroup=\"(other)\"";
        assert_eq!(rendered("namespace,cgroup", sum), cgroup);
        let first = "namespace=\"(other)\",workload=\"\"";
        assert_eq!(rendered("namespace,workload", sum), first);
        let owner = attribute(
            &CgroupPath::new(b"/system.slice/sshd.service"),
            2,
            &PodTrees::Found,
        );
        let plain = Subject::Cgroup(&owner);
        let empty = "namespace=\"\",workload=\"\"";
        assert_eq!(rendered("namespace,workload", plain), empty);
    }

    #[test]
    fn bad_labels_are_refused_by_name() {
        let refused = |text: &str| text.parse::<LabelSet>().expect_err("refused");
        for (text, named) in [
            ("", "unknown label ``"),
            ("namespace,,pod", "unknown label ``"),
            ("node", "unknown label `node`"),
            ("pod,pod", "`pod` and `pod`"),
            ("label:a.b,label:a-b", "label_a_b"),
            ("label:", "`` is no key"),
            ("label:a b", "`a b` is no key"),
            ("label:a/b/c", "`a/b/c` is no key"),
            ("label:-a", "`-a` is no key"),
        ] {
            assert!(refused(text).contains(named), "{}", refused(text));
        }
        assert!(refused(&format!("label:{}", "a".repeat(64))).contains("no key"));
    }

    #[test]
    fn the_default_is_the_exposition_s() {
        let names: Vec<String> = LabelSet::default()
            .0
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, OwnerLabels::NAMES);
        assert!(LabelSet::default().of_the_api().is_empty());
    }
}
