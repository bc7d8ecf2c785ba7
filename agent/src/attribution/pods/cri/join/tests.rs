use super::super::messages::{ContainerMetadata, List};
use super::*;

const UID: &str = "3d2f0a9c-11b7-4e6c-8a55-0f9be1c2d3a4";
const HASH: &str = "0123456789abcdef0123456789abcdef";

fn sandbox(id: &str, namespace: &str, name: &str, uid: &str) -> Sandbox {
    Sandbox {
        id: id.to_owned(),
        metadata: Some(SandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
        }),
    }
}

fn container(number: u8, sandbox: &str, name: &str) -> Container {
    Container {
        id: format!("{number:064x}"),
        sandbox: sandbox.to_owned(),
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
        }),
        created: number.into(),
        labels: HashMap::new(),
    }
}

fn listed(sandboxes: Vec<Sandbox>, containers: Vec<Container>) -> Listed {
    Listed {
        sandboxes: List {
            items: sandboxes,
            beyond: 0,
        },
        containers: List {
            items: containers,
            beyond: 0,
        },
    }
}

/// Returns the pods of an answer with their containers' names, and the reasons of the doubts.
fn said(listed: Listed) -> (Vec<String>, Vec<&'static str>) {
    let mut join = Join::default();
    let pods = join.pods(listed);
    let shown = pods.iter().map(|(uid, pod)| {
        let names: Vec<&str> = pod
            .containers
            .iter()
            .map(|(_, name)| name.as_str())
            .collect();
        format!("{uid} {pod} {}", names.join(","))
    });
    let shown = shown.collect();
    let (feed, inbox) = crate::attribution::pods::feed::feed();
    join.doubts.say(&feed).expect("somebody listens");
    let reasons = inbox.drain().map(|message| match message {
        crate::attribution::pods::feed::Message::Trouble(trouble) => trouble.reason,
        other => panic!("{other:?}"),
    });
    (shown, reasons.collect())
}

#[test]
fn containers_go_to_the_pod_of_their_sandbox() {
    let answer = listed(
        vec![
            sandbox("s1", "shop", "cart-0", UID),
            sandbox("s1-before", "shop", "cart-0", UID),
            sandbox("s2", "kube-system", "etcd-n1", HASH),
        ],
        vec![
            container(3, "s1", "server"),
            container(2, "s2", "etcd"),
            container(1, "s1-before", "setup"),
        ],
    );
    let pods = [
        format!("{HASH} kube-system/etcd-n1 etcd"),
        format!("{UID} shop/cart-0 setup,server"),
    ];
    assert_eq!(said(answer), (pods.to_vec(), vec![]));
}

#[test]
fn only_news_are_said() {
    let answer = |name| listed(vec![sandbox("s1", "shop", name, UID)], vec![]);
    let mut join = Join::default();
    assert_eq!(join.news(answer("cart-0")).map(|pods| pods.len()), Some(1));
    assert_eq!(join.news(answer("cart-0")), None);
    assert_eq!(join.news(answer("cart-1")).map(|pods| pods.len()), Some(1));
    assert_eq!(join.news(listed(vec![], vec![])), Some(vec![]));
    let mut join = Join::default();
    assert_eq!(join.news(listed(vec![], vec![])), Some(vec![]), "the first");
}

#[test]
fn labels_stand_in_for_what_is_missing() {
    let mut lone = container(1, "gone", "");
    lone.metadata = None;
    for (key, value) in [
        ("io.kubernetes.pod.name", "cart-0"),
        ("io.kubernetes.pod.namespace", "shop"),
        ("io.kubernetes.pod.uid", UID),
        ("io.kubernetes.container.name", "server"),
    ] {
        lone.labels.insert(key.to_owned(), value.to_owned());
    }
    let pods = vec![format!("{UID} shop/cart-0 server")];
    assert_eq!(said(listed(vec![], vec![lone])), (pods, vec![]));
}

#[test]
fn what_no_kubelet_made_is_left_out_and_said() {
    let long = "x".repeat(254);
    let answer = listed(
        vec![
            sandbox("good", "shop", "cart-0", UID),
            sandbox("a", "default", "nginx", "hdishd83djaidwnduwk28bcsb"),
            sandbox("b", "", "nginx", HASH),
            sandbox("c", "shop", &long, HASH),
            Sandbox {
                id: "d".to_owned(),
                metadata: None,
            },
        ],
        vec![
            container(1, "a", "of a"),
            container(2, "nowhere", "of none"),
            container(3, "good", &long),
            container(4, "good", ""),
            Container {
                id: "short".to_owned(),
                ..container(5, "good", "server")
            },
        ],
    );
    let pods = vec![format!("{UID} shop/cart-0 ")];
    assert_eq!(said(answer), (pods, vec!["name"]));
}

#[test]
fn the_first_keeps_a_uid_that_two_pods_claim() {
    let answer = listed(
        vec![
            sandbox("s1", "shop", "cart-0", UID),
            sandbox("s2", "shop", "liar", UID),
        ],
        vec![container(1, "s1", "server"), container(2, "s2", "liar")],
    );
    let pods = vec![format!("{UID} shop/cart-0 server")];
    assert_eq!(said(answer), (pods, vec!["conflict"]));
}

#[test]
fn lists_that_were_cut_are_said() {
    let mut answer = listed(vec![sandbox("s1", "shop", "cart-0", UID)], vec![]);
    answer.containers.beyond = 1;
    assert_eq!(said(answer).1, ["many"]);
}
