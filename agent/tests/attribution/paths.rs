//! Known paths of runtimes and the kubelet.

use proptest::prelude::*;
use stallscope::attribution::pods::{PodIdentity, PodTrees, QosClass, TreeRoot};
use stallscope::attribution::{self, Owner, OwnerKind, Rank, Runtime};
use stallscope::host::cgroup::CgroupPath;

pub const UID: &str = "3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4";
pub const ID: &str = "8f1c2d3e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const OTHER_ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn path(text: &str) -> CgroupPath {
    CgroupPath::new(text.as_bytes())
}

/// Returns the owner of a cgroup that only root could make.
pub fn attribute(path: &CgroupPath) -> Owner {
    attribution::attribute(path, usize::MAX, &PodTrees::Found)
}

/// Returns the owner of a cgroup whose first `trusted` names are root's.
fn owner(text: &str, trusted: usize, trees: &PodTrees) -> Owner {
    attribution::attribute(&path(text), trusted, trees)
}

fn given(root: &str) -> PodTrees {
    PodTrees::Given(vec![root.parse().expect("a root")])
}

/// Returns the UID and the container of the pod that owns a cgroup.
fn pod_of(owner: &Owner) -> Option<(&str, Option<&str>)> {
    match &owner.kind {
        OwnerKind::Pod(pod) => Some((pod.uid.as_str(), pod.container_id.as_deref())),
        _ => None,
    }
}

fn kind(text: &str) -> OwnerKind {
    attribute(&path(text)).kind
}

/// Returns every form of path with a container of a pod in it. The part in front of `|` leads to the cgroup that owns
/// the rest.
fn pod_paths(uid: &str, id: &str, front: &str) -> Vec<(String, Option<QosClass>)> {
    let uid_ = uid.replace('-', "_");
    let mut paths = Vec::new();
    for (level, qos) in [
        ("", QosClass::Guaranteed),
        ("burstable", QosClass::Burstable),
        ("besteffort", QosClass::BestEffort),
    ] {
        let dash = if level.is_empty() {
            String::new()
        } else {
            format!("-{level}")
        };
        let slash = if level.is_empty() {
            String::new()
        } else {
            format!("/{level}")
        };
        let systemd = |root: &str| {
            let slice = if level.is_empty() {
                String::new()
            } else {
                format!("/{root}kubepods{dash}.slice")
            };
            format!("/{root}kubepods.slice{slice}/{root}kubepods{dash}-pod{uid_}.slice")
        };
        let plain = systemd("");
        let kind = format!("/kubelet.slice{}", systemd("kubelet-"));
        let cgroupfs = format!("/kubepods{slash}/pod{uid}");
        let misconfigured =
            format!("/system.slice/containerd.service/kubepods{dash}-pod{uid_}.slice");
        for text in [
            format!("{plain}/cri-containerd-{id}.scope|"),
            format!("{plain}/crio-{id}.scope|"),
            format!("{plain}/crio-{id}.scope|/container"),
            format!("{plain}/docker-{id}.scope|"),
            format!("{plain}/cri-containerd-{id}.scope|/system.slice/cron.service"),
            format!("{plain}/cri-containerd-{id}.scope|/docker/{OTHER_ID}"),
            format!("{cgroupfs}/{id}|"),
            format!("{cgroupfs}/{id}|/nested/{OTHER_ID}"),
            format!("{cgroupfs}/crio-{id}|"),
            format!("{misconfigured}:cri-containerd:{id}|"),
            format!("{kind}/cri-containerd-{id}.scope|"),
            format!("/kubelet{cgroupfs}/{id}|"),
        ] {
            paths.push((format!("{front}{text}"), Some(qos)));
        }
    }
    paths
}

fn check_pod(text: &str, uid: &str, container: Option<&str>, qos: Option<QosClass>) {
    let (owning, nested) = text.split_once('|').expect("a marked path");
    let path = path(&format!("{owning}{nested}"));
    let identity = PodIdentity::parse(&path).unwrap_or_else(|| panic!("no pod in {path}"));
    assert_eq!(identity.uid.as_str(), uid, "{path}");
    assert_eq!(identity.container_id.as_deref(), container, "{path}");
    assert_eq!(identity.qos, qos, "{path}");
    let owner = attribute(&path);
    assert_eq!(owner.kind, OwnerKind::Pod(identity));
    assert_eq!(owner.cgroup, owning);
    assert_eq!(owner.group_key(), format!("pod:{uid}"));
    assert!(!owner.is_host());
}

#[test]
fn containers_of_pods() {
    for (text, qos) in pod_paths(UID, ID, "") {
        check_pod(&text, UID, Some(ID), qos);
    }
}

