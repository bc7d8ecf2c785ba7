//! Cgroups with names that try to break the exposition.

mod kernel;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path, thread::sleep, time::Duration};

use kernel::{Group, Scrape, agent};
use stallscope::{agent::Config, host::cgroup::CgroupPath};

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn hostile_names_are_escaped_and_stay_apart() {
    let mut agent = agent(Config::default());
    let parent = Group::new("names");
    let long = vec![b'x'; 255];
    let names: [&[u8]; 12] = [
        b"with space",
        b"with \"quotes\"",
        b"with \\backslash",
        b"a\\x5cb",
        b"not \xff utf-8",
        b"tab\there",
        b"{cause=\"own\"} 1",
        "größe".as_bytes(),
        b"q; touch PWNED $(id) `id` && x > y",
        b"\x1b]0;title\x07\x1b[31mred",
        b"-rf --help *",
        &long,
    ];
    let groups: Vec<Group> = names
        .iter()
        .map(|name| {
            let dir = parent.dir.join(OsStr::from_bytes(name));
            std::fs::create_dir(&dir).expect("the kernel takes the name");
            let path = [parent.label.as_bytes(), b"/", name].concat();
            Group {
                dir,
                label: CgroupPath::new(&path).label().into_owned(),
            }
        })
        .collect();
    let tasks: Vec<_> = groups
        .iter()
        .map(|group| group.spawn("while :; do :; done"))
        .collect();
    sleep(Duration::from_secs(1));
    let scrape = Scrape::of(&mut agent);
    for group in &groups {
        let escaped = group.label.replace('\\', "\\\\").replace('"', "\\\"");
        let label = format!("cgroup=\"{escaped}\",node=\"0\"");
        let lines = scrape
            .0
            .lines()
            .filter(|line| line.contains(&label))
            .count();
        assert_eq!(lines, 1, "{label}");
    }
    assert!(
        scrape
            .0
            .lines()
            .all(|line| line.is_ascii() || line.contains("größe"))
    );
    drop(tasks);
    drop(groups);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn a_removed_cgroup_keeps_its_counts() {
    let mut agent = agent(Config::default());
    let group = Group::new("gone");
    // There are more tasks than CPUs, because time is counted when a task leaves its CPU.
    let tasks = group.spin(std::thread::available_parallelism().map_or(3, |cpus| cpus.get() + 1));
    sleep(Duration::from_millis(500));
    let label = [kernel::label("cgroup", &group.label)];
    let family = "stallscope_cpu_seconds_total";
    let alive = Scrape::of(&mut agent)
        .exact(family, &label)
        .expect("it has run");
    drop(tasks);
    let dir = group.dir.clone();
    drop(group);
    assert!(!Path::new(&dir).exists());
    let gone = Scrape::of(&mut agent)
        .exact(family, &label)
        .expect("it keeps its series");
    assert!(gone >= alive, "{gone} < {alive}: a counter fell");
}
