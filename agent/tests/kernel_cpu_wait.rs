//! The wait split against the kernel's own `run_delay`.

mod kernel;

use std::{thread::sleep, time::Duration};

use kernel::{Group, Scrape, Task, agent, label};
use stallscope::agent::Config;

const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";

fn stop(tasks: &[Task]) {
    tasks.iter().for_each(Task::stop);
    // The last switch of each has to be over before anything is read.
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

/// Lets the tasks run between two readings and returns by how much each cause has grown, after
/// checking that the causes sum to what the kernel says.
fn grown(
    agent: &mut stallscope::agent::Agent,
    group: &Group,
    tasks: &[Task],
    seconds: u64,
) -> impl Fn(&str) -> f64 {
    let before = read(agent, tasks);
    tasks.iter().for_each(Task::resume);
    sleep(Duration::from_secs(seconds));
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
    // The kernel's number leaves out interrupts and what the hypervisor took.
    let ratio = on_cpu as f64 / kernel as f64;
    assert!((0.99..1.25).contains(&ratio), "{on_cpu} against {kernel}");
    let shares: Vec<(&'static str, f64)> = stallscope_ebpf::Cause::ALL
        .into_iter()
        .map(|cause| {
            let cause = cause.label();
            let more = [label("cause", cause)];
            let ns = of(&after.scrape, &more) - of(&before.scrape, &more);
            (cause, ns as f64 / split as f64)
        })
        .collect();
    println!("{shares:?}");
    move |cause| {
        shares
            .iter()
            .find(|(name, _)| *name == cause)
            .expect("a known cause")
            .1
    }
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn the_causes_sum_to_run_delay_with_free_threads_beside_a_competitor() {
    let mut agent = agent(Config::default());
    let (group, other) = (Group::new("sum"), Group::new("competitor"));
    let tasks = group.spin(8);
    let _competitors = other.spin(2);
    sleep(Duration::from_secs(1));
    let share = grown(&mut agent, &group, &tasks, 6);
    assert!(share("unattributed") < 0.005);
    assert!(
        share("neighbour") > 0.05,
        "the competitor held a CPU for a part of the time"
    );
    assert!(
        share("own") > 0.05,
        "eight threads on two CPUs wait for each other"
    );
    assert!(share("throttled") < 0.001, "there is no quota");
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn a_known_occupant_gets_its_known_share() {
    let mut agent = agent(Config::default());
    let (group, other) = (Group::new("victim"), Group::new("occupant"));
    // One CPU, two groups of equal weight, one thread each: the victim waits for the other alone.
    let spin = "taskset -p -c 1 $$ > /dev/null; while :; do :; done";
    let tasks = [group.spawn(spin)];
    let _occupant = other.spawn(spin);
    sleep(Duration::from_secs(1));
    let share = grown(&mut agent, &group, &tasks, 4);
    assert!(
        share("own") < 0.001,
        "it is alone in its cgroup: {}",
        share("own")
    );
    assert!(share("unattributed") < 0.005);
    // Whatever else runs on this machine takes its part, under its own name.
    assert!(share("neighbour") > 0.3, "{}", share("neighbour"));
    assert!(share("idle") + share("throttled") < 0.01);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and loads the CPUs"]
fn throttled_time_is_told_from_waiting_and_the_sum_stays_exact() {
    let mut agent = agent(Config::default());
    let group = Group::new("quota");
    // So little that it runs out on a machine that does other things as well.
    if group.dir.join("cpu.max").exists() {
        group.write("cpu.max", "10000 100000");
    } else {
        group.write("cpu.cfs_quota_us", "10000");
    }
    let tasks = group.spin(6);
    sleep(Duration::from_secs(1));
    let share = grown(&mut agent, &group, &tasks, 5);
    assert!(share("throttled") > 0.3, "{}", share("throttled"));
    assert!(share("unattributed") < 0.005);
    assert!(
        share("idle") < 0.02,
        "a throttled group is not a CPU that had yet to wake"
    );
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
        // Up to here it was partly in this test's own cgroup.
        let start = task.on_cpu();
        task.resume();
        sleep(Duration::from_millis(10));
        wait_stopped(&task);
        on_cpu += task.on_cpu() - start;
        // Every other one is gone before anybody could ask for its name.
        if i % 2 == 0 {
            let scrape = Scrape::of(&mut agent);
            let mine = scrape
                .exact(CPU, &[label("cgroup", &group.label)])
                .unwrap_or(0);
            assert!(mine > 0, "{} has no time of its own", group.label);
            // On a machine whose hypervisor takes time away, that time is in it.
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
    // The shells' start in their cgroups comes on top, and what others' short-lived cgroups did.
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