/// Cgroups of nodes that are themselves containers: they come in front of the kubelet's tree.
const NODES: [&str; 3] = [
    "/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope",
    "/lxc.payload.node-1",
];

#[test]
fn pods_of_a_cluster_in_a_container_belong_to_the_container_unless_asked_for() {
    for front in NODES {
        for (text, _) in pod_paths(UID, ID, front) {
            let text = text.replace('|', "");
            let outer = owner(&text, usize::MAX, &PodTrees::Found);
            assert!(matches!(outer.kind, OwnerKind::Container { .. }), "{text}");
            assert_eq!((outer.cgroup.as_str(), outer.rank), (front, Rank::Host));
            let inner = owner(&text, usize::MAX, &PodTrees::Nested);
            assert_eq!(pod_of(&inner), Some((UID, Some(ID))), "{text}");
            assert_eq!(inner.rank, Rank::Other, "root in the container made it");
        }
    }
    // These are the same paths as seen from inside the node, whose cgroup is the root there: kind's and the plain
    // forms.
    for tree in [
        "/kubelet.slice/kubelet-kubepods.slice",
        "/kubelet/kubepods",
        "/kubepods",
    ] {
        let text = format!("{tree}/pod{UID}/{ID}");
        assert_eq!(
            pod_of(&attribute(&path(&text))),
            Some((UID, Some(ID))),
            "{text}"
        );
    }
}

#[test]
fn a_delegated_cgroup_makes_no_pod_whatever_is_below_it() {
    for (text, _) in pod_paths(UID, ID, "") {
        let text = text.replace('|', "");
        for front in [
            "/user.slice/user-1000.slice/user@1000.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope",
            "/batch",
            "/kubepods-of-mine",
            "/system.slice/worker.service",
        ] {
            // The last level of the front belongs to the user, who made everything below it.
            let depth = front.matches('/').count();
            let claimed = format!("{front}{text}");
            for trees in [PodTrees::Found, PodTrees::Nested, given("/kubelet")] {
                let found = owner(&claimed, depth, &trees);
                assert_eq!(pod_of(&found), None, "{claimed}");
                assert!(found.cgroup.starts_with(front), "{claimed}");
                assert!(found.group_key().starts_with(front), "{claimed}");
                assert_eq!(found.rank, Rank::Delegated, "{claimed}");
            }
        }
        // This is the kubelet's own path, with each level down to the pod's owned by somebody else.
        let path = path(&text);
        let mut levels = path.components();
        let pod = levels.position(|name| name.windows(8).any(|part| part == b"3d2f0a9c"));
        let pod = pod.expect("a pod's level");
        assert_eq!(pod_of(&owner(&text, pod, &PodTrees::Found)), None, "{text}");
        assert!(
            pod_of(&owner(&text, pod + 1, &PodTrees::Found)).is_some(),
            "{text}"
        );
    }
}

#[test]
fn a_root_that_is_given_is_taken_and_no_other() {
    let inside = format!("/docker/{OTHER_ID}");
    for (root, text) in [
        (
            "/tenants/a",
            format!("/tenants/a/kubepods/burstable/pod{UID}/{ID}"),
        ),
        (
            "/tenants/a/kubepods",
            format!("/tenants/a/kubepods/burstable/pod{UID}/{ID}"),
        ),
        ("/tenants/a/", format!("/tenants/a/kubepods/pod{UID}/{ID}")),
        (
            &inside,
            format!("{inside}/kubepods/besteffort/pod{UID}/{ID}"),
        ),
        ("/", format!("/kubepods/pod{UID}/{ID}")),
        (
            "/x.slice",
            format!("/x.slice/x-kubepods.slice/x-kubepods-pod{UID}.slice/crio-{ID}.scope"),
        ),
    ] {
        // The administrator who gave this root knows its owner.
        assert_eq!(
            pod_of(&owner(&text, 1, &given(root))),
            Some((UID, Some(ID))),
            "{text}"
        );
        assert_eq!(owner(&text, 1, &given(root)).rank, Rank::Pod);
        assert_eq!(
            pod_of(&owner(&text, 99, &given("/elsewhere"))),
            None,
            "{text}"
        );
    }
    let text = format!("/tenants/ab/kubepods/pod{UID}/{ID}");
    assert_eq!(pod_of(&owner(&text, 99, &given("/tenants/a"))), None);
    let text = format!("/tenants/a/other/pod{UID}/{ID}");
    assert_eq!(pod_of(&owner(&text, 99, &given("/tenants/a"))), None);
    for bad in [
        "",
        "kubelet",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/kubelet.slice",
        "/a/../b",
    ] {
        let error = bad.parse::<TreeRoot>().expect_err("refused");
        assert!(error.contains("such as /kubelet.slice"), "{error}");
    }
    assert!("/sys/fs/cgroups".parse::<TreeRoot>().is_ok());
}

