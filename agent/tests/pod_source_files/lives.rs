//! Lives of pods and containers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::node::{Named, Node};

#[test]
fn a_pod_is_named_before_its_containers_and_keeps_its_name_after_its_end() {
    let mut node = Node::new();
    node.poll();
    assert!(node.is_up);
    let cart = Named::new(1);
    node.make_pod(&cart);
    node.until("the pod", |node| node.name_of(&cart) == cart.short());
    assert_eq!(node.name_at(&cart.uid, None), cart.short());
    node.start(&cart);
    node.until("the container", |node| node.name_of(&cart) == cart.full());

    // The container crashes: a new one has the same name, while the old one's link still exists.
    let again = Named {
        id: format!("{:064x}", 77),
        ..cart.clone()
    };
    node.start(&again);
    node.until("the next container", |node| {
        node.name_of(&again) == cart.full()
    });
    assert_eq!(node.name_of(&cart), cart.full());
    assert_eq!(node.directory.running(), 1);

    // The pod is deleted: its links dangle until the kubelet's next clean-up, and must not bring it back.
    node.remove_pod(&cart);
    node.until("the end", |node| node.directory.running() == 0);
    node.remove_link(&cart);
    node.poll_often();
    assert_eq!(node.directory.running(), 0);
    assert_eq!(node.name_of(&again), cart.full());
    assert_eq!(node.troubles, []);
}

#[test]
fn a_static_pod_is_named_by_its_configuration_hash() {
    let mut node = Node::new();
    let etcd = Named {
        namespace: "kube-system".to_owned(),
        pod: "etcd-node-1.example.com".to_owned(),
        uid: "0123456789abcdef0123456789abcdef".to_owned(),
        container: "etcd".to_owned(),
        id: "e".repeat(64),
    };
    node.run(&etcd);
    node.poll();
    assert_eq!(node.name_of(&etcd), etcd.full());
}

#[test]
fn a_pod_made_again_under_its_name_is_another() {
    let mut node = Node::new();
    let (first, second) = (Named::new(1), Named::new(2));
    let second = Named {
        pod: first.pod.clone(),
        ..second
    };
    node.run(&first);
    node.poll();
    node.remove_pod(&first);
    node.run(&second);
    node.until("the second alone", |node| {
        node.name_of(&second) == second.full() && node.directory.running() == 1
    });
    assert_eq!(node.name_of(&first), first.full(), "ended, but known");
}

#[test]
fn a_links_name_cut_short_names_its_container_still() {
    let mut node = Node::new();
    let long = |container: &str, id: &str| Named {
        pod: "p".repeat(150),
        container: container.to_owned(),
        id: id.to_owned(),
        ..Named::new(1)
    };
    let (a, b) = (
        long(&"a".repeat(63), &"1a".repeat(32)),
        long(&"b".repeat(63), &"2b".repeat(32)),
    );
    assert!(a.link().len() == 255 && !a.link().contains(&a.id));
    node.make_pod(&a);
    node.start(&a);
    node.start(&b);
    node.poll();
    assert_eq!(node.name_of(&a), a.full());
    assert_eq!(node.name_of(&b), b.full());
    // No digit of an ID is left: only the pod is known.
    let digitless = Named {
        pod: "q".repeat(180),
        uid: Named::new(2).uid,
        ..a
    };
    node.run(&digitless);
    node.until("the pod", |node| {
        node.name_of(&digitless) == digitless.short()
    });
    assert_eq!(node.troubles, []);
}

#[test]
fn five_thousand_containers_at_once() {
    let mut node = Node::new();
    let all: Vec<Named> = (0..5000).map(Named::new).collect();
    for named in &all {
        node.run(named);
    }
    let start = Instant::now();
    node.poll();
    let took = start.elapsed();
    for named in &all {
        assert_eq!(node.name_of(named), named.full());
    }
    assert_eq!(node.files.pods(), 5000);
    println!("first poll of 5,000 pods: {took:?}");

    for named in &all[..2500] {
        node.remove_pod(named);
        node.remove_link(named);
    }
    node.until("half of them", |node| node.directory.running() == 2500);
    assert_eq!(node.name_of(&all[4999]), all[4999].full());
    assert_eq!(node.troubles, []);
}

#[test]
fn nothing_is_said_when_nothing_happens() {
    let mut node = Node::new();
    let all: Vec<Named> = (0..50).map(Named::new).collect();
    for named in &all {
        node.run(named);
    }
    node.poll();
    assert_eq!(node.changes, 1, "one list");
    // The loop lasts past the second reading.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        node.poll();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.changes, 1);

    let start = Instant::now();
    for _ in 0..1000 {
        node.poll();
    }
    println!("a poll at rest: {:?}", start.elapsed() / 1000);
    node.run(&Named::new(50));
    node.until("one more", |node| node.directory.running() == 51);
    // The directory and the link cause at most one message each.
    assert!(node.changes <= 3, "{} messages", node.changes);
}

#[test]
fn changes_that_follow_one_another_closely_are_seen() {
    let mut node = Node::new();
    let root = node.path("log/pods");
    node.poll();
    for number in 0..200 {
        fs::create_dir(root.join(Named::new(number).directory())).unwrap();
        node.poll();
    }
    node.until("all of them", |node| node.directory.running() == 200);
}

#[test]
fn logs_elsewhere_and_logs_behind_links() {
    let mut node = Node::new();
    let (near, far) = (Named::new(1), Named::new(2));
    // `podLogsDir` of the kubelet's configuration is elsewhere, and so is the target. Only the links are here.
    node.start(&far);
    node.poll();
    assert_eq!(node.name_of(&far), far.full());
    // The directory itself is a link, to a separate disk.
    fs::rename(node.path("log/pods"), node.path("disk")).unwrap();
    std::os::unix::fs::symlink(Path::new("../disk"), node.path("log/pods")).unwrap();
    node.run(&near);
    node.until("through the link", |node| {
        node.name_of(&near) == near.full()
    });
    node.remove_link(&far);
    node.until("the end of the last link", |node| {
        node.directory.running() == 1
    });
}
