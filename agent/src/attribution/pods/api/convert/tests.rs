use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const UID: &str = "8d0d32a5-8c5b-4b0c-9b0f-1e2d3c4b5a69";
const HASH: &str = "9b3d5c0f9f7a4f0a8f1a5f6c7d8e9f00";

fn pod() -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": "cart-0", "uid": UID, "resourceVersion": "7", "creationTimestamp": null,
            "labels": {"app": "cart", "pod-template-hash": "5d4f"}, "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {"nodeName": "node-1"},
    })
}

/// The pod with `path` set to `value`.
fn with(path: &str, value: Value) -> Value {
    let mut pod = pod();
    let mut at = &mut pod;
    for key in path.split(' ') {
        at = &mut at[key];
    }
    *at = value;
    pod
}

fn owned_by(group: &str, kind: &str, name: &str) -> Value {
    with(
        "metadata ownerReferences",
        json!([
            {"apiVersion": "v1", "kind": "Other", "name": "first"},
            {"apiVersion": group, "kind": kind, "name": name, "controller": true},
        ]),
    )
}

fn read_all(pod: &Value) -> Reading {
    read(&pod.to_string(), &["app".to_owned(), "team".to_owned()])
}

fn good(pod: &Value) -> (PodUid, Pod) {
    let reading = read_all(pod);
    assert!(reading.doubts.is_empty(), "{:?}", reading.doubts);
    reading.pod.expect("it is one")
}

/// The only doubt, and the pod.
fn doubtful(pod: &Value) -> (&'static str, String, Option<(PodUid, Pod)>) {
    let mut reading = read_all(pod);
    assert_eq!(reading.doubts.len(), 1, "{:?}", reading.doubts);
    let doubt = reading.doubts.remove(0);
    (doubt.reason, doubt.text, reading.pod)
}

#[test]
fn a_pod_has_its_names_and_the_labels_asked_for() {
    let (uid, read) = good(&pod());
    assert_eq!(uid.as_str(), UID);
    assert_eq!(read.to_string(), "shop/cart-0");
    assert_eq!(read.workload, None);
    assert_eq!(
        read.labels,
        BTreeMap::from([("app".to_owned(), "cart".to_owned())])
    );
    assert_eq!(read_all(&pod()).version.as_deref(), Some("7"));
}

#[test]
fn a_static_pod_is_known_by_its_configurations_hash() {
    let annotated = |source: &str, hash: &str| {
        with(
            "metadata annotations",
            json!({
                "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
                "kubernetes.io/config.source": source,
            }),
        )
    };
    assert_eq!(good(&annotated("file", HASH)).0.as_str(), HASH);
    assert_eq!(good(&annotated("http", HASH)).0.as_str(), HASH);
    assert_eq!(good(&annotated("api", HASH)).0.as_str(), UID);
    let not_mirrored = with(
        "metadata annotations",
        json!({"kubernetes.io/config.hash": HASH, "kubernetes.io/config.source": "file"}),
    );
    assert_eq!(good(&not_mirrored).0.as_str(), UID);
    let (reason, _, read) = doubtful(&annotated("file", "no hash"));
    assert_eq!((reason, read.expect("a pod").0.as_str()), ("bad_uid", UID));
}

#[test]
fn the_workload_is_what_a_person_made() {
    let workload = |group, kind, name| {
        let workload = good(&owned_by(group, kind, name)).1.workload.expect("one");
        format!("{} {}", workload.kind, workload.name)
    };
    assert_eq!(
        workload("apps/v1", "ReplicaSet", "cart-v2-5d4f"),
        "Deployment cart-v2"
    );
    // Another hash, nothing left, another group: not a Deployment's.
    assert_eq!(
        workload("apps/v1", "ReplicaSet", "cart-5d4e"),
        "ReplicaSet cart-5d4e"
    );
    assert_eq!(
        workload("apps/v1", "ReplicaSet", "cart5d4f"),
        "ReplicaSet cart5d4f"
    );
    assert_eq!(
        workload("apps/v1", "ReplicaSet", "-5d4f"),
        "ReplicaSet -5d4f"
    );
    assert_eq!(
        workload("x.io/v1", "ReplicaSet", "cart-5d4f"),
        "ReplicaSet cart-5d4f"
    );
    assert_eq!(
        workload("batch/v1", "Job", "nightly-29304960"),
        "CronJob nightly"
    );
    assert_eq!(
        workload("batch/v1", "Job", "nightly-1758297600"),
        "CronJob nightly"
    );
    assert_eq!(
        workload("batch/v1", "Job", "nightly-2930496"),
        "Job nightly-2930496"
    );
    assert_eq!(workload("batch/v1", "Job", "import"), "Job import");
    assert_eq!(
        workload("x.io/v1", "Job", "nightly-29304960"),
        "Job nightly-29304960"
    );
    assert_eq!(
        workload("apps/v1", "StatefulSet", "cart"),
        "StatefulSet cart"
    );
    assert_eq!(workload("v1", "Node", "node-1"), "Node node-1");
    let owner = json!([{"apiVersion": "v1", "kind": "Other", "name": "first"}]);
    assert_eq!(
        good(&with("metadata ownerReferences", owner)).1.workload,
        None
    );
}

