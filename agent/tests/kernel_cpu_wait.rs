//! The split of CPU waits against the kernel's own `run_delay`.

mod kernel;

use std::{thread::sleep, time::Duration};

use kernel::{Group, Scrape, Task, agent, label};
use stallscope::agent::Config;

const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";

/// Shell script that spins on CPU 1.
const SPIN: &str = "taskset -p -c 1 $$ > /dev/null; while :; do :; done";

fn stop(tasks: &[Task]) {
    tasks.iter().for_each(Task::stop);
    // The last context switch of each task must be over before the test reads anything.
    sleep(Duration::from_millis(50));
}

struct Reading {
    run_delay: u64,
    on_cpu: u64,
    scrape: Scrape,
}

fn read(agent: &mut stallscope::agent::Agent, tasks: &[Task]) -> Reading {
    stop(tasks);
    Reading {
        run_delay: tasks.iter().map(Task::run_delay).sum(),
        on_cpu: tasks.iter().map(Task::on_cpu).sum(),
        scrape: Scrape::of(agent),
    }
}

/// Growth between two readings.
struct Grown {
    /// Wait by cause, in nanoseconds.
    causes: Vec<(&'static str, u64)>,
    /// CPU time of the tasks by the kernel, in nanoseconds.
    on_cpu: u64,
    /// Growth of the kernel's number while every task wanted to run. At the edges of the readings some tasks are
    /// already or still stopped.
    within: u64,
}

impl Grown {
    fn ns(&self, cause: &str) -> u64 {
        let mut causes = self.causes.iter();
        causes
            .find(|(name, _)| *name == cause)
            .expect("a known cause")
            .1
    }

