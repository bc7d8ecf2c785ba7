//! Growth of the maps: larger tables replace smaller ones while everything is counted.

mod kernel;

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use kernel::{Group, Scrape, Task, agent, label};
use stallscope::{
    agent::{Agent, Config},
    exposition::Format,
};

const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";

/// Returns every sample of a scrape that may not decrease, by name and labels.
fn counters(agent: &mut Agent) -> BTreeMap<String, f64> {
    let text = agent.collect(Format::Text).expect("a scrape works");
    let text = String::from_utf8(text.to_vec()).expect("an exposition is UTF-8");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let counters = samples.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let counts = ["_total", "_count", "_sum", "_bucket"];
        let value = value.parse().expect("a number");
        (counts.iter().any(|end| name.ends_with(end))).then(|| (series.to_owned(), value))
    });
    counters.collect()
}

/// Lists the samples that decreased or vanished between two scrapes.
fn fallen(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    let fallen = before.iter().filter_map(|(series, value)| {
        let now = after.get(series);
        now.is_none_or(|now| now < value)
            .then(|| format!("{series}: {value}, then {now:?}"))
    });
    fallen.collect()
}

fn capacity(agent: &mut Agent) -> u64 {
    Scrape::of(agent)
        .exact("stallscope_slots", &[label("state", "capacity")])
        .expect("the capacity is exported")
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn no_counter_falls_or_vanishes_while_the_tables_grow() {
    let mut agent = agent(Config {
        slots: Some(3),
        ..Config::default()
    });
    let groups: Vec<_> = (0..5).map(|i| Group::new(&format!("grow-{i}"))).collect();
    // This load produces CPU time, waits, faults and migrations.
    let busy = "while :; do head -c 1000000 /dev/zero | tail -c 1 > /dev/null; done";
    let _tasks: Vec<_> = groups.iter().map(|group| group.spawn(busy)).collect();
    // The agent ticks several times, so that it has sampled the programs' own cost.
    for _ in 0..4 {
        agent.tick();
        sleep(Duration::from_millis(300));
    }
    let mut scrapes = vec![counters(&mut agent), counters(&mut agent)];
    agent.grow().expect("the tables grow");
    scrapes.push(counters(&mut agent));
    sleep(Duration::from_millis(300));
    scrapes.push(counters(&mut agent));
    for _ in 0..4 {
        agent.tick();
        sleep(Duration::from_millis(300));
    }
    scrapes.push(counters(&mut agent));
    assert!(capacity(&mut agent) > 3);
    let families: std::collections::BTreeSet<_> = (scrapes[0].keys())
        .filter_map(|series| series.split('{').next())
        .collect();
    println!("{} series of {families:?}", scrapes[0].len());
    for family in [
        CPU,
        STALL,
        "stallscope_hidden_switches_total",
        "stallscope_program_runs_total",
    ] {
        assert!(families.contains(family), "{family} is looked at");
    }
    for pair in scrapes.windows(2) {
        assert_eq!(fallen(&pair[0], &pair[1]), Vec::<String>::new());
    }
    for group in &groups {
        let cpu = scrapes.last().and_then(|last| {
            let mine = |series: &&String| series.starts_with(CPU) && series.contains(&group.label);
            last.keys().find(mine)
        });
        assert!(cpu.is_some(), "{} has a slot of its own now", group.label);
    }
}

/// On any machine that runs tests a slot below this is free. The cgroups made after it get slots beyond.
const SLOTS: u32 = 400;

fn stop(tasks: &[Task]) {
    tasks.iter().for_each(Task::stop);
    // The last context switch of each task must be over before the test reads anything.
    sleep(Duration::from_millis(50));
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn what_tasks_wait_while_the_tables_grow_is_their_run_delay() {
    let mut agent = agent(Config {
        slots: Some(SLOTS),
        ..Config::default()
    });
    let group = Group::new("grow-waiting");
    let tasks = group.spin(6);
    sleep(Duration::from_millis(500));
    let exported = |agent: &mut Agent, family: &str| {
        Scrape::of(agent).exact(family, &[label("cgroup", &group.label)])
    };
    stop(&tasks);
    let before = exported(&mut agent, STALL).expect("the group has a slot of its own");
    let cpu = exported(&mut agent, CPU).expect("time on CPUs");
    let run_delay: u64 = tasks.iter().map(Task::run_delay).sum();
    let on_cpu: u64 = tasks.iter().map(Task::on_cpu).sum();
    tasks.iter().for_each(Task::resume);
    // There are more cgroups than slots, with a task in each of the last ones.
    let many: Vec<_> = (0..SLOTS)
        .map(|i| Group::new(&format!("grow-many-{i}")))
        .collect();
    let _others: Vec<_> = many[many.len() - 8..]
        .iter()
        .map(|g| g.spawn("sleep 100"))
        .collect();
    sleep(Duration::from_secs(1));
    Scrape::of(&mut agent);
    agent.grow().expect("the tables grow");
    sleep(Duration::from_secs(1));
    stop(&tasks);
    let split = exported(&mut agent, STALL).expect("the group is there") - before;
    let cpu = exported(&mut agent, CPU).expect("time on CPUs") - cpu;
    let run_delay = tasks.iter().map(Task::run_delay).sum::<u64>() - run_delay;
    let on_cpu = tasks.iter().map(Task::on_cpu).sum::<u64>() - on_cpu;
    println!(
        "run_delay {run_delay} ns, the causes {split} ns; on CPUs {on_cpu} ns, exported {cpu} ns"
    );
    assert!(capacity(&mut agent) > u64::from(SLOTS), "they have grown");
    assert_eq!(split, run_delay, "the causes sum to what the kernel says");
    // The kernel's number leaves out interrupts and steal time.
    let ratio = cpu as f64 / on_cpu as f64;
    assert!((0.99..1.25).contains(&ratio), "{cpu} against {on_cpu}");
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes many cgroups"]
fn cells_that_change_hands_give_nobody_more_than_there_was() {
    // The first probe already counts while the others are loaded.
    let began = std::time::Instant::now();
    let mut agent = agent(Config::default());
    let cpus = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("CPUs");
    let highest: u64 = (cpus.trim().rsplit(['-', ',']).next())
        .and_then(|number| number.parse().ok())
        .expect("a list of CPUs");
    // This cgroup counts much, and others take over its cells once it is gone.
    let rich = Group::new("rich");
    let task = rich.spin(2);
    sleep(Duration::from_secs(2));
    let mut before = counters(&mut agent);
    drop(task);
    drop(rich);
    for round in 0..200 {
        let group = Group::new(&format!("heir-{round}"));
        group.run(|| Ok(()), || Ok(()));
        let label = group.label.clone();
        drop(group);
        agent.tick();
        let after = counters(&mut agent);
        assert_eq!(fallen(&before, &after), Vec::<String>::new());
        let cpu = |mine: &dyn Fn(&str) -> bool| -> f64 {
            let of = |(series, _): &(&String, &f64)| series.starts_with(CPU) && mine(series);
            after.iter().filter(of).map(|(_, value)| value).sum()
        };
        let most = began.elapsed().as_secs_f64() * (highest + 1) as f64;
        let all = cpu(&|_| true);
        assert!(
            all <= most,
            "{all} s on {} CPUs in {most} CPU-seconds",
            highest + 1
        );
        let heir = cpu(&|series| series.contains(&label));
        assert!(heir < 1.0, "{label} has inherited {heir} s");
        before = after;
    }
}