#[test]
fn static_pods_are_known_by_their_configuration() {
    let hash = "0123456789abcdef0123456789abcdef";
    for (text, qos) in pod_paths(hash, ID, "") {
        check_pod(&text, hash, Some(ID), qos);
        let identity = PodIdentity::parse(&path(&text.replace('|', ""))).unwrap();
        assert!(identity.uid.is_config_hash());
    }
    assert!(
        !PodIdentity::parse(&path(&format!("/kubepods/pod{UID}")))
            .unwrap()
            .uid
            .is_config_hash()
    );
}

#[test]
fn pods_without_a_container() {
    let uid_ = UID.replace('-', "_");
    let slice =
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice");
    check_pod(&format!("{slice}|"), UID, None, Some(QosClass::Burstable));
    check_pod(
        &format!("{slice}|/crio-conmon-{ID}.scope"),
        UID,
        None,
        Some(QosClass::Burstable),
    );
    // Kata has one cgroup for a whole sandbox: a virtual machine has no cgroup for each container here.
    check_pod(
        &format!("/kubepods/burstable/pod{UID}|/kata_{ID}"),
        UID,
        None,
        Some(QosClass::Burstable),
    );
    check_pod(
        &format!("/kubepods/besteffort/pod{UID}|"),
        UID,
        None,
        Some(QosClass::BestEffort),
    );
    check_pod(
        &format!("/kubepods/pod{UID}|/init"),
        UID,
        None,
        Some(QosClass::Guaranteed),
    );
}

#[test]
fn what_a_pod_makes_in_its_own_cgroup_belongs_to_it() {
    let outer = "11111111-2222-3333-4444-555555555555";
    let text =
        format!("/kubepods/burstable/pod{outer}/{OTHER_ID}|/kubepods/besteffort/pod{UID}/{ID}");
    check_pod(&text, outer, Some(OTHER_ID), Some(QosClass::Burstable));
    let beside = format!("/kubepods/burstable/pod{outer}|/pod{UID}/no-container");
    check_pod(&beside, outer, None, Some(QosClass::Burstable));
    let inner = owner(&text.replace('|', ""), usize::MAX, &PodTrees::Nested);
    assert_eq!(pod_of(&inner), Some((UID, Some(ID))));
    // A container that the user of a delegated cgroup has made up has no cluster in it.
    let made_up = format!("/user.slice/{OTHER_ID}/kubepods/pod{UID}/{ID}");
    assert_eq!(pod_of(&owner(&made_up, 1, &PodTrees::Nested)), None);
}

#[test]
fn what_only_looks_like_a_pod() {
    for text in [
        "/kubepods.slice",
        "/kubepods/burstable",
        "/kubelet.slice/kubelet-kubepods.slice",
        "/kubepods/podcast",
        "/kubepods/pod3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a",
        "/kubepods/pod3d2f0a9c-11b7_4e6c-8a55-0f9be1c2d3a4",
        "/kubepods/pod3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4x",
        "/kubepods/tripod3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4",
        "/kubepods/pod0123456789abcdef0123456789abcdef0",
        "/my app",
        "/machine.slice",
        "/elsewhere/pod3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4",
        "/tenants/kubepods/pod3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4",
    ] {
        let owner = attribute(&path(text));
        assert_eq!(
            (owner.kind, owner.cgroup.as_str()),
            (OwnerKind::Other, text)
        );
    }
}

