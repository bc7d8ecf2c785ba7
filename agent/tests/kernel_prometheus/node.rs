//! A node's pods: cgroups under a pod's path, named in a kubelet's directories, each with a stall of its own.

use std::{fs, path::Path};

use super::{
    kernel::{Group, Memory, Task},
    names::{Named, Node as Kubelet},
};

pub const NAMESPACE: &str = "shop";
pub const CONTAINER: &str = "main";

/// A pod by the stall that it has, and the series that have to grow by it.
pub struct Stall {
    pub pod: &'static str,
    pub grows: &'static [&'static str],
}

/// What is caused. Names of pods are put in for `$pod`.
pub const STALLS: [Stall; 5] = [
    Stall {
        pod: "throttled-0",
        grows: &[
            r#"stallscope_stall_seconds_total{pod="$pod", cause="throttled"}"#,
            r#"stallscope_cpu_cfs_throttled_periods_total{pod="$pod"}"#,
        ],
    },
    Stall {
        pod: "crowd-0",
        grows: &[r#"stallscope_stall_seconds_total{pod="$pod", cause="own"}"#],
    },
    Stall {
        pod: "victim-0",
        grows: &[r#"stallscope_stall_seconds_total{pod="$pod", cause="neighbour"}"#],
    },
    Stall {
        pod: "memory-0",
        grows: &[
            r#"stallscope_task_stall_seconds_total{pod="$pod", cause="memcg_reclaim"}"#,
            r#"stallscope_task_stall_seconds_total{pod="$pod", cause="compaction"}"#,
        ],
    },
    Stall {
        pod: "forks-0",
        grows: &[
            r#"stallscope_first_touch_pages_total{pod="$pod"}"#,
            r#"stallscope_task_migrations_total{pod="$pod"}"#,
        ],
    },
];

/// The cgroup that has the kubelet's tree in it.
pub fn root() -> String {
    format!("/stallscope-test-{}-pods", std::process::id())
}

/// The pods while they run.
pub struct Pods {
    // Dropped in this order: a cgroup can be removed once nothing is in it.
    _tasks: Vec<Task>,
    _groups: Vec<Group>,
    _memory: Memory,
    _files: tempfile::TempDir,
}

impl Pods {
    /// Makes them, with their names from this kubelet, and starts what stalls.
    pub fn start(kubelet: &Kubelet) -> Self {
        let root = Group::new("pods");
        assert_eq!(root.label, self::root());
        // As much as a few tasks of whatever else this machine does, so that every pod gets its turn.
        weigh(&root, 4);
        let kubepods = child(&root, "kubepods");
        let burstable = child(&kubepods, "burstable");
        let (mut pods, mut containers) = (Vec::new(), Vec::new());
        for (number, stall) in STALLS.iter().enumerate() {
            let named = named(number, stall.pod);
            kubelet.run(&named);
            let pod = child(&burstable, &format!("pod{}", named.uid));
            containers.push(child(&pod, &named.id));
            pods.push(pod);
        }
        let files = tempfile::tempdir().expect("a folder");
        let memory = Memory::limited(&containers[3], 24 << 20);
        let tasks = tasks(&containers, &memory, &files.path().join("file"));
        // Children first.
        containers.extend(pods);
        containers.extend([burstable, kubepods, root]);
        Self {
            _tasks: tasks,
            _groups: containers,
            _memory: memory,
            _files: files,
        }
    }
}

fn named(number: usize, pod: &str) -> Named {
    Named {
        namespace: NAMESPACE.to_owned(),
        pod: pod.to_owned(),
        container: CONTAINER.to_owned(),
        ..Named::new(number)
    }
}

/// A cgroup below another, which hands it the controllers that v2 does not hand down by itself.
fn child(parent: &Group, name: &str) -> Group {
    let handed = parent.dir.join("cgroup.subtree_control");
    if handed.exists() {
        fs::write(&handed, "+cpu +memory")
            .unwrap_or_else(|error| panic!("cannot write to {}: {error}", handed.display()));
    }
    let dir = parent.dir.join(name);
    fs::create_dir(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
    Group {
        dir,
        label: format!("{}/{name}", parent.label),
    }
}

fn tasks(containers: &[Group], memory: &Memory, file: &Path) -> Vec<Task> {
    let [throttled, crowd, victim, reclaims, forks] = containers else {
        panic!("one container each");
    };
    let limited = memory.dir.join("cgroup.procs");
    let dirty = format!("dd if=/dev/zero of={} bs=64k count=768", file.display());
    let compact = "echo 1 > /proc/sys/vm/compact_memory";
    let mut tasks = throttled.spin(20);
    // So little that it runs out at once, on a machine that does other things as well.
    throttled.limit(Some(2000));
    // On two CPUs, so that they are many on a large machine as well.
    let spin = "taskset -p -c 0,1 $$ > /dev/null; while :; do :; done";
    tasks.extend((0..10).map(|_| crowd.spawn(spin)));
    // One on each, where the crowd weighs as much: at least half of the time is the crowd's, whatever else runs.
    tasks.extend([0, 1].map(|cpu| {
        victim.spawn(&format!(
            "taskset -p -c {cpu} $$ > /dev/null; while :; do :; done"
        ))
    }));
    tasks.push(reclaims.spawn(&format!(
        "echo $$ > {}; while :; do {dirty} 2> /dev/null; {compact}; sleep 1; done",
        limited.display()
    )));
    tasks.push(forks.spawn("while :; do /bin/ls /usr/bin > /dev/null; done"));
    tasks
}

/// Gives a cgroup the weight of so many tasks beside it.
fn weigh(group: &Group, tasks: u32) {
    if group.dir.join("cpu.shares").exists() {
        group.write("cpu.shares", &(1024 * tasks).to_string());
    } else if group.dir.join("cpu.weight").exists() {
        group.write("cpu.weight", &(100 * tasks).to_string());
    }
}
