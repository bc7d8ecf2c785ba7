//! Directories that vanish, come back, or are no directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use stallscope::attribution::pods::files::readable;

use super::node::{Named, Node};

/// Returns a node that knows two running pods, and a third pod that it does not know yet.
fn node() -> (Node, [Named; 3]) {
    let mut node = Node::new();
    let all = [1, 2, 3].map(Named::new);
    node.run(&all[0]);
    node.run(&all[1]);
    node.poll();
    assert_eq!(node.directory.running(), 2);
    node.poll_often();
    (node, all)
}

/// Makes both directories fail: the source reports it once, names stay, and all is well after `restore`.
fn fails_and_recovers(reason: &str, spoil: impl Fn(&Node), restore: impl Fn(&Node)) {
    let (mut node, all) = node();
    for round in 1..=2 {
        spoil(&node);
        node.poll_often();
        assert_eq!(node.reasons(), vec![reason; round], "{:?}", node.troubles);
        let (_, text, down) = node.troubles.last().unwrap();
        assert!(down, "{text}");
        assert!(text.contains("log/pods") && text.contains("log/containers"));
        assert!(!node.is_up);
        assert_eq!(node.name_of(&all[0]), all[0].full());
        assert_eq!(node.directory.running(), 2);
        restore(&node);
        node.poll_often();
        assert!(node.is_up);
        assert_eq!(node.directory.running(), 2);
    }
    node.run(&all[2]);
    node.remove_pod(&all[0]);
    node.remove_link(&all[0]);
    node.until("what came next", |node| {
        node.name_of(&all[2]) == all[2].full() && node.directory.running() == 2
    });
}

#[test]
fn the_root_is_moved_away() {
    fails_and_recovers(
        "absent",
        |node| fs::rename(node.path("log"), node.path("old")).unwrap(),
        |node| fs::rename(node.path("old"), node.path("log")).unwrap(),
    );
}

#[test]
fn the_root_becomes_a_file() {
    fails_and_recovers(
        "unreadable",
        |node| {
            fs::rename(node.path("log"), node.path("old")).unwrap();
            fs::write(node.path("log"), "").unwrap();
        },
        |node| {
            fs::remove_file(node.path("log")).unwrap();
            fs::rename(node.path("old"), node.path("log")).unwrap();
        },
    );
}

#[test]
fn both_directories_become_links_in_a_circle() {
    let names = ["pods", "containers"];
    fails_and_recovers(
        "unreadable",
        |node| {
            for name in names {
                let path = node.path("log").join(name);
                fs::rename(&path, node.path(name)).unwrap();
                symlink(name, &path).unwrap();
            }
        },
        |node| {
            for name in names {
                let path = node.path("log").join(name);
                fs::remove_file(&path).unwrap();
                fs::rename(node.path(name), &path).unwrap();
            }
        },
    );
}

#[test]
fn both_directories_become_links_to_nowhere_or_files() {
    let (mut node, all) = node();
    for name in ["pods", "containers"] {
        fs::rename(node.path("log").join(name), node.path(name)).unwrap();
    }
    symlink("/nonexistent/pods", node.path("log/pods")).unwrap();
    fs::write(node.path("log/containers"), "").unwrap();
    node.poll_often();
    assert_eq!(node.reasons(), ["absent"]);
    assert!(node.troubles[0].2);
    assert_eq!(node.name_of(&all[1]), all[1].full());
}

#[test]
fn one_directory_is_enough() {
    let (mut node, all) = node();
    fs::rename(node.path("log/pods"), node.path("pods")).unwrap();
    node.poll_often();
    assert_eq!(node.reasons(), ["absent"]);
    assert!(node.is_up && !node.troubles[0].2, "not down");
    node.start(&all[2]);
    node.until("by its link", |node| node.name_of(&all[2]) == all[2].full());
    fs::rename(node.path("pods"), node.path("log/pods")).unwrap();

    fs::rename(node.path("log/containers"), node.path("containers")).unwrap();
    node.poll_often();
    assert_eq!(node.reasons(), ["absent"; 2]);
    let named = Named::new(4);
    node.make_pod(&named);
    node.until("by its directory", |node| {
        node.name_of(&named) == named.short()
    });
    assert_eq!(node.name_of(&all[0]), all[0].full());
    assert!(node.is_up);
}

#[test]
fn directories_made_again_and_empty_end_their_pods() {
    let (mut node, all) = node();
    fs::remove_dir_all(node.path("log")).unwrap();
    node.poll_often();
    assert_eq!(node.directory.running(), 2, "not known to have ended");
    fs::create_dir_all(node.path("log/pods")).unwrap();
    fs::create_dir_all(node.path("log/containers")).unwrap();
    node.run(&all[2]);
    node.until("the new one alone", |node| node.directory.running() == 1);
    assert_eq!(node.name_of(&all[2]), all[2].full());
    assert_eq!(node.name_of(&all[0]), all[0].full(), "kept for a while");
}

#[test]
fn a_source_may_start_before_the_kubelet() {
    let mut node = Node::new();
    fs::remove_dir_all(node.path("log")).unwrap();
    let error = readable(&node.path("log")).unwrap_err();
    assert!(error.contains("--kubelet-logs"), "{error}");
    node.poll_often();
    assert_eq!(node.reasons(), ["absent"]);
    fs::create_dir_all(node.path("log/pods")).unwrap();
    assert_eq!(readable(&node.path("log")), Ok(()));
    let named = Named::new(1);
    node.make_pod(&named);
    node.until("the first pod", |node| {
        node.name_of(&named) == named.short()
    });
    assert_eq!(
        node.reasons(),
        ["absent"; 2],
        "containers are not there yet"
    );
    assert!(!node.troubles[1].2);
    fs::create_dir(node.path("log/containers")).unwrap();
    node.start(&named);
    node.until("its container", |node| node.name_of(&named) == named.full());
}

/// Drops root's right to read everything, in this thread alone.
fn as_nobody() {
    // SAFETY: takes a number; concerns file access of the calling thread only.
    unsafe { libc::setfsuid(65534) };
}

#[test]
fn rights_are_taken_away_and_given_back() {
    std::thread::spawn(|| {
        let (mut node, all) = node();
        fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let set = |node: &Node, mode| {
            for name in ["log/pods", "log/containers"] {
                fs::set_permissions(node.path(name), fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        set(&node, 0o000);
        as_nobody();
        node.poll_often();
        assert_eq!(node.reasons(), ["denied"]);
        assert!(node.troubles[0].1.contains("CAP_DAC_READ_SEARCH"));
        assert!(readable(&node.path("log")).unwrap_err().contains("denied"));
        assert_eq!(node.name_of(&all[0]), all[0].full());
        // SAFETY: as above.
        unsafe { libc::setfsuid(libc::geteuid()) };
        set(&node, 0o755);
        node.run(&all[2]);
        as_nobody();
        node.until("readable again", |node| {
            node.name_of(&all[2]) == all[2].full()
        });
        assert!(node.is_up);
        // SAFETY: as above; the folder is removed at the end.
        unsafe { libc::setfsuid(libc::geteuid()) };
    })
    .join()
    .unwrap();
}

#[test]
fn nobody_listens_any_more() {
    let (feed, inbox) = stallscope::attribution::pods::feed::feed();
    let folder = tempfile::tempdir().unwrap();
    let mut files =
        stallscope::attribution::pods::files::Files::new(folder.path().to_owned(), feed);
    drop(inbox);
    files.poll();
    fs::create_dir(folder.path().join("pods")).unwrap();
    files.poll();
    assert_eq!(files.pods(), 0);
}
