//! Paths put together from every part that kubelets, drivers and runtimes vary: what was put in comes out.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use stallscope::attribution::{OwnerKind, attribute};
use stallscope::cgroup::CgroupPath;
use stallscope::pods::{PodIdentity, QosClass};

/// How a kubelet makes a pod's cgroup.
#[derive(Clone, Copy, Debug)]
enum Driver {
    Systemd,
    Cgroupfs,
    /// The kubelet's is systemd and the runtime's cgroupfs: the slice's name is taken for a plain one, below the
    /// runtime's own cgroup.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
enum Runtime {
    Containerd,
    Crio,
    /// CRI-O with crun, which puts a level below its own.
    CrioCrun,
    Docker,
}

/// What the innermost part of a path is.
#[derive(Clone, Copy, Debug)]
enum Leaf {
    Container,
    /// The pod itself, and what of the runtime is beside its containers.
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
    /// Cgroups that the container has made in its own.
    nested: Vec<String>,
}

impl Spec {
    /// The cgroup that owns what is counted, and the path of the cgroup where it is counted.
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
            driver,
            runtime,
            leaf,
            qos,
            root: root.into_iter().map(str::to_owned).collect(),
            uid,
            id,
            nested,
        })
}

/// What a node's own cgroup is in front, where the node is itself a container, a unit or a pod of another cluster.
fn front() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => hex64().prop_map(|id| format!("/docker/{id}")),
        1 => hex64().prop_map(|id| format!("/system.slice/docker-{id}.scope")),
        1 => hex64().prop_map(|id| format!("/docker/{id}/k3s")),
        1 => hex64().prop_map(|id| format!("/machine.slice/libpod-{id}.scope/container")),
        1 => Just("/lxc.payload.node-1".to_owned()),
        1 => Just("/user.slice/user-1000.slice/user@1000.service/k3s-rootless.scope".to_owned()),
        2 => spec().prop_map(|outer| outer.paths().1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_put_in_comes_out(spec in spec(), front in front()) {
        let (owning, path) = spec.paths();
        let path = CgroupPath::new(format!("{front}{path}").as_bytes());
        let identity = PodIdentity::parse(&path)
            .ok_or_else(|| TestCaseError::fail(format!("no pod in {path}")))?;
        prop_assert_eq!(identity.uid.as_str(), &spec.uid, "{}", path);
        let id = matches!(spec.leaf, Leaf::Container).then_some(spec.id.as_str());
        prop_assert_eq!(identity.container_id.as_deref(), id, "{}", path);
        prop_assert_eq!(identity.qos, Some(spec.qos), "{}", path);
        let owner = attribute(&path);
        prop_assert_eq!(&owner.kind, &OwnerKind::Pod(identity));
        prop_assert_eq!(&owner.cgroup, &format!("{front}{owning}"));
        prop_assert_eq!(owner.group_key(), format!("pod:{}", spec.uid));
    }

    #[test]
    fn the_levels_above_a_pod_are_nobodys_pod(spec in spec(), front in front()) {
        prop_assume!(!front.contains("pod"));
        let path = format!("{front}{}", spec.pod());
        for (slash, _) in path.match_indices('/').skip(1) {
            let above = CgroupPath::new(&path.as_bytes()[..slash]);
            prop_assert!(PodIdentity::parse(&above).is_none(), "{}", above);
            let is_pod = matches!(attribute(&above).kind, OwnerKind::Pod(_));
            prop_assert!(!is_pod, "{}", above);
        }
    }
}
