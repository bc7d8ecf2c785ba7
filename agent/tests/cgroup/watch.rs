//! Watches of directories that come and go, without root.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use stallscope::host::cgroup::{Hierarchy, Watch};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fixture::{Fixture, Table, apply, table};

fn watched() -> (Fixture, Watch, Table) {
    let fixture = Fixture::new("");
    fixture.v2_root("sys", "cpu", "cpu");
    let hierarchy = Hierarchy::at(&fixture.path("sys"), None).expect("a hierarchy");
    let mut watch = Watch::new(hierarchy).expect("a watch");
    assert_eq!(watch.fallback(), None);
    let mut known = Table::new();
    apply(&mut known, watch.poll().expect("a poll"));
    assert_eq!(known.len(), 1, "the root comes with the first poll");
    (fixture, watch, known)
}

fn catch_up(watch: &mut Watch, known: &mut Table) {
    apply(known, watch.poll().expect("a poll"));
    assert_eq!(*known, table(watch.hierarchy().scan().expect("a scan")));
}

#[test]
fn whole_trees_at_once() {
    let (fixture, mut watch, mut known) = watched();
    fs::create_dir_all(fixture.path("sys/a/b/c/d")).unwrap();
    catch_up(&mut watch, &mut known);
    assert_eq!(known.len(), 5);
    assert!(watch.poll().unwrap().is_empty());
    fs::create_dir_all(fixture.path("sys/a/b/c/d/e/f")).unwrap();
    fs::write(fixture.path("sys/a/file"), "").unwrap();
    catch_up(&mut watch, &mut known);
    fs::remove_dir_all(fixture.path("sys/a/b")).unwrap();
    catch_up(&mut watch, &mut known);
    assert_eq!(known.len(), 2);
}

#[test]
fn what_comes_and_goes_between_polls_is_not_reported() {
    let (fixture, mut watch, _) = watched();
    fs::create_dir_all(fixture.path("sys/a/b")).unwrap();
    fs::remove_dir_all(fixture.path("sys/a")).unwrap();
    assert!(watch.poll().unwrap().is_empty());
}

#[test]
fn an_overflown_queue_loses_nothing() {
    let (fixture, mut watch, mut known) = watched();
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    fs::create_dir(fixture.path("sys/kept")).unwrap();
    catch_up(&mut watch, &mut known);
    for _ in 0..limit / 2 + 10 {
        fs::create_dir(fixture.path("sys/busy")).unwrap();
        fs::remove_dir(fixture.path("sys/busy")).unwrap();
    }
    fs::create_dir_all(fixture.path("sys/kept/late/later")).unwrap();
    catch_up(&mut watch, &mut known);
    assert_eq!(known.len(), 4);
}

#[test]
fn an_unreadable_root_is_an_error_until_it_is_back() {
    let (fixture, mut watch, mut known) = watched();
    fs::create_dir(fixture.path("sys/a")).unwrap();
    fs::rename(fixture.path("sys"), fixture.path("away")).unwrap();
    assert!(watch.poll().unwrap_err().to_string().contains("sys"));
    assert!(watch.poll().is_err(), "not forgotten");
    fs::rename(fixture.path("away"), fixture.path("sys")).unwrap();
    catch_up(&mut watch, &mut known);
    assert_eq!(known.len(), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn the_descriptor_wakes_a_reactor() {
    let (fixture, mut watch, mut known) = watched();
    let fd = watch.as_fd().unwrap().try_clone_to_owned().unwrap();
    // SAFETY: the AsyncFd owns this descriptor, and nothing takes it out or closes it.
    let ready = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.unwrap();
    for name in ["sys/a", "sys/a/b", "sys/c"] {
        let idle = tokio::time::timeout(Duration::from_millis(20), ready.readable()).await;
        assert!(idle.is_err(), "nothing to say");
        fs::create_dir(fixture.path(name)).unwrap();
        let mut guard = tokio::time::timeout(Duration::from_secs(5), ready.readable())
            .await
            .unwrap()
            .unwrap();
        catch_up(&mut watch, &mut known);
        guard.clear_ready();
    }
    assert_eq!(known.len(), 4);
}

#[derive(Clone, Debug)]
enum Step {
    Make(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let path = || "[abc](/[abc]){0,3}".prop_map(|path| PathBuf::from("sys").join(path));
    prop_oneof![
        4 => path().prop_map(Step::Make),
        3 => path().prop_map(Step::Remove),
        1 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => Just(Step::Poll),
    ]
}

proptest! {
    // The cases are few because closing an inotify descriptor takes tens of milliseconds.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_changes_ends_as_a_scan_does(steps in prop::collection::vec(step(), 0..150)) {
        let (fixture, mut watch, mut known) = watched();
        let root = fixture.path("");
        for step in steps {
            // Impossible steps, such as removing a missing directory, do nothing.
            match step {
                Step::Make(path) => drop(fs::create_dir_all(root.join(path))),
                Step::Remove(path) => drop(fs::remove_dir_all(root.join(path))),
                Step::Rename(from, to) => drop(fs::rename(root.join(from), root.join(to))),
                Step::Poll => catch_up(&mut watch, &mut known),
            }
        }
        catch_up(&mut watch, &mut known);
    }
}
