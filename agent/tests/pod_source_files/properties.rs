//! Properties for any names and any order of events.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::node::{Named, Node};

/// Generates legal names that fit into a file name, without which a pod gets no log directory at all.
fn named() -> impl Strategy<Value = Named> {
    let namespace = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    let pod = prop_oneof![
        "[a-z0-9]([-a-z0-9.]{0,30}[a-z0-9])?",
        "[a-z0-9][-a-z0-9.]{100,151}[a-z0-9]",
    ];
    let container = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    let uid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}";
    (namespace, pod, container, uid, "[0-9a-f]{64}").prop_map(
        |(namespace, pod, container, uid, id)| Named {
            namespace,
            pod,
            uid,
            container,
            id,
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Pod(usize),
    Start(usize),
    RemovePod(usize),
    RemoveLink(usize),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = || 0..6_usize;
    prop_oneof![
        3 => pod().prop_map(Step::Pod),
        3 => pod().prop_map(Step::Start),
        2 => pod().prop_map(Step::RemovePod),
        2 => pod().prop_map(Step::RemoveLink),
        2 => Just(Step::Poll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_legal_names_come_out_as_they_went_in(pods in prop::collection::vec(named(), 1..20)) {
        let mut node = Node::new();
        let by_uid: BTreeMap<&str, &Named> = pods.iter().map(|named| (named.uid.as_str(), named)).collect();
        for named in by_uid.values() {
            node.run(named);
        }
        node.poll();
        prop_assert_eq!(&node.troubles, &[]);
        for named in by_uid.values() {
            let digits = named.link().len().saturating_sub(
                named.pod.len() + named.namespace.len() + named.container.len() + 3 + ".log".len(),
            );
            // Fewer than eight digits do not identify a container.
            let expected = if digits >= 8 { named.full() } else { named.short() };
            prop_assert_eq!(node.name_of(named), expected);
        }
    }

    #[test]
    fn any_order_of_events_ends_as_the_directories_are(steps in prop::collection::vec(step(), 0..60)) {
        let mut node = Node::new();
        node.poll();
        for step in steps {
            // Impossible steps, such as removing a missing file, do nothing.
            match step {
                Step::Pod(pod) => {
                    drop(fs::create_dir(node.path("log/pods").join(Named::new(pod).directory())));
                }
                Step::Start(pod) => {
                    let link = node.path("log/containers").join(Named::new(pod).link());
                    if fs::symlink_metadata(link).is_err() {
                        node.start(&Named::new(pod));
                    }
                }
                Step::RemovePod(pod) => {
                    drop(fs::remove_dir(node.path("log/pods").join(Named::new(pod).directory())));
                }
                Step::RemoveLink(pod) => {
                    drop(fs::remove_file(node.path("log/containers").join(Named::new(pod).link())));
                }
                Step::Poll => node.poll(),
            }
        }
        // A pod with a directory runs, and one with a link too has its full name.
        for pod in 0..6 {
            drop(fs::create_dir(node.path("log/pods").join(Named::new(pod).directory())));
        }
        node.poll_often();
        node.until("all run", |node| node.directory.running() == 6);
        for pod in (0..6).map(Named::new) {
            if fs::symlink_metadata(node.path("log/containers").join(pod.link())).is_ok() {
                node.until("its container", |node| node.name_of(&pod) == pod.full());
            }
            node.remove_pod(&pod);
        }
        node.until("all ended", |node| node.directory.running() == 0);
        prop_assert_eq!(&node.troubles, &[]);
    }

    #[test]
    fn any_names_are_survived(names in prop::collection::vec("[a-z0-9_.\u{1}-\u{ff}-]{1,80}", 0..40)) {
        let mut node = Node::new();
        let good = Named::new(1);
        node.run(&good);
        for name in names {
            let name = name.replace('/', "x");
            drop(fs::create_dir(node.path("log/pods").join(&name)));
            drop(std::os::unix::fs::symlink(&name, node.path("log/containers").join(&name)));
        }
        node.poll();
        prop_assert_eq!(node.name_of(&good), good.full());
        prop_assert_eq!(node.directory.running(), 1);
        prop_assert!(node.troubles.iter().all(|(_, text, _)| !text.contains(char::is_control)));
    }
}
