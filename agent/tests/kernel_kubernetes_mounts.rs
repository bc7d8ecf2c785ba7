//! Access through the agent's mounts: the host's cgroups, and its root directory for the audit.

mod kernel;
mod kubernetes;
mod serving;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use kubernetes::{
    agent::{Agent, CONTAINER, Options, mount},
    cgroups,
    cri::Mount,
    daemon,
    kubelet::{Container, NAMESPACE, Node, PERIOD, Pod, Qos},
};
use stallscope::host::cgroup::{Hierarchy, Mode};

/// Mount point of the host's cgroups in the chart.
const CGROUPS: &str = "/host/sys/fs/cgroup";
/// Warning of an agent that could write to the host's cgroups.
const WARNING: &str = "cgroup mounts of the host are writable in here";
/// Controllers of cgroup v1 whose limits the agent explains.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Script that tries to write to every visible hierarchy and prints each success. It leaves nothing behind.
const TRY: &str = "\
for dir in /host/sys/fs/cgroup /host/sys/fs/cgroup/*; do
  [ -e $dir/cgroup.procs ] || continue
  echo \"sees $dir\"
  busybox mkdir $dir/stallscope-try && echo \"WROTE mkdir $dir\" && busybox rmdir $dir/stallscope-try
  echo 0 > $dir/cgroup.procs && echo \"WROTE cgroup.procs $dir\"
  # Not by `:`, with which a refusal would end the shell.
  for file in $dir/*; do
    [ -f $file ] && true >> $file && echo \"WROTE $file\"
  done
  for file in $dir/kubepods/* $dir/kubepods/burstable/*; do
    [ -f $file ] && true >> $file && echo \"WROTE $file\"
  done
done 2> /dev/null
exit 0";

fn mode() -> Mode {
    let found = Hierarchy::discover(Path::new("/proc"), None);
    found.expect("a cgroup hierarchy is mounted").mode()
}

/// Returns the chart's default mount.
fn whole() -> Vec<Mount> {
    vec![mount("/sys/fs/cgroup", CGROUPS)]
}

/// Returns the chart's mounts for a list of paths: each controller by itself. On v2 there is one mount in any case.
fn each() -> Vec<Mount> {
    if mode() == Mode::V2 {
        return whole();
    }
    let there = |name: &&str| Path::new("/sys/fs/cgroup").join(name).exists();
    CONTROLLERS
        .into_iter()
        .filter(there)
        .map(|name| {
            mount(
                &format!("/sys/fs/cgroup/{name}"),
                &format!("{CGROUPS}/{name}"),
            )
        })
        .collect()
}

/// Returns the chart's options with other cgroup mounts.
fn options(node: &Node, cgroups: Vec<Mount>) -> Options {
    let mut options = Options::chart(node);
    options
        .mounts
        .retain(|mount| mount.container_path != "/sys/fs/cgroup");
    options.mounts.extend(cgroups);
    options.args.push(format!("--cgroup-root={CGROUPS}"));
    options
}

/// Returns the paths that a container with the agent's privileges, but without capabilities, can write to through these
/// mounts.
fn written(node: &Node, name: &str, cgroups: Vec<Mount>) -> Vec<String> {
    let mut options = options(node, cgroups);
    options.capabilities.clear();
    let pod = Pod::start(node, name, Qos::Burstable, &[options.shell(TRY)]);
    assert_eq!(pod.wait(CONTAINER, Duration::from_secs(60)), 0);
    let said = pod.output(CONTAINER);
    assert!(said.contains("sees "), "{name} saw no hierarchy: {said}");
    let lines = said.lines().filter_map(|line| line.strip_prefix("WROTE "));
    lines.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn nothing_can_be_written_to_through_controllers_that_are_mounted_each_by_itself() {
    if let Some(why) = daemon::unavailable() {
        println!("skipped: {why}");
        return;
    }
    let node = Node::start();
    let image = node.containerd.import_agent();

    // Root without capabilities owns these files: only the mount can refuse the write.
    let mut open = each();
    for mount in &mut open {
        mount.readonly = false;
    }
    let control = written(&node, "control", open);
    assert!(
        control.iter().any(|what| what.contains("cgroup.procs")),
        "writable mounts can be written to, or this proves nothing: {control:?}"
    );

    let through_whole = written(&node, "whole", whole());
    println!(
        "{:?}, the whole of it read-only: {through_whole:#?}",
        mode()
    );
    if mode() == Mode::V2 {
        assert_eq!(through_whole, Vec::<String>::new());
    }
    let through_each = written(&node, "each", each());
    assert_eq!(through_each, Vec::<String>::new());

    // The agent says which of the two mounts it has, and measures with both.
    for (name, cgroups, writable) in [
        ("agent-whole", whole(), !through_whole.is_empty()),
        ("agent-each", each(), false),
    ] {
        let agent = Agent::ready(&node, &image, name, &options(&node, cgroups));
        let said = agent.said();
        assert_eq!(said.contains(WARNING), writable, "{name}: {said}");
        let line = said.lines().find(|line| line.contains(WARNING));
        println!("{name}: {line:?}");
        names_and_limits(&node, &agent);
    }
}

/// Checks that a pod that starts now is measured by name, and that the agent reads its limit from its cgroup.
fn names_and_limits(node: &Node, agent: &Agent) {
    let spin = Container::shell("main", PERIOD / 20, "while :; do :; done");
    let pod = Pod::start(node, "limited", Qos::Burstable, &[spin]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let quota = format!("{}", PERIOD / 20);
    let path =
        format!("/api/v1/explain?window=10s&namespace={NAMESPACE}&pod=limited&container=main");
    loop {
        let answer = agent.get(&path);
        let explained = answer.as_ref().is_some_and(|(status, body)| {
            *status == 200 && body.contains("throttled") && body.contains(&quota)
        });
        if explained {
            println!("{}", answer.expect("an answer").1);
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the limit is not explained: {answer:?}\n{}",
            agent.said()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let cgroup = pod.container_cgroup("main");
    assert!(cgroups::usage(&cgroup) > 0.0, "{cgroup} ran");
}

/// Returns whether a container can follow mounts and unmounts on the host's root: the root's mount has peers or a
/// master (man `proc_pid_mountinfo(5)`, the optional fields).
fn root_is_shared() -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("a list of mounts");
    let mut roots = text
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some("/"));
    roots.next_back().is_some_and(|line| {
        let optional = line.split(" - ").next().unwrap_or_default();
        optional.contains(" shared:") || optional.contains(" master:")
    })
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn the_audit_has_the_nodes_root_where_that_is_no_shared_mount() {
    if let Some(why) = daemon::unavailable() {
        println!("skipped: {why}");
        return;
    }
    let node = Node::start();
    let image = node.containerd.import_agent();
    let with_root = |propagation| {
        let mut options = options(&node, Vec::new());
        let root = Mount {
            propagation,
            ..mount("/", "/host")
        };
        options.mounts.insert(0, root);
        for path in ["/proc", "/sys", "/sys/fs/cgroup"] {
            options.mounts.push(mount(path, &format!("/host{path}")));
        }
        options.args.push("--doctor-root=/host".to_owned());
        options
    };

    let followed = Pod::try_start(
        &node,
        "followed",
        Qos::Burstable,
        &[with_root(1).shell("exit 0")],
    );
    let refused = followed.err().map(|error| error.to_string());
    println!("HostToContainer: {refused:?}");
    match refused {
        None => assert!(root_is_shared()),
        Some(error) => assert!(
            !root_is_shared() && error.contains("is not a shared or slave mount"),
            "{error}"
        ),
    }

    let agent = Agent::ready(&node, &image, "audits", &with_root(0));
    let deadline = Instant::now() + Duration::from_secs(60);
    let found = loop {
        let scrape = agent.scrape().0;
        let info = scrape
            .lines()
            .find(|line| line.starts_with("stallscope_node_cgroup_info{"));
        if let Some(line) = info {
            break line.to_owned();
        }
        assert!(Instant::now() < deadline, "no audit:\n{}", agent.said());
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("{found}");
    assert!(
        found.contains(&format!(r#"mode="{}""#, mode().name())),
        "{found}"
    );
}
