//! The agent in a container of a real runtime, with the privileges of its DaemonSet. Names, limits, throttles and the
//! wait split of pods are compared with the values known to the tests that make them.

mod kernel;
mod kubernetes;
mod serving;

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::{Scrape, label};
use kubernetes::{
    agent::{Agent, CONTAINER, Options},
    cgroups, daemon,
    joins::{self, Known},
    kubelet::{Container, Node, Pod, Qos},
};

const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";
const LIMIT: &str = "stallscope_cpu_limit_cores";
const QUOTA: [&str; 3] = [
    "stallscope_cpu_cfs_periods_total",
    "stallscope_cpu_cfs_throttled_periods_total",
    "stallscope_cpu_cfs_throttled_seconds_total",
];
const SPIN: &str = "while :; do :; done";

/// Starts a runtime and an agent in it; none where no runtime is available.
fn node_with_agent() -> Option<(Node, Agent)> {
    if let Some(why) = daemon::unavailable() {
        println!("skipped: {why}");
        return None;
    }
    let node = Node::start();
    let image = node.containerd.import_agent();
    let agent = Agent::ready(&node, &image, "agent", &Options::chart(&node));
    Some((node, agent))
}

/// Waits until each container has series under its name.
fn await_names(agent: &Agent, pods: &[&Pod]) -> Scrape {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let scrape = agent.scrape();
        let names = pods
            .iter()
            .flat_map(|pod| pod.containers.iter().map(|each| pod.labels(&each.name)));
        let missing: Vec<_> = names
            .filter(|labels| scrape.series(CPU, labels).next().is_none())
            .collect();
        if missing.is_empty() {
            return scrape;
        }
        assert!(
            Instant::now() < deadline,
            "no series of {missing:?}\n{}\n{}",
            agent.said(),
            scrape.0
        );
        sleep(Duration::from_millis(200));
    }
}

/// Waits until the limit of a container is exported: the agent reads all limits every ten seconds.
fn await_limit(agent: &Agent, labels: &[String], cores_set: &str) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let cores = cores(&agent.scrape(), labels);
        if cores == [cores_set] {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{labels:?}: limited to {cores:?}, expected {cores_set}"
        );
        sleep(Duration::from_millis(200));
    }
}

/// Stops the processes of these containers and waits until the last context switch of each is over.
fn stop(containers: &[(&Pod, &str)]) {
    for pid in processes(containers) {
        signal(pid, libc::SIGSTOP);
    }
    for pid in processes(containers) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while state(pid) != Some('T') {
            assert!(Instant::now() < deadline, "pid {pid} does not stop");
            sleep(Duration::from_millis(5));
        }
    }
    sleep(Duration::from_millis(50));
}

fn resume(containers: &[(&Pod, &str)]) {
    for pid in processes(containers) {
        signal(pid, libc::SIGCONT);
    }
}

fn processes(containers: &[(&Pod, &str)]) -> Vec<i32> {
    let pids = containers
        .iter()
        .flat_map(|(pod, container)| pod.processes(container));
    pids.collect()
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) has no preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// Returns the state of a process, `T` while it is stopped (proc(5)).
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

/// Returns the wait on run queues of all processes of a container, in nanoseconds (`/proc/PID/schedstat`).
fn run_delay(pod: &Pod, container: &str) -> u64 {
    let pids = pod.processes(container).into_iter();
    let delays = pids.map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("schedstat");
        let word = text.split_whitespace().nth(1);
        word.and_then(|word| word.parse::<u64>().ok())
            .expect("schedstat has three numbers")
    });
    delays.sum()
}

/// Returns the kernel's periods, throttled periods and throttled nanoseconds.
fn cpu_stat(cgroup: &str) -> [u64; 3] {
    let text = cgroups::read(cgroup, "cpu.stat");
    let value = |key: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    };
    let throttled = value("throttled_time ").or_else(|| Some(value("throttled_usec ")? * 1000));
    [value("nr_periods "), value("nr_throttled "), throttled]
        .map(|value| value.unwrap_or_else(|| panic!("{cgroup} has no quota: {text}")))
}