#[test]
fn all_kinds_of_containers_have_names_the_dead_ones_too() {
    let id = |digit: &str| digit.repeat(64);
    let status = |name, digit: &str| json!({"name": name, "containerID": format!("containerd://{}", id(digit))});
    let restarted = json!({
        "name": "server", "containerID": format!("cri-o://{}", id("a")),
        "lastState": {"terminated": {"containerID": format!("cri-o://{}", id("b")), "exitCode": 137}},
    });
    let pod = with(
        "status",
        json!({
            "containerStatuses": [restarted, {"name": "waiting", "containerID": "", "state": {"waiting": {}}}],
            "initContainerStatuses": [status("init", "c")],
            "ephemeralContainerStatuses": [status("debugger", "d")],
        }),
    );
    let named = |name: &str, digit: &str| (id(digit), name.to_owned());
    assert_eq!(
        good(&pod).1.containers,
        [
            named("server", "b"),
            named("server", "a"),
            named("init", "c"),
            named("debugger", "d")
        ]
    );
}

#[test]
fn what_cannot_be_is_left_out_and_said() {
    let long = "x".repeat(10_000);
    for (path, value) in [
        ("metadata uid", json!("../../etc")),
        ("metadata uid", json!(UID.to_uppercase())),
        ("metadata uid", Value::Null),
        ("metadata uid", json!(&long)),
        ("metadata name", json!("")),
        ("metadata name", json!(&long)),
        ("metadata name", json!("a\nb")),
        ("metadata namespace", Value::Null),
        ("metadata", json!(3)),
        ("metadata labels", json!({"app": 3})),
    ] {
        let (_, text, read) = doubtful(&with(path, value));
        assert!(read.is_none() && text.contains("without a name"), "{text}");
        assert!(text.len() < 1500, "{} bytes", text.len());
    }
    let (reason, _, read) = doubtful(&with("metadata labels", json!({"app": &long, "team": ""})));
    let labels = read.expect("a pod").1.labels;
    assert_eq!(
        (reason, labels),
        (
            "bad_label",
            BTreeMap::from([("team".to_owned(), String::new())])
        )
    );
    for (name, id) in [
        ("server", "a".repeat(64)),
        ("server", "containerd://".to_owned()),
        (&long, format!("x://{}", "a".repeat(64))),
    ] {
        let good =
            json!({"name": "good", "containerID": format!("containerd://{}", "b".repeat(64))});
        let statuses = json!([{"name": name, "containerID": id}, good]);
        let (reason, _, read) = doubtful(&with("status", json!({"containerStatuses": statuses})));
        assert_eq!(reason, "bad_container");
        assert_eq!(
            read.expect("a pod").1.containers,
            [("b".repeat(64), "good".to_owned())]
        );
    }
}

#[test]
fn containers_are_bounded_in_number() {
    let statuses: Vec<Value> = (0..10_000)
        .map(|i| json!({"name": "server", "containerID": format!("containerd://{i:064x}")}))
        .collect();
    let (_, read) = good(&with("status", json!({"containerStatuses": statuses})));
    assert_eq!(read.containers.len(), MAX_CONTAINERS / 2);
}

/// Any JSON, of the API's shape or not.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "uid",
        "labels",
        "annotations",
        "ownerReferences",
        "status",
        "containerStatuses",
        "containerID",
        "lastState",
        "terminated",
        "kind",
        "controller",
        "app",
    ])
    .prop_map(str::to_owned)
}

#[test]
fn pods_can_be_resized_where_the_api_knows_of_it() {
    let resizable = |spec: Value| good(&with("spec", spec)).1.resizable;
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
    assert_eq!(resizable(Value::Null), None);
    assert_eq!(
        resizable(json!({"containers": [{"name": "a"}]})),
        Some(false)
    );
    let with_policy = json!({"containers": [{"name": "a", "resizePolicy": policy}]});
    assert_eq!(resizable(with_policy), Some(true));
}

proptest! {
    #[test]
    fn no_answer_panics_or_passes_a_bound(value in anything(), path in prop::sample::select(vec![
        "metadata", "metadata name", "metadata labels", "metadata annotations", "metadata ownerReferences", "status",
        "status containerStatuses", "status initContainerStatuses",
    ])) {
        let reading = read_all(&with(path, value));
        prop_assert!(reading.pod.is_some() || !reading.doubts.is_empty());
        if let Some((_, pod)) = reading.pod {
            prop_assert!(is_name(&pod.name, MAX_NAME) && is_name(&pod.namespace, MAX_SHORT_NAME));
            prop_assert!(pod.containers.len() <= MAX_CONTAINERS);
            prop_assert!(pod.containers.iter().all(|(id, _)| id.len() == ID_DIGITS));
        }
    }

    #[test]
    fn text_that_is_no_json_is_a_doubt(text in ".{0,200}") {
        let reading = read(&text, &[]);
        prop_assert!(reading.pod.is_some() || reading.doubts.len() == 1);
    }

    #[test]
    fn names_that_the_api_allows_come_through(
        namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        name in "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
        label in "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?",
        container in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        id in "[0-9a-f]{64}",
        uid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    ) {
        let pod = json!({
            "metadata": {"namespace": namespace, "name": name, "uid": uid, "labels": {"app": label}},
            "status": {"containerStatuses": [{"name": container, "containerID": format!("containerd://{id}")}]},
        });
        let (read_uid, read) = good(&pod);
        prop_assert_eq!(read_uid.as_str(), uid);
        prop_assert_eq!(read, Pod {
            namespace,
            name,
            workload: None,
            labels: BTreeMap::from([("app".to_owned(), label)]),
            resizable: None,
            containers: vec![(id, container)],
        });
    }
}
