//! The cost of CPU quotas, against `cpu.stat` of the cgroup whose quota it is.

mod quota;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Truth;
use crate::{Group, Report, Task, Tasks as _, World, agent_process::Served, label, task::PATIENCE};
use quota::{Quota, Span};

/// Tolerance of a single thread's wait for its quota against the throttled time of its group.
const ALONE: f64 = 1e-3;
/// First kernel that lets a task go on until it returns to user space, each at a time of its own,
/// and its tolerance.
const DEFERRED: (u32, u32) = (6, 18);
const ALONE_DEFERRED: f64 = 1e-2;
const STALL: &str = "stallscope_stall_seconds_total";

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "throttling_of_one_thread",
        about: "single throttles add up to cpu.stat, and a lone thread's throttled wait is that time",
        both_hierarchies: true,
        run: one,
    },
    Truth {
        name: "throttling_of_many_threads",
        about: "more threads than CPUs under a quota: one throttle a CPU, all in cpu.stat",
        both_hierarchies: true,
        run: many,
    },
    Truth {
        name: "throttling_by_a_parent",
        about: "a quota above the container: the throttle is the quota's, the wait the container's",
        both_hierarchies: true,
        run: parent,
    },
    Truth {
        name: "throttling_nested",
        about: "quotas inside a quota: each throttle belongs to the one that ran out",
        both_hierarchies: true,
        run: nested,
    },
    Truth {
        name: "throttling_before_the_start",
        about: "a group that was throttled before the agent came: its next wait is for who has the CPU",
        both_hierarchies: true,
        run: before_the_start,
    },
];

/// Tolerance of a lone thread's wait for its quota, as a share of its group's throttled time.
fn near(world: &World) -> f64 {
    if world.version() < DEFERRED {
        ALONE
    } else {
        ALONE_DEFERRED
    }
}

fn one(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("one")?;
    let quota = Quota {
        micros: 20_000,
        period: 100_000,
    };
    let cpu = *world.cpus().last().context("a CPU")?;
    // The task has no quota yet: one could run out on the CPU that it comes from.
    let task = group.stopped_on(cpu)?;
    let span = Span::of(world, &group, quota)?;
    task.resume();
    span.until(31)?;
    // A task that is stopped with its quota just used up would be throttled without waiting.
    group.unlimit_cpu()?;
    task.stop()?;
    let measured = span.end()?;
    measured.judge(report, "one thread");
    measured.judge_number(report, "one thread", 1, true);
    let waited = measured.grown(STALL, &[label("cause", "throttled")])?;
    let ns = measured.truth.ns;
    report.within("throttled wait in ns", ns, waited, near(world));
    Ok(())
}

fn many(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("many")?;
    let cpus = world.cpus().len() as u64;
    let quota = Quota {
        micros: cpus * 10_000,
        period: 50_000,
    };
    let span = Span::of(world, &group, quota)?;
    let tasks = group.spin(world.cpus().len() * 3 / 2)?;
    span.until(41)?;
    // Without a quota every throttle ends at once.
    group.unlimit_cpu()?;
    tasks.stop_all()?;
    let measured = span.end()?;
    measured.judge(report, "many threads");
    measured.judge_number(report, "many threads", cpus, true);
    Ok(())
}

fn parent(world: &mut World, report: &mut Report) -> Result<()> {
    let pod = Group::new("pod")?;
    pod.delegate("+cpu")?;
    let container = pod.child("container")?;
    let quota = Quota {
        micros: 30_000,
        period: 100_000,
    };
    let cpu = *world.cpus().last().context("a CPU")?;
    let task = container.stopped_on(cpu)?;
    let (span, inner) = (
        Span::of(world, &pod, quota)?,
        Span::unlimited(world, &container)?,
    );
    task.resume();
    span.until(29)?;
    pod.unlimit_cpu()?;
    task.stop()?;
    let (measured, inner) = (span.end()?, inner.end()?);
    measured.judge(report, "the pod");
    inner.judge_absent(report, "the container");
    let cause = [label("cause", "throttled")];
    let waited = inner.grown(STALL, &cause)?;
    let ns = measured.truth.ns;
    report.within("the container's wait in ns", ns, waited, near(world));
    report.equal(
        "the pod's own wait in ns",
        0,
        measured.grown(STALL, &cause)?,
    );
    Ok(())
}

/// Address of the agent of this truth.
const LISTEN: &str = "127.0.0.1:9756";

fn before_the_start(world: &mut World, report: &mut Report) -> Result<()> {
    let (group, other) = (Group::new("before")?, Group::new("beside")?);
    let cpu = *world.cpus().last().context("a CPU")?;
    let task = group.spin_on(cpu)?;
    group.limit_cpu(10_000, 100_000)?;
    let (throttled, deadline) = (group.throttled()?, Instant::now() + PATIENCE);
    // Ten times as long as the wait below.
    while group.throttled()? - throttled < 10_000_000_000 {
        ensure!(Instant::now() < deadline, "its quota does not run out");
        sleep(Duration::from_millis(100));
    }
    group.unlimit_cpu()?;
    task.stop()?;
    let log = std::env::temp_dir().join(format!("stallscope-before-{}.log", std::process::id()));
    let agent = Served::start(&world.program, LISTEN, &log, &[])?;
    let labels = [label("cgroup", &group.label)];
    let run_delay = task.run_delay()?;
    let _competitor = other.spin_on(cpu)?;
    task.resume();
    let deadline = Instant::now() + PATIENCE;
    // From here on it waits for the competitor, beside which it has half of the CPU.
    while task.run_delay()? - run_delay < 1_000_000_000 {
        ensure!(
            Instant::now() < deadline,
            "it does not wait for its competitor"
        );
        sleep(Duration::from_millis(100));
    }
    task.stop()?;
    let waited = task.run_delay()? - run_delay;
    let scrape = agent.scrape()?;
    report.equal("wait in ns", waited, scrape.sum(STALL, &labels)?);
    let throttled = [&labels[..], &[label("cause", "throttled")]].concat();
    report.equal("wait for a quota in ns", 0, scrape.sum(STALL, &throttled)?);
    drop(agent);
    std::fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))
}

fn nested(world: &mut World, report: &mut Report) -> Result<()> {
    let period = 100_000;
    let pod = Group::new("outer")?;
    pod.limit_cpu(60_000, period)?;
    pod.delegate("+cpu")?;
    let first = pod.child("first")?;
    first.limit_cpu(10_000, period)?;
    let second = pod.child("second")?;
    // No more than the pod has: v1 refuses more.
    second.limit_cpu(60_000, period)?;
    let cpus = world.cpus();
    let of = |micros| Quota { micros, period };
    // The first quota runs out first. The second group has the rest of the pod's quota, which is
    // less than its own.
    let spans = [
        ("the pod", Span::of(world, &pod, of(60_000))?),
        ("the first", Span::of(world, &first, of(10_000))?),
        ("the second", Span::of(world, &second, of(60_000))?),
    ];
    let tasks: Vec<Task> = vec![
        first.spin_on(cpus[0])?,
        second.spin_on(cpus[cpus.len() - 1])?,
    ];
    spans[0].1.until(37)?;
    tasks.stop_all()?;
    for (what, span) in spans {
        let measured = span.end()?;
        measured.judge(report, what);
        measured.judge_number(report, what, cpus.len() as u64, false);
        let least = if what == "the second" { 0 } else { 29 };
        report.between(
            format!("{what}: periods in which its quota ran out"),
            least,
            u64::MAX,
            measured.truth.throttled_periods,
        );
    }
    Ok(())
}
