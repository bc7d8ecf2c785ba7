//! CPU throttling against the kernel's own `cpu.stat`.

mod kernel;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::{Group, Scrape, agent, label};
use stallscope::{agent::Config, probe::State};

/// CPU quota of the first test.
const QUOTA_NS: u64 = 20_000_000;

const PERIODS: &str = "stallscope_cpu_cfs_periods_total";
const THROTTLED_PERIODS: &str = "stallscope_cpu_cfs_throttled_periods_total";
const THROTTLED_SECONDS: &str = "stallscope_cpu_cfs_throttled_seconds_total";
const LIMIT: &str = "stallscope_cpu_limit_cores";

/// Returns `nr_periods`, `nr_throttled` and the throttled time in nanoseconds.
fn cpu_stat(group: &Group) -> [u64; 3] {
    let text = group.read("cpu.stat");
    let value = |key: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    };
    let throttled = value("throttled_time ").or_else(|| Some(value("throttled_usec ")? * 1000));
    [value("nr_periods "), value("nr_throttled "), throttled]
        .map(|value| value.expect("cpu.stat has the quota's numbers"))
}

/// Waits until the quota's timer is idle: after that no value of `cpu.stat` changes.
fn settle(group: &Group) -> [u64; 3] {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = cpu_stat(group);
    loop {
        sleep(Duration::from_millis(300));
        let now = cpu_stat(group);
        if now == last {
            return now;
        }
        assert!(Instant::now() < deadline, "cpu.stat does not settle");
        last = now;
    }
}

fn exported(scrape: &Scrape, labels: &[String]) -> [u64; 3] {
    [PERIODS, THROTTLED_PERIODS, THROTTLED_SECONDS].map(|family| {
        scrape
            .exact(family, labels)
            .unwrap_or_else(|| panic!("{family} is there"))
    })
}

#[test]
#[ignore = "needs root and BPF: makes cgroups with a CPU quota"]
fn totals_are_those_of_cpu_stat_and_the_wait_of_one_thread_is_the_throttled_time() {
    let limited = Group::new("quota");
    let free = Group::new("no-quota");
    limited.limit(Some(QUOTA_NS / 1000));
    limited.prefer();
    let mut agent = agent(Config::default());
    let labels = [label("cgroup", &limited.label)];
    // The kernel starts the quota's timer with the quota, and it runs for a few periods.
    let truth = settle(&limited);
    let scrape = Scrape::of(&mut agent);
    assert_eq!(exported(&scrape, &labels), truth);
    assert_eq!(truth[1..], [0, 0], "0 is not absent");

    let spinner = limited.spin(1);
    let busy = free.spin(1);
    let started = Instant::now();
    let deadline = started + Duration::from_secs(60);
    while cpu_stat(&limited)[1] < 20 && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
    }
    spinner[0].stop();
    busy[0].stop();
    let truth = settle(&limited);
    assert!(truth[1] >= 11, "the quota ran out: {truth:?}");
    let scrape = Scrape::of(&mut agent);
    assert_eq!(exported(&scrape, &labels), truth);
    assert_eq!(cpu_stat(&limited), truth, "nothing moved meanwhile");
    let cores = scrape.series(LIMIT, &labels).map(|(_, value)| value);
    assert_eq!(cores.collect::<Vec<_>>(), ["0.2"]);

    // The group is throttled from when its task is parked to when the quota is refilled, and for that time its one task
    // cannot run. The waits before and after are charged to the cause that has the CPU.
    let wait = |cause: &str| {
        let labels = [label("cgroup", &limited.label), label("cause", cause)];
        let waited = scrape.exact("stallscope_stall_seconds_total", &labels);
        waited.expect("the wait is split")
    };
    let (waited, throttled, passed) = (wait("throttled"), truth[2], started.elapsed());
    let others = wait("neighbour") + wait("host") + wait("kernel");
    println!(
        "cpu.stat {truth:?}, waited throttled {waited} ns, for others {others} ns, {passed:?} passed"
    );
    assert!(waited.abs_diff(throttled) * 100 <= 5 * throttled);
    assert!(u128::from(throttled) <= passed.as_nanos());

    let labels = [label("cgroup", &free.label)];
    for family in [PERIODS, THROTTLED_PERIODS, THROTTLED_SECONDS, LIMIT] {
        assert_eq!(scrape.series(family, &labels).count(), 0, "{family}");
    }
    let busy = scrape.exact("stallscope_cpu_seconds_total", &labels);
    assert!(busy.expect("the cgroup is known") > 0);

    let status = agent.status();
    let probe = status
        .probes
        .iter()
        .find(|probe| probe.probe == "cpu_throttling")
        .expect("the probe");
    for hook in &probe.hooks {
        println!(
            "{}: {} {}",
            hook.hook,
            hook.state.label(),
            hook.state.detail()
        );
        assert!(!matches!(hook.state, State::Failed { .. }));
    }
    let single = matches!(probe.hooks[1].state, State::Attached { .. });
    let labels = [label("cgroup", &limited.label)];
    let sum = scrape.exact("stallscope_cpu_throttle_seconds_sum", &labels);
    // v2 shows microseconds.
    assert_eq!(sum.map(|sum| sum / 1000), single.then_some(truth[2] / 1000));
}

#[test]
#[ignore = "needs root and BPF: makes cgroups with a CPU quota"]
fn a_quota_may_come_and_go_and_so_may_its_cgroup() {
    let group = Group::new("changes");
    let mut agent = agent(Config::default());
    let labels = [label("cgroup", &group.label)];
    assert_eq!(Scrape::of(&mut agent).exact(PERIODS, &labels), None);

    group.limit(Some(10_000));
    group.prefer();
    let spinner = group.spin(1);
    sleep(Duration::from_millis(10_100));
    spinner[0].stop();
    let truth = settle(&group);
    let scrape = Scrape::of(&mut agent);
    assert_eq!(exported(&scrape, &labels), truth);
    assert!(truth[1] >= 11, "{truth:?}");

    // Without a quota the totals stay as they are, and the limit disappears.
    group.limit(None);
    sleep(Duration::from_millis(10_100));
    let scrape = Scrape::of(&mut agent);
    assert_eq!(exported(&scrape, &labels), truth);
    assert_eq!(scrape.series(LIMIT, &labels).count(), 0);

    drop(spinner);
    drop(group);
    let scrape = Scrape::of(&mut agent);
    assert_eq!(exported(&scrape, &labels), truth, "counters do not fall");
}

#[test]
#[ignore = "needs root and BPF: makes a thousand cgroups"]
fn a_thousand_cgroups_without_a_quota_cost_little() {
    let parent = Group::new("many");
    let children: Vec<_> = (0..1000).map(|i| parent.dir.join(i.to_string())).collect();
    for child in &children {
        std::fs::create_dir(child).expect("a cgroup");
    }
    let mut agent = agent(Config::default());
    agent.tick();
    let mut ticks = Vec::new();
    for _ in 0..7 {
        sleep(Duration::from_secs(1));
        let before = cpu_time();
        agent.tick();
        ticks.push(cpu_time().saturating_sub(before));
    }
    println!("CPU time of each tick with 1000 cgroups: {ticks:?}");
    for child in &children {
        let _ = std::fs::remove_dir(child);
    }
    // One of the ticks reads all limits. The bound is generous: this is no benchmark.
    assert!(ticks.iter().sum::<Duration>() < Duration::from_millis(150));
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer to a valid structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}
