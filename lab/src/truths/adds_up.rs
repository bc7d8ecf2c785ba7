//! The causes of a group's wait sum to what the kernel says its tasks waited, whatever they did.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::Truth;
use crate::{
    Group, Report, Task, World,
    split::{EXACT, Span},
    task,
};

/// Tolerance where tasks are changed while they wait.
const CLOSE: f64 = 5e-3;

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "adds_up_pinned",
        about: "threads on one CPU beside competitors: the wait is all there, and each part has its occupant",
        both_hierarchies: false,
        run: pinned,
    },
    Truth {
        name: "adds_up_free",
        about: "more threads than CPUs, free to move, beside competitors",
        both_hierarchies: false,
        run: free,
    },
    Truth {
        name: "adds_up_throttled",
        about: "threads that a CPU quota stops, with and without competitors",
        both_hierarchies: true,
        run: throttled,
    },
    Truth {
        name: "adds_up_changed",
        about: "affinity, priority and cgroup changed in mid-wait",
        both_hierarchies: true,
        run: changed,
    },
    Truth {
        name: "adds_up_policies",
        about: "real-time, batch and idle tasks among normal ones",
        both_hierarchies: false,
        run: policies,
    },
    Truth {
        name: "adds_up_together",
        about: "everything at once",
        both_hierarchies: true,
        run: together,
    },
];

fn seconds(world: &World, guest: u64) -> Duration {
    // An emulated machine is slower, so that less happens in a second.
    Duration::from_secs(if world.guest { guest } else { guest / 2 })
}

fn pinned(world: &mut World, report: &mut Report) -> Result<()> {
    let (victim, occupant) = (Group::new("victim")?, Group::new("occupant")?);
    let cpu = *world.cpus().last().context("a CPU")?;
    // The victim has two tasks and the occupant one. The groups have equal weight, so each has the CPU
    // half of the time. While the occupant has it both tasks wait; while one of the two has it, the
    // other.
    let tasks = [victim.spin_on(cpu)?, victim.spin_on(cpu)?];
    let _occupant = occupant.spin_on(cpu)?;
    sleep(Duration::from_secs(1));
    let measured = Span::of(world, &[&victim], &tasks)?.during(|| sleep(seconds(world, 8)))?;
    measured.judge(report, "", EXACT);
    report.share("own", 0.23..=0.43, measured.share("own"));
    report.share("neighbour", 0.52..=0.77, measured.share("neighbour"));
    report.share("throttled", 0.0..=0.001, measured.share("throttled"));
    report.share("idle", 0.0..=0.01, measured.share("idle"));
    Ok(())
}

fn free(world: &mut World, report: &mut Report) -> Result<()> {
    let (group, other) = (Group::new("free")?, Group::new("competitor")?);
    let tasks = group.spin(world.cpus().len() * 5 / 2)?;
    let _competitors = other.spin(2)?;
    sleep(Duration::from_secs(1));
    let measured = Span::of(world, &[&group], &tasks)?.during(|| sleep(seconds(world, 10)))?;
    measured.judge(report, "", EXACT);
    report.share("throttled", 0.0..=0.001, measured.share("throttled"));
    report.share("own", 0.2..=1.0, measured.share("own"));
    Ok(())
}

fn throttled(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("quota")?;
    // An eighth of the CPUs, so that it runs out whoever competes.
    group.limit_cpu(world.cpus().len() as u64 * 12_500, 100_000)?;
    let tasks = group.spin(world.cpus().len() * 3 / 2)?;
    sleep(Duration::from_secs(1));
    let other = Group::new("competitor")?;
    for (when, competitors) in [("alone", 0), ("beside others", world.cpus().len() / 2)] {
        let _competitors = other.spin(competitors)?;
        let groups = [&group];
        let span = Span::of(world, &groups, &tasks)?;
        // Stopping takes a while, throttled: that is no part of the span.
        let before = group.throttled()?;
        let measured = span.during(|| sleep(seconds(world, 8)))?;
        let throttled = group.throttled()? - before;
        measured.judge(report, &format!("{when}: "), EXACT);
        // A throttled task waits: at least one thread for each CPU on which the group is throttled, at
        // most all.
        report.between(
            format!("{when}: wait for the quota in ns"),
            throttled / 10 * 9,
            throttled * tasks.len() as u64,
            measured.cause("throttled"),
        );
        report.check(
            format!("{when}: the kernel throttled, in ns"),
            "a second or more",
            throttled,
            throttled > 1_000_000_000,
        );
    }
    Ok(())
}

