//! Generated paths, assembled from every part that kubelets, drivers and runtimes vary. Attribution must return the
//! parts.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use stallscope::attribution::pods::{PodIdentity, PodTrees, QosClass};
use stallscope::attribution::{Owner, OwnerKind, attribute};
use stallscope::host::cgroup::CgroupPath;

/// Cgroup driver that makes a pod's cgroup.
#[derive(Clone, Copy, Debug)]
enum Driver {
    Systemd,
    Cgroupfs,
    /// The kubelet uses systemd and the runtime cgroupfs: the runtime takes the slice's name for a plain one, below its
    /// own cgroup.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
enum Runtime {
    Containerd,
    Crio,
    /// CRI-O with crun, which adds a level below its own.
    CrioCrun,
    Docker,
}

/// Kind of the innermost part of a path.
#[derive(Clone, Copy, Debug)]
enum Leaf {
    Container,
    /// The pod itself, and the runtime's cgroup beside its containers.
    Pod,
    Conmon,
}

#[derive(Clone, Debug)]
struct Spec {
    driver: Driver,
    runtime: Runtime,
    leaf: Leaf,
    qos: QosClass,
    /// The kubelet's `cgroupRoot`, level by level.
    root: Vec<String>,
    uid: String,
    id: String,
    /// Cgroups that the container has made below its own.
    nested: Vec<String>,
}

impl Spec {
    /// Returns the cgroup of the owner, and the path of the cgroup that is counted.
    fn paths(&self) -> (String, String) {
        let pod = self.pod();
        let Spec { id, .. } = self;
        let prefix = match self.runtime {
            Runtime::Containerd => "cri-containerd",
            Runtime::Crio | Runtime::CrioCrun => "crio",
            Runtime::Docker => "docker",
        };
        let is_crio = matches!(self.runtime, Runtime::Crio | Runtime::CrioCrun);
        let (owning, inner) = match (self.leaf, self.driver) {
            (Leaf::Pod, _) => (pod, String::new()),
            (Leaf::Conmon, Driver::Systemd) => (pod, format!("/crio-conmon-{id}.scope")),
            (Leaf::Conmon, _) => (pod, format!("/crio-conmon-{id}")),
            (_, Driver::Mixed) => (format!("{pod}:{prefix}:{id}"), String::new()),
            (_, Driver::Systemd) => (format!("{pod}/{prefix}-{id}.scope"), String::new()),
            (_, Driver::Cgroupfs) if is_crio => (format!("{pod}/crio-{id}"), String::new()),
            (_, Driver::Cgroupfs) => (format!("{pod}/{id}"), String::new()),
        };
        let mut path = owning.clone() + &inner;
        if matches!(self.leaf, Leaf::Container) {
            if matches!(self.runtime, Runtime::CrioCrun) {
                path += "/container";
            }
            for name in &self.nested {
                path.extend(["/", name]);
            }
        }
        (owning, path)
    }

    /// Returns the trees in which attribution looks for the kubelet's pods.
    fn trees(&self) -> PodTrees {
        let root = match self.driver {
            Driver::Cgroupfs => format!("/{}", self.root.join("/")),
            Driver::Systemd | Driver::Mixed => return PodTrees::Found,
        };
        PodTrees::Given(vec![root.parse().expect("a root")])
    }

    /// Returns whether attribution finds the tree without configuration.
    fn is_found_by_itself(&self) -> bool {
        match self.driver {
            Driver::Systemd | Driver::Mixed => true,
            Driver::Cgroupfs => self.root.is_empty() || self.root == ["kubelet"],
        }
    }

    fn pod(&self) -> String {
        let uid = &self.uid;
        let level = match self.qos {
            QosClass::Guaranteed => None,
            QosClass::Burstable => Some("burstable"),
            QosClass::BestEffort => Some("besteffort"),
        };
        let levels = || {
            self.root
                .iter()
                .map(String::as_str)
                .chain(["kubepods"])
                .chain(level)
        };
        if matches!(self.driver, Driver::Cgroupfs) {
            let above: Vec<&str> = levels().collect();
            return format!("/{}/pod{uid}", above.join("/"));
        }
        let (mut name, mut above) = (String::new(), Vec::new());
        for level in levels() {
            name += if name.is_empty() { "" } else { "-" };
            name += level;
            above.push(format!("{name}.slice"));
        }
        let slice = format!("{name}-pod{}.slice", uid.replace('-', "_"));
        if matches!(self.driver, Driver::Mixed) {
            let service = match self.runtime {
                Runtime::Containerd => "containerd",
                Runtime::Crio | Runtime::CrioCrun => "crio",
                Runtime::Docker => "docker",
            };
            return format!("/system.slice/{service}.service/{slice}");
        }
        format!("/{}/{slice}", above.join("/"))
    }
}

fn hex64() -> impl Strategy<Value = String> {
    "[0-9a-f]{64}"
}

fn spec() -> impl Strategy<Value = Spec> {
    let uid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}";
    let root = vec(
        select(vec!["kubelet", "k8s", "node1", "pods", "besteffort"]),
        0..3,
    );
    let nested = prop_oneof![
        hex64(),
        hex64().prop_map(|id| format!("docker-{id}.scope")),
        select(vec![
            "docker",
            "init.scope",
            "system.slice",
            "cron.service",
            "my app",
            "kubepods",
            "pod",
            "podcast",
        ])
        .prop_map(str::to_owned),
    ];
    (
        select(vec![Driver::Systemd, Driver::Cgroupfs, Driver::Mixed]),
        select(vec![
            Runtime::Containerd,
            Runtime::Crio,
            Runtime::CrioCrun,
            Runtime::Docker,
        ]),
        select(vec![
            Leaf::Container,
            Leaf::Container,
            Leaf::Pod,
            Leaf::Conmon,
        ]),
        select(vec![
            QosClass::Guaranteed,
            QosClass::Burstable,
            QosClass::BestEffort,
        ]),
        root,
        uid,
        hex64(),
        vec(nested, 0..3),
    )
        .prop_map(|(driver, runtime, leaf, qos, root, uid, id, nested)| Spec {
            // The runtime makes a container's cgroup, and the kubelet makes the pod's.
            driver: match (driver, leaf) {
                (Driver::Mixed, Leaf::Pod | Leaf::Conmon) => Driver::Systemd,
                _ => driver,
            },
            runtime,
            leaf,
            qos,
            root: root.into_iter().map(str::to_owned).collect(),
            uid,
            id,
            nested,
        })
}