    fn share(&self, cause: &str) -> f64 {
        let all: u64 = self.causes.iter().map(|(_, ns)| ns).sum();
        self.ns(cause) as f64 / all as f64
    }
}

/// Error of the kernel's numbers: the kernel updates them at ticks only, of which there are at least 100 per second.
const TICKS: u64 = 2 * 10_000_000;

/// Lets the tasks run between two readings, and checks that the causes sum to the kernel's `run_delay`. `truth` returns
/// a counter of the kernel.
fn grown(
    agent: &mut stallscope::agent::Agent,
    group: &Group,
    tasks: &[Task],
    seconds: u64,
    truth: &dyn Fn() -> u64,
) -> Grown {
    let before = read(agent, tasks);
    tasks.iter().for_each(Task::resume);
    let begin = truth();
    sleep(Duration::from_secs(seconds));
    let within = truth() - begin;
    let after = read(agent, tasks);
    let run_delay = after.run_delay - before.run_delay;
    let of = |scrape: &Scrape, more: &[String]| {
        let labels = [&[label("cgroup", &group.label)], more].concat();
        scrape.exact(STALL, &labels).unwrap_or(0)
    };
    let split = of(&after.scrape, &[]) - of(&before.scrape, &[]);
    let error = split.abs_diff(run_delay) as f64 / run_delay as f64;
    println!(
        "run_delay {run_delay} ns, split {split} ns, error {:.5} %",
        error * 100.0
    );
    assert!(
        error < 1e-4,
        "the causes sum to {split} ns, the kernel says {run_delay} ns"
    );
    let labels = [label("cgroup", &group.label)];
    let on_cpu = after.scrape.exact(CPU, &labels).unwrap_or(0)
        - before.scrape.exact(CPU, &labels).unwrap_or(0);
    let kernel = after.on_cpu - before.on_cpu;
    println!("on CPUs: {on_cpu} ns, the kernel says {kernel} ns");
    // The kernel's number leaves out interrupts and steal time.
    let ratio = on_cpu as f64 / kernel as f64;
    assert!((0.99..1.25).contains(&ratio), "{on_cpu} against {kernel}");
    let causes = stallscope_ebpf::Cause::ALL.into_iter().map(|cause| {
        let cause = cause.label();
        let more = [label("cause", cause)];
        (cause, of(&after.scrape, &more) - of(&before.scrape, &more))
    });
    let causes: Vec<(&'static str, u64)> = causes.collect();
    println!("{causes:?} ns; the kernel's other number grew by {within}");
    Grown {
        causes,
        on_cpu: kernel,
        within,
    }
}

fn on_cpu(tasks: &[Task]) -> u64 {
    tasks.iter().map(Task::on_cpu).sum()
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn the_causes_sum_to_run_delay_with_free_threads_beside_a_competitor() {
    let mut agent = agent(Config::default());
    let (group, other) = (Group::new("sum"), Group::new("competitor"));
    let tasks = group.spin(8);
    let competitors = other.spin(2);
    sleep(Duration::from_secs(1));
    let grown = grown(&mut agent, &group, &tasks, 6, &|| on_cpu(&competitors));
    assert!(grown.share("unattributed") < 0.005);
    assert!(grown.share("throttled") < 0.001, "there is no quota");
    // While one of the eight tasks runs, at most seven wait for it, on any run queue.
    assert!(grown.ns("own") <= 7 * (grown.on_cpu + grown.on_cpu / 4));
    // The balancer chooses their run queues, and everything else on the machine takes its share of the CPUs. A test
    // below checks that one group waits for the other, with a CPU for each.
    assert!(grown.ns("own") > 0 && grown.ns("neighbour") > 0);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn threads_of_one_cpu_wait_for_one_another_for_as_long_as_one_of_them_runs() {
    let mut agent = agent(Config::default());
    let group = Group::new("siblings");
    let tasks: Vec<_> = (0..3).map(|_| group.spawn(SPIN)).collect();
    sleep(Duration::from_secs(1));
    let grown = grown(&mut agent, &group, &tasks, 4, &|| on_cpu(&tasks));
    // Two of the three tasks wait at any time, even while others have the CPU.
    assert!(grown.ns("own") + 2 * TICKS >= 2 * grown.within);
    assert!(grown.ns("own") <= 2 * (grown.on_cpu + grown.on_cpu / 4));
    assert!(grown.share("unattributed") < 0.005);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn a_known_occupant_gets_its_known_share() {
    let mut agent = agent(Config::default());
    let (group, other) = (Group::new("victim"), Group::new("occupant"));
    // With one CPU and two groups of equal weight with one thread each, the victim waits only for the other.
    let tasks = [group.spawn(SPIN)];
    let occupant = [other.spawn(SPIN)];
    sleep(Duration::from_secs(1));
    let grown = grown(&mut agent, &group, &tasks, 4, &|| on_cpu(&occupant));
    assert!(
        grown.share("own") < 0.001,
        "it is alone in its cgroup: {}",
        grown.share("own")
    );
    assert!(grown.share("unattributed") < 0.005);
    // Anything else on this machine takes its share under its own name: another neighbour only adds to the wait.
    assert!(grown.within > 0, "the occupant ran");
    assert!(grown.ns("neighbour") + TICKS >= grown.within);
    assert!(grown.share("idle") + grown.share("throttled") < 0.01);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn throttled_time_is_told_from_waiting_and_the_sum_stays_exact() {
    let mut agent = agent(Config::default());
    let group = Group::new("quota");
    // The quota is so small that it runs out even on a busy machine.
    group.prefer();
    if group.dir.join("cpu.max").exists() {
        group.write("cpu.max", "10000 100000");
    } else {
        group.write("cpu.cfs_quota_us", "10000");
    }
    let tasks = group.spin(6);
    sleep(Duration::from_secs(1));
    let throttled = || group.throttled();
    let begin = throttled();
    let grown = grown(&mut agent, &group, &tasks, 5, &throttled);
    let around = throttled() - begin;
    assert!(grown.share("unattributed") < 0.005);
    assert!(
        grown.share("idle") < 0.02,
        "a throttled group is not a CPU that had yet to wake"
    );
    // The kernel counts the time for which a CPU's part of the group was throttled. In that time at least one of its
    // tasks could not run, and at most all of them. At each edge the reading may cut a throttle of up to a period.
    let cut = 2 * PERIOD_NS * cpus();
    assert!(grown.ns("throttled") + cut >= grown.within);
    assert!(grown.ns("throttled") <= 6 * (around + cut));
    if grown.within <= cut {
        println!(
            "the quota hardly ran out: others had the CPUs, and `throttled` is {:.3} of the wait",
            grown.share("throttled")
        );
    }
}

/// Period of the quota, in nanoseconds.
const PERIOD_NS: u64 = 100_000_000;

/// Returns the number of CPUs.
fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn slots_pass_from_cgroup_to_cgroup_and_nothing_is_lost_or_mixed() {
    let mut agent = agent(Config::default());
    let cgroups = 53;
    let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done";
    let before = Scrape::of(&mut agent);
    let (mut on_cpu, mut named) = (0_u64, 0_u64);
    for i in 0..cgroups {
        let group = Group::new(&format!("churn-{i}"));
        let task = group.spawn(&format!("kill -STOP $$; {spin}; kill -STOP $$"));
        wait_stopped(&task);
        // Until here the task spent part of its time in this test's own cgroup.
        let start = task.on_cpu();
        task.resume();
        sleep(Duration::from_millis(10));
        wait_stopped(&task);
        on_cpu += task.on_cpu() - start;
        // Every other cgroup is gone before the agent could look up its name.
        if i % 2 == 0 {
            let scrape = Scrape::of(&mut agent);
            let mine = scrape
                .exact(CPU, &[label("cgroup", &group.label)])
                .unwrap_or(0);
            assert!(mine > 0, "{} has no time of its own", group.label);
            // The agent's time includes steal time of the hypervisor.
            assert!(
                mine <= task.on_cpu() * 4 + 100_000_000,
                "{} got {mine} ns, its task ran {} ns: another's time is in it",
                group.label,
                task.on_cpu()
            );
            named += mine;
        }
    }
    let after = Scrape::of(&mut agent);
    let test = format!("/stallscope-test-{}-churn", std::process::id());
    let sum = |scrape: &Scrape, filter: &dyn Fn(&str) -> bool| -> u64 {
        scrape
            .0
            .lines()
            .filter(|line| line.starts_with(CPU) && filter(line))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(_, value)| kernel::nanos(value))
            .sum()
    };
    let ours = |line: &str| line.contains(&test) || line.contains("(removed)");
    let exported = sum(&after, &ours) - sum(&before, &ours);
    println!(
        "{on_cpu} ns of CPU time in {cgroups} cgroups, {exported} ns exported, {named} ns by name"
    );
    let ratio = exported as f64 / on_cpu as f64;
    // The sum includes the shells' start in their cgroups, and the short-lived cgroups of others.
    assert!((0.99..3.0).contains(&ratio), "{ratio}");
}

fn wait_stopped(task: &Task) {
    while task.state() != Some('T') {
        sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn cgroups_beyond_the_capacity_are_counted_together_and_the_tables_grow() {
    let config = Config {
        slots: Some(3),
        ..Config::default()
    };
    let mut agent = agent(config);
    let groups: Vec<_> = (0..5).map(|i| Group::new(&format!("many-{i}"))).collect();
    let tasks: Vec<_> = groups
        .iter()
        .map(|group| group.spawn("while :; do :; done"))
        .collect();
    sleep(Duration::from_secs(1));
    let scrape = Scrape::of(&mut agent);
    let other = scrape
        .exact(CPU, &[label("cgroup", "(other)")])
        .unwrap_or(0);
    assert!(
        other > 100_000_000,
        "five spinning cgroups beyond three slots: {other} ns"
    );
    agent.grow().expect("the tables grow");
    sleep(Duration::from_secs(1));
    let grown = Scrape::of(&mut agent);
    let capacity = grown
        .exact("stallscope_slots", &[label("state", "capacity")])
        .unwrap();
    assert!(capacity > 3, "{capacity}");
    assert!(
        grown.exact(CPU, &[label("cgroup", "(other)")]).unwrap() >= other,
        "a counter fell"
    );
    for group in &groups {
        let mine = grown
            .exact(CPU, &[label("cgroup", &group.label)])
            .unwrap_or(0);
        assert!(mine > 0, "{} has a slot of its own now", group.label);
    }
    drop(tasks);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn a_probe_that_cannot_attach_leaves_the_others_working() {
    let config = Config {
        disabled_hooks: vec!["tp_btf/sched_switch".to_owned()],
        ..Config::default()
    };
    let mut agent = agent(config);
    let status = agent.status();
    let wait = status
        .probes
        .iter()
        .find(|probe| probe.probe == "cpu_wait")
        .unwrap();
    assert_eq!(wait.state.label(), "unsupported", "{:?}", wait.state);
    assert!(
        wait.state.detail().contains("--disable-hook"),
        "{}",
        wait.state.detail()
    );
    let scrape = Scrape::of(&mut agent);
    assert!(
        !scrape.0.contains(STALL),
        "what is not measured is not exported"
    );
    assert!(
        scrape
            .0
            .contains("stallscope_probe_status{probe=\"cpu_wait\",state=\"unsupported\"")
    );
    let others = status
        .probes
        .iter()
        .filter(|probe| probe.state.label() == "attached")
        .count();
    assert!(others > 0, "the other probes work");
    assert!(agent.ready().is_ok());
}
