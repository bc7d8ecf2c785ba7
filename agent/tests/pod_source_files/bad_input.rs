//! Unexpected content of the kubelet's directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::node::{Named, Node};

/// Makes a node with one good pod, which must keep its name whatever `spoil` does. Returns the node with its reported
/// reasons.
fn spoiled(spoil: impl Fn(&Node)) -> Node {
    let mut node = Node::new();
    let good = Named::new(1);
    spoil(&node);
    node.run(&good);
    node.poll_often();
    assert_eq!(node.name_of(&good), good.full());
    assert!(node.is_up);
    assert!(node.troubles.iter().all(|(.., down)| !down));
    node
}

#[test]
fn what_is_no_pods_directory_is_left_out_and_said_once() {
    let node = spoiled(|node| {
        let pods = node.path("log/pods");
        fs::create_dir(pods.join("lost+found")).unwrap();
        fs::create_dir(pods.join(OsStr::from_bytes(b"shop_\xff_x"))).unwrap();
        fs::create_dir(pods.join("a\nb\u{202e}")).unwrap();
        fs::write(pods.join(Named::new(2).directory()), "").unwrap();
        symlink("/nonexistent", pods.join(Named::new(3).directory())).unwrap();
        symlink(
            Named::new(4).directory(),
            pods.join(Named::new(4).directory()),
        )
        .unwrap();
        symlink(".", pods.join(Named::new(5).directory())).unwrap();
    });
    assert_eq!(node.reasons(), ["name"]);
    assert!(node.troubles[0].1.contains("(6 more like it)"));
    assert!(!node.troubles[0].1.contains(char::is_control));
    assert_eq!(node.directory.running(), 1);
}

#[test]
fn what_is_no_containers_link_is_left_out_and_said_once() {
    let mut node = spoiled(|node| {
        let containers = node.path("log/containers");
        fs::write(containers.join(Named::new(2).link()), "a log").unwrap();
        fs::create_dir(containers.join(Named::new(3).link())).unwrap();
        let circle = Named::new(4).link();
        symlink(&circle, containers.join(&circle)).unwrap();
        symlink(
            "/var/lib/docker/x.log",
            containers.join(Named::new(5).link()),
        )
        .unwrap();
        symlink(
            OsStr::from_bytes(b"/\xff/c/0.log"),
            containers.join("raw.log"),
        )
        .unwrap();
        let deep = "x/".repeat(2000) + "0.log";
        symlink(deep, containers.join("deep.log")).unwrap();
    });
    assert_eq!(node.reasons(), ["link"]);
    assert!(node.troubles[0].1.contains("(5 more like it)"));
    assert_eq!(node.directory.running(), 1);

    // The source reports one more, because the name is not that of a link.
    let target = format!(
        "/var/log/pods/{}/web-server/0.log",
        Named::new(6).directory()
    );
    let name = OsStr::from_bytes(b"cart\xff_shop_web-server.log");
    symlink(target, node.path("log/containers").join(name)).unwrap();
    node.until("one more", |node| node.troubles.len() == 2);
    assert_eq!(node.reasons(), ["link", "name"]);
}

#[test]
fn a_link_that_says_other_than_its_target_is_left_out() {
    let liar = Named::new(2);
    let node = spoiled(|node| {
        let target = format!(
            "/var/log/pods/{}/web-server/0.log",
            Named::new(3).directory()
        );
        symlink(target, node.path("log/containers").join(liar.link())).unwrap();
    });
    assert_eq!(node.reasons(), ["name"]);
    assert_eq!(node.name_of(&liar), "");
    assert_eq!(node.directory.running(), 1);
}

#[test]
fn the_first_keeps_an_id_that_two_containers_claim() {
    let mut node = spoiled(|_| {});
    let good = Named::new(1);
    // Both sort before the known one.
    let same_pod = Named {
        container: "a".to_owned(),
        ..good.clone()
    };
    let other_pod = Named {
        pod: "a".to_owned(),
        uid: Named::new(2).uid,
        ..good.clone()
    };
    node.start(&same_pod);
    node.run(&other_pod);
    node.until("the claims", |node| {
        node.reasons().contains(&"conflict") && node.name_of(&other_pod) == other_pod.short()
    });
    node.poll_often();
    assert!(node.troubles.len() <= 2, "{:?}", node.troubles);
    assert!(node.troubles[0].1.contains(&good.id));
    assert_eq!(node.name_of(&good), good.full());
    assert_eq!(node.name_of(&other_pod), other_pod.short());
    // When the first has gone, the ID belongs to the next one and no other.
    node.remove_link(&good);
    node.until("the next", |node| {
        node.name_of(&other_pod) == other_pod.full()
    });
}

#[test]
fn the_first_keeps_a_uid_that_two_pods_claim() {
    let mut node = spoiled(|_| {});
    let good = Named::new(1);
    let liar = Named {
        pod: "a".to_owned(),
        id: "f".repeat(64),
        ..good.clone()
    };
    node.run(&liar);
    node.until("the claim", |node| node.reasons().contains(&"conflict"));
    assert!(node.troubles[0].1.contains("shop/cart-1 and shop/a"));
    assert_eq!(node.name_of(&good), good.full());
    assert_eq!(
        node.name_of(&liar),
        good.short(),
        "not the liar's container"
    );
    // When the first ends, the UID belongs to the other.
    node.remove_pod(&good);
    node.remove_link(&good);
    node.until("the next", |node| node.name_of(&liar) == liar.full());
}

#[test]
fn more_entries_than_any_node_has_are_left_out() {
    let mut node = spoiled(|_| {});
    let good = Named::new(1);
    for number in 2..9000 {
        node.make_pod(&Named::new(number));
    }
    node.until("the bound", |node| node.files.pods() == 8192);
    assert_eq!(node.reasons(), ["many"]);
    let known: Vec<usize> = (2..9000)
        .filter(|number| !node.name_of(&Named::new(*number)).is_empty())
        .collect();
    assert_eq!(known.len(), 8191);
    // Accepted pods stay when more come, and leave room when they go.
    node.make_pod(&Named::new(9000));
    let gone = Named::new(known[0]);
    node.remove_pod(&gone);
    node.until("its end", |node| node.directory.running() == 8191);
    node.until("another in its place", |node| {
        node.directory.running() == 8192
    });
    for number in &known[1..] {
        let named = Named::new(*number);
        assert_eq!(node.name_of(&named), named.short());
    }
    assert_eq!(node.name_of(&good), good.full());
    assert_eq!(node.reasons(), ["many"]);
}