/// Waits until the quota's timer is idle: after that no value of `cpu.stat` changes.
fn settle(cgroups: &[&str]) -> Vec<[u64; 3]> {
    let read = || {
        cgroups
            .iter()
            .map(|cgroup| cpu_stat(cgroup))
            .collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = read();
    loop {
        sleep(Duration::from_millis(300));
        let now = read();
        if now == last {
            return now;
        }
        assert!(Instant::now() < deadline, "cpu.stat does not settle");
        last = now;
    }
}

fn cores(scrape: &Scrape, labels: &[String]) -> Vec<String> {
    let limits = scrape.series(LIMIT, labels);
    limits.map(|(_, value)| value.to_owned()).collect()
}

fn quota(scrape: &Scrape, labels: &[String]) -> [Option<u64>; 3] {
    QUOTA.map(|family| scrape.exact(family, labels))
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn limits_and_throttles_of_pods_are_those_that_were_set_and_counted() {
    let Some((node, agent)) = node_with_agent() else {
        return;
    };
    let spin = Container::shell("spin", 20_000, SPIN);
    let idle = Container::shell("idle", 150_000, "sleep 1000");
    let limited = Pod::start(&node, "limited", Qos::Guaranteed, &[spin, idle]);
    let half = Container::shell("half", 5_000, SPIN);
    let free = Container::shell("free", 0, "sleep 1000");
    let partly = Pod::start(&node, "partly-limited", Qos::Burstable, &[half, free]);
    let endless = Container::shell("endless", 0, "sleep 1000");
    let unlimited = Pod::start(&node, "unlimited", Qos::BestEffort, &[endless]);
    await_names(&agent, &[&limited, &partly, &unlimited]);
    await_limit(&agent, &partly.labels("half"), "0.05");
    sleep(Duration::from_secs(2));
    stop(&[(&limited, "spin"), (&partly, "half")]);

    let named = [(&limited, "spin"), (&limited, "idle"), (&partly, "half")];
    let cgroups = named.map(|(pod, container)| pod.container_cgroup(container));
    let cgroups: Vec<&str> = cgroups
        .iter()
        .map(String::as_str)
        .chain([limited.cgroup.as_str()])
        .collect();
    let truth = settle(&cgroups);
    let scrape = agent.scrape();
    let series = [
        limited.labels("spin"),
        limited.labels("idle"),
        partly.labels("half"),
        limited.labels(""),
    ];
    for ((labels, truth), cores_set) in series.iter().zip(truth).zip(["0.2", "1.5", "0.05", "1.7"])
    {
        println!("{labels:?}: limit {cores_set}, cpu.stat {truth:?}");
        assert_eq!(cores(&scrape, labels), [cores_set], "{labels:?}");
        assert_eq!(quota(&scrape, labels), truth.map(Some), "{labels:?}");
    }
    let ran_out = quota(&scrape, &series[0])[1];
    assert!(ran_out >= Some(11), "the quota ran out: {ran_out:?}");
    let mut limits = [0.2, 1.5, 0.05].into_iter();
    let known = named.map(|(pod, container)| {
        let cgroup = pod.container_cgroup(container);
        Known {
            pod,
            container,
            limit: limits.next().expect("one each"),
            usage: cgroups::usage(&cgroup),
        }
    });
    joins::check(&scrape, &known);
    for labels in [partly.labels("free"), unlimited.labels("endless")] {
        assert_eq!(cores(&scrape, &labels), [""; 0], "{labels:?}");
        assert_eq!(quota(&scrape, &labels), [None; 3], "{labels:?}");
    }
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn the_waits_of_pods_sum_to_run_delay_and_have_the_causes_that_were_made() {
    let Some((node, agent)) = node_with_agent() else {
        return;
    };
    let many = format!("for i in 1 2 3 4 5; do {SPIN} & done; wait");
    // The containers are stopped at once, so that the setup of the others does not wait for them.
    let start = |name, qos, container: Container| {
        let pod = Pod::start(&node, name, qos, std::slice::from_ref(&container));
        stop(&[(&pod, &container.name)]);
        pod
    };
    let crowd = Container::shell("crowd", 200_000, &many);
    let crowded = start("crowded", Qos::Guaranteed, crowd);
    let limit = Container::shell("limit", 10_000, SPIN);
    let throttled = start("throttled", Qos::Guaranteed, limit);
    let mut beside = Container::shell("beside", 0, SPIN);
    beside.shares = 512;
    let victim = start("victim", Qos::Burstable, beside);
    let pods = [
        (&crowded, "crowd"),
        (&throttled, "limit"),
        (&victim, "beside"),
    ];
    await_names(&agent, &pods.map(|(pod, _)| pod));
    // First the limited pod runs alone (but for other load on this machine), then the other two together.
    let [limit] = grown(&agent, [pods[1]]);
    let [crowd, beside] = grown(&agent, [pods[0], pods[2]]);
    assert!(
        limit.of("throttled") > 0.5,
        "a tenth of a CPU for one that spins"
    );
    // The host's tasks and groups weigh a sixteenth each of all pods: on a busy machine they take their share.
    assert!(crowd.of("own") > 0.2, "five spin on the CPUs of two");
    assert!(beside.of("neighbour") > 0.3, "one beside five");
    assert!(beside.of("own") < 0.01 && beside.of("throttled") < 0.01);
    for share in [crowd, limit, beside] {
        assert!(share.of("unattributed") < 0.01);
    }
}

/// Lets stopped containers run for a while, checks that the causes sum to the kernel's `run_delay`, and returns each
/// container's share of every cause in its wait.
fn grown<const N: usize>(agent: &Agent, containers: [(&Pod, &str); N]) -> [Shares; N] {
    let delays = containers.map(|(pod, container)| run_delay(pod, container));
    let before = agent.scrape();
    resume(&containers);
    sleep(Duration::from_secs(5));
    stop(&containers);
    let after = agent.scrape();
    let mut delays = delays.into_iter();
    containers.map(|(pod, container)| {
        let delay = run_delay(pod, container) - delays.next().unwrap_or(0);
        let labels = pod.labels(container);
        let grown = |more: &[String]| {
            let labels = [&labels, more].concat();
            let of = |scrape: &Scrape| scrape.exact(STALL, &labels).unwrap_or(0);
            of(&after) - of(&before)
        };
        let split = grown(&[]);
        let causes = stallscope_ebpf::Cause::ALL.map(|cause| {
            let part = grown(&[label("cause", cause.label())]);
            (cause.label(), part as f64 / split as f64)
        });
        println!("{container}: run_delay {delay} ns, split {split} ns: {causes:?}");
        assert!(
            split.abs_diff(delay) * 10_000 <= delay,
            "{container}: the causes sum to {split} ns, the kernel says {delay} ns"
        );
        Shares(causes.to_vec())
    })
}

/// Share of each cause in a wait.
struct Shares(Vec<(&'static str, f64)>);

impl Shares {
    fn of(&self, cause: &str) -> f64 {
        let found = self.0.iter().find(|(name, _)| *name == cause);
        found.expect("a known cause").1
    }
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn an_agent_without_capabilities_goes_on_measuring_pods_that_come_later() {
    let Some((node, agent)) = node_with_agent() else {
        return;
    };
    let pid = agent.pid();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the agent runs") {
        let status = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(status).expect("its status");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set));
            assert_eq!(line.map(str::trim), Some("0000000000000000"), "{set}");
        }
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"));
    }
    let spin = Container::shell("spin", 30_000, SPIN);
    let pod = Pod::start(&node, "later", Qos::Burstable, &[spin]);
    let labels = pod.labels("spin");
    let ran = |scrape: &Scrape| scrape.exact(CPU, &labels).unwrap_or(0);
    let before = await_names(&agent, &[&pod]);
    sleep(Duration::from_secs(2));
    let after = agent.scrape();
    let ran = ran(&after) - ran(&before);
    println!("{ran} ns on CPUs in 2 s");
    assert!(ran > 300_000_000, "a third of a CPU for one that spins");
    await_limit(&agent, &labels, "0.3");
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn an_agent_is_replaced_within_its_grace_period_and_ready_only_when_it_measures() {
    let Some((node, old)) = node_with_agent() else {
        return;
    };
    let image = node.containerd.import_agent();
    let new = Agent::start(&node, &image, "agent-2", &Options::chart(&node));
    let mut unready = 0;
    let first = loop {
        // The port is open before the agent answers.
        match new.get_within("/readyz", Duration::from_millis(50)) {
            Some((200, _)) => break new.scrape(),
            _ => unready += 1,
        }
        assert!(unready < 1000 && new.running(), "{}", new.said());
        sleep(Duration::from_millis(10));
    };
    println!("not ready {unready} times");
    assert!(unready > 0, "it was ready before it measured");
    let state = [label("state", "attached")];
    let attached = first.series("stallscope_probe_status", &state);
    let attached = attached.filter(|(_, value)| *value == "1").count();
    assert_eq!(attached, 5, "{}", first.0);

    let begun = Instant::now();
    old.pod.stop(CONTAINER, Duration::from_secs(30));
    let took = begun.elapsed();
    println!("ended after {took:?}");
    assert!(took < Duration::from_secs(3));
    assert_eq!(
        old.pod.wait(CONTAINER, Duration::from_secs(1)),
        0,
        "{}",
        old.said()
    );
    assert_eq!(new.get("/readyz").map(|(status, _)| status), Some(200));
}