/// Generates a foreign cgroup to put in front of a path, and the number of its levels that root owns.
fn front() -> impl Strategy<Value = (String, usize)> {
    let all = |front: String| {
        let depth = front.matches('/').count();
        (front, depth)
    };
    prop_oneof![
        1 => hex64().prop_map(move |id| all(format!("/docker/{id}"))),
        1 => hex64().prop_map(move |id| all(format!("/system.slice/docker-{id}.scope"))),
        1 => hex64().prop_map(move |id| all(format!("/docker/{id}/k3s"))),
        1 => hex64().prop_map(move |id| all(format!("/machine.slice/libpod-{id}.scope/container"))),
        1 => Just(all("/lxc.payload.node-1".to_owned())),
        1 => Just((
            "/user.slice/user-1000.slice/user@1000.service/k3s-rootless.scope".to_owned(),
            3
        )),
        2 => spec().prop_filter("found by itself", Spec::is_found_by_itself).prop_map(
            move |outer| all(outer.paths().1)
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_put_in_comes_out(spec in spec()) {
        let (owning, text) = spec.paths();
        let path = CgroupPath::new(text.as_bytes());
        let owner = attribute(&path, usize::MAX, &spec.trees());
        let OwnerKind::Pod(identity) = &owner.kind else {
            return Err(TestCaseError::fail(format!("no pod in {path}")));
        };
        prop_assert_eq!(identity.uid.as_str(), &spec.uid, "{}", path);
        let id = matches!(spec.leaf, Leaf::Container).then_some(spec.id.as_str());
        prop_assert_eq!(identity.container_id.as_deref(), id, "{}", path);
        prop_assert_eq!(identity.qos, Some(spec.qos), "{}", path);
        prop_assert_eq!(&owner.cgroup, &owning);
        prop_assert_eq!(owner.group_key(), format!("pod:{}", spec.uid));
        let by_itself = attribute(&path, usize::MAX, &PodTrees::Found);
        let is_pod = matches!(by_itself.kind, OwnerKind::Pod(_));
        prop_assert_eq!(is_pod, spec.is_found_by_itself(), "{}", path);
        prop_assert_eq!(PodIdentity::parse(&path).is_some(), is_pod, "{}", path);
    }

    /// The node is itself a container, a unit or a pod of another cluster: the owner is that of the outer cgroup.
    #[test]
    fn pods_elsewhere_are_whose_they_are_in(spec in spec(), front in front()) {
        let (front, depth) = front;
        let (_, inner) = spec.paths();
        let path = CgroupPath::new(format!("{front}{inner}").as_bytes());
        let outer = attribute(&path, depth, &PodTrees::Found);
        let alone = attribute(&CgroupPath::new(front.as_bytes()), depth, &PodTrees::Found);
        let is_pod = |owner: &Owner| match &owner.kind {
            OwnerKind::Pod(identity) => Some(identity.uid.as_str().to_owned()),
            _ => None,
        };
        prop_assert_eq!(is_pod(&outer), is_pod(&alone), "{}", path);
        if matches!(alone.kind, OwnerKind::Container { .. } | OwnerKind::Pod(_)) {
            prop_assert_eq!(outer.group_key(), alone.group_key(), "{}", path);
        } else {
            prop_assert!(outer.group_key().starts_with(&front), "{}", path);
        }
    }

    #[test]
    fn the_levels_above_a_pod_are_nobodys_pod(spec in spec()) {
        let path = spec.pod();
        for (slash, _) in path.match_indices('/').skip(1) {
            let above = CgroupPath::new(&path.as_bytes()[..slash]);
            prop_assert!(PodIdentity::parse(&above).is_none(), "{}", above);
            let owner = attribute(&above, usize::MAX, &spec.trees());
            prop_assert!(!matches!(owner.kind, OwnerKind::Pod(_)), "{}", above);
        }
    }
}