fn changed(world: &mut World, report: &mut Report) -> Result<()> {
    let groups = [Group::new("one")?, Group::new("two")?];
    let tasks = groups[0].spin(world.cpus().len() * 2)?;
    sleep(Duration::from_secs(1));
    let both = [&groups[0], &groups[1]];
    let span = Span::of(world, &both, &tasks)?;
    let measured = span.during(|| change(world, &groups, &tasks, seconds(world, 8)))?;
    measured.judge(report, "", CLOSE);
    Ok(())
}

/// Changes one thing of one task after the other.
fn change(world: &World, groups: &[Group; 2], tasks: &[Task], time: Duration) {
    let cpus = world.cpus();
    let end = std::time::Instant::now() + time;
    for turn in 0.. {
        let task = &tasks[turn * 7 % tasks.len()];
        let done = match turn % 4 {
            0 => task::pin(task.pid(), &[cpus[turn * 5 % cpus.len()]]),
            1 => task::nice(task.pid(), i32::try_from(turn * 3 % 20).unwrap_or(0)),
            2 => groups[turn / 4 % 2].take(task.pid()),
            _ => task::pin(task.pid(), &cpus),
        };
        if let Err(error) = done {
            println!("    a change was refused: {error:#}");
        }
        sleep(Duration::from_millis(11));
        if std::time::Instant::now() > end {
            return;
        }
    }
}

fn policies(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("policies")?;
    let tasks = mixed(world, &group, report)?;
    sleep(Duration::from_secs(1));
    let measured = Span::of(world, &[&group], &tasks)?.during(|| sleep(seconds(world, 8)))?;
    measured.judge(report, "", CLOSE);
    Ok(())
}

/// Tasks of each policy, as many as make every CPU contended.
fn mixed(world: &World, group: &Group, report: &mut Report) -> Result<Vec<Task>> {
    let mut tasks = group.spin(world.cpus().len())?;
    for policy in [libc::SCHED_BATCH, libc::SCHED_IDLE] {
        for _ in 0..world.cpus().len() / 2 {
            tasks.push(group.spawn(move || {
                task::schedule(0, policy, 0)?;
                task::spin()
            })?);
        }
    }
    // v1 gives a group no real-time bandwidth unless told, and the root may have none to give.
    if !group.unified() {
        let _ = group.write("cpu.rt_runtime_us", "400000");
    }
    let probe = group.spawn(|| task::schedule(0, libc::SCHED_FIFO, 1))?;
    if let Err(error) = probe.wait() {
        report.leave_out(format!("real-time tasks are refused here: {error:#}"));
        return Ok(tasks);
    }
    for priority in 1..=3 {
        tasks.push(group.spawn(move || {
            task::schedule(0, libc::SCHED_FIFO, priority)?;
            loop {
                task::spin_for(Duration::from_millis(7));
                sleep(Duration::from_millis(13));
            }
        })?);
    }
    Ok(tasks)
}

fn together(world: &mut World, report: &mut Report) -> Result<()> {
    let groups = [Group::new("one")?, Group::new("two")?];
    groups[1].limit_cpu(150_000, 100_000)?;
    let mut tasks = mixed(world, &groups[0], report)?;
    tasks.extend(groups[1].spin(world.cpus().len())?);
    let other = Group::new("competitor")?;
    let _competitors = other.spin(2)?;
    sleep(Duration::from_secs(1));
    let both = [&groups[0], &groups[1]];
    let normal = tasks.len() - world.cpus().len();
    let span = Span::of(world, &both, &tasks)?;
    let before = groups[1].throttled()?;
    let measured = span.during(|| change(world, &groups, &tasks[normal..], seconds(world, 10)))?;
    let throttled = groups[1].throttled()? - before;
    measured.judge(report, "", CLOSE);
    // A task that is moved into the other group while it waits is no longer throttled.
    report.between(
        "wait for the quota in ns",
        throttled / 2,
        throttled * tasks.len() as u64,
        measured.cause("throttled"),
    );
    Ok(())
}