#[test]
fn containers_outside_pods() {
    let user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
    for (text, runtime) in [
        (format!("/docker/{ID}|"), Runtime::Docker),
        (format!("/docker/{ID}|/docker/{OTHER_ID}"), Runtime::Docker),
        (
            format!("/docker/{ID}|/kubelet.slice/kubelet.service"),
            Runtime::Docker,
        ),
        (format!("/system.slice/docker-{ID}.scope|"), Runtime::Docker),
        (
            format!("/system.slice/docker-{ID}.scope|/init.scope"),
            Runtime::Docker,
        ),
        (
            format!("/machine.slice/libpod-{ID}.scope|/container"),
            Runtime::Podman,
        ),
        (format!("{user}/libpod-{ID}.scope|"), Runtime::Podman),
        (
            format!("/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope|"),
            Runtime::Podman,
        ),
        (format!("/libpod_parent/libpod-{ID}|"), Runtime::Podman),
        (
            format!("/system.slice/nerdctl-{ID}.scope|"),
            Runtime::Containerd,
        ),
        (
            format!("/system.slice/containerd.service/system.slice:cri-containerd:{ID}|"),
            Runtime::Containerd,
        ),
        (format!("/crio-{ID}|"), Runtime::Crio),
        (format!("/default/{ID}|"), Runtime::Unknown),
        (format!("/{ID}|"), Runtime::Unknown),
        (format!("/my-prefix-{ID}.scope|"), Runtime::Unknown),
    ] {
        let (owning, nested) = text.split_once('|').unwrap();
        let owner = attribute(&path(&format!("{owning}{nested}")));
        assert_eq!(
            owner.kind,
            OwnerKind::Container {
                id: ID.into(),
                runtime
            },
            "{text}"
        );
        assert_eq!((owner.cgroup.as_str(), owner.group_key()), (owning, owning));
        assert_eq!(owner.short_name(), "8f1c2d3e4b5a");
        assert!(!owner.is_host());
    }
    for text in [
        "/lxc.payload.web-1",
        "/lxc.payload.web-1/system.slice/ssh.service",
        "/lxc/web-1/ns",
        "/lxc.payload/web-1",
    ] {
        assert_eq!(
            kind(text),
            OwnerKind::Container {
                id: "web-1".into(),
                runtime: Runtime::Lxc
            },
            "{text}"
        );
    }
}

#[test]
fn the_host_itself() {
    for (text, owning, short) in [
        (
            "/system.slice/nginx.service",
            "/system.slice/nginx.service",
            "nginx.service",
        ),
        (
            "/system.slice/nginx.service/worker 1",
            "/system.slice/nginx.service",
            "nginx.service",
        ),
        ("/system.slice", "/system.slice", "system.slice"),
        ("/init.scope", "/init.scope", "init.scope"),
        (
            "/user.slice/user-0.slice/session-3.scope",
            "/user.slice/user-0.slice/session-3.scope",
            "session-3.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service/x",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
            "a.service",
        ),
        (
            r"/system.slice/system-getty.slice/serial-getty@ttyS0\x2d1.service",
            r"/system.slice/system-getty.slice/serial-getty@ttyS0\x2d1.service",
            r"serial-getty@ttyS0\x2d1.service",
        ),
        (
            "/runtime.slice/containerd.service",
            "/runtime.slice/containerd.service",
            "containerd.service",
        ),
        (
            "/podruntime.slice/kubelet.service",
            "/podruntime.slice/kubelet.service",
            "kubelet.service",
        ),
        (
            "/kubelet.slice/kubelet.service",
            "/kubelet.slice/kubelet.service",
            "kubelet.service",
        ),
        ("/podruntime/kubelet", "/podruntime/kubelet", "kubelet"),
        (
            "/batch.slice/night.service",
            "/batch.slice/night.service",
            "night.service",
        ),
    ] {
        let owner = attribute(&path(text));
        assert_eq!(owner.kind, OwnerKind::HostService, "{text}");
        assert_eq!(
            (owner.cgroup.as_str(), owner.group_key(), owner.short_name()),
            (owning, owning, short)
        );
        assert!(owner.is_host());
    }
    let root = attribute(&CgroupPath::root());
    assert_eq!(
        (root.kind.clone(), root.short_name(), root.is_host()),
        (OwnerKind::Root, "/", true)
    );
    assert_eq!(
        kind(&format!("/machine.slice/libpod-conmon-{ID}.scope")),
        OwnerKind::HostService
    );
    assert_eq!(kind("/lxc.monitor.web-1"), OwnerKind::HostService);
}

#[test]
fn a_pods_containers_are_one_group() {
    let a = attribute(&path(&format!("/kubepods/pod{UID}/{ID}")));
    let b = attribute(&path(&format!("/kubepods/pod{UID}/{OTHER_ID}")));
    let pod = attribute(&path(&format!("/kubepods/pod{UID}")));
    assert_ne!(a, b);
    assert_eq!(a.group_key(), b.group_key());
    assert_eq!(a.group_key(), pod.group_key());
    assert_eq!((a.short_name(), pod.short_name()), ("8f1c2d3e4b5a", UID));
}

proptest! {
    #[test]
    fn every_form_with_any_ids(
        uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}",
        id in "[0-9a-f]{64}",
    ) {
        for (text, qos) in pod_paths(&uid, &id, "") {
            check_pod(&text, &uid, Some(&id), qos);
        }
    }
}
