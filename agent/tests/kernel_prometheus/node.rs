//! A node's pods: cgroups under a pod's path with names in a kubelet's directories, each with its own stall.

use std::{fs, path::Path};

use super::{
    kernel::{Group, Memory, Task},
    names::{Named, Node as Kubelet},
};

pub const NAMESPACE: &str = "shop";
pub const CONTAINER: &str = "main";

/// A stall, by its pod, and the series that must grow because of it.
pub struct Stall {
    pub pod: &'static str,
    pub grows: &'static [&'static str],
}

/// Stalls that the test causes. `$pod` stands for the pod's name.
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

/// Returns the cgroup that contains the kubelet's tree.
pub fn root() -> String {
    format!("/stallscope-test-{}-pods", std::process::id())
}

/// Running pods.
pub struct Pods {
    // Drop order: a cgroup can be removed once its tasks are gone.
    _tasks: Vec<Task>,
    _groups: Vec<Group>,
    _memory: Memory,
    _files: tempfile::TempDir,
}

impl Pods {
    /// Makes the pods, with their names from this kubelet, and starts the tasks that stall.
    pub fn start(kubelet: &Kubelet) -> Self {
        let root = Group::new("pods");
        assert_eq!(root.label, self::root());
        // The weight equals a few of the machine's other tasks, so that every pod gets its turn.
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
        // Children come first.
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

/// Makes a cgroup below another, and enables the controllers that v2 does not pass down by itself.
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
    // The quota is so small that it runs out at once, even on a busy machine.
    throttled.limit(Some(2000));
    // They run on two CPUs, so that they crowd these on a large machine as well.
    let spin = "taskset -p -c 0,1 $$ > /dev/null; while :; do :; done";
    tasks.extend((0..10).map(|_| crowd.spawn(spin)));
    // One task runs on each, with the same weight as the crowd: at least half of the time is the crowd's, whatever else
    // runs.
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

/// Gives a cgroup the weight of that many tasks.
fn weigh(group: &Group, tasks: u32) {
    if group.dir.join("cpu.shares").exists() {
        group.write("cpu.shares", &(1024 * tasks).to_string());
    } else if group.dir.join("cpu.weight").exists() {
        group.write("cpu.weight", &(100 * tasks).to_string());
    }
}
