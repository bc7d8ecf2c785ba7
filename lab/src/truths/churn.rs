//! Many cgroups come and go: none inherits the counts of another, and nothing is lost with one.

use std::{
    fs,
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Truth;
use crate::{
    Group, Report, Scrape, Task, Tasks, World, group, label,
    split::{EXACT, PHANTOM, STALL, Span},
    task::{self, PATIENCE},
};

const TOTAL: &str = "stallscope_task_migrations_total";

/// Number of cgroups, and number after which one is looked at while it exists; both are prime.
const GROUPS: u64 = 2003;
const LOOK: u64 = 53;

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "cgroups_come_and_go",
        about: "2,003 cgroups with a known number of migrations each, made and removed while counting",
        both_hierarchies: false,
        run,
    },
    Truth {
        name: "controller_switched_off_and_on",
        about: "live cgroups whose cpu controller goes and comes again go on counting",
        both_hierarchies: false,
        run: switched,
    },
];

/// The kernel makes a new css for each cgroup when its controller is enabled again, and the cells of the new css start
/// afresh. Removing the first cgroup shifts the slots, so that each css gets one that was another cgroup's.
fn switched(world: &mut World, report: &mut Report) -> Result<()> {
    let parent = Group::new("switched")?;
    if !parent.unified() {
        report.leave_out("on v1 no controller goes while there are cgroups");
        return Ok(());
    }
    parent.delegate("+cpu")?;
    let removed = parent.child("removed")?;
    let groups = [
        parent.child("one")?,
        parent.child("two")?,
        parent.child("three")?,
    ];
    let mut tasks = Vec::new();
    for group in &groups {
        tasks.extend(group.spin(world.cpus().len() / 2 + 1)?);
    }
    judge_each(world, report, "before: ", &groups, &tasks)?;
    drop(removed);
    for (turn, pause) in [("once", 0), ("twice", 2)] {
        parent.write("cgroup.subtree_control", "-cpu")?;
        // Slots are free again a moment later.
        sleep(Duration::from_secs(pause));
        parent.write("cgroup.subtree_control", "+cpu")?;
        // Counts between two readings belong to nobody while cells of a cgroup start afresh. So each CPU has to run
        // every cgroup, and the agent has to read all of that, before the next measurement.
        tasks.resume_all();
        for group in tasks.chunks(tasks.len() / groups.len()) {
            visit(&group[0], &world.cpus())?;
        }
        sleep(Duration::from_secs(5));
        judge_each(
            world,
            report,
            &format!("switched {turn}: "),
            &groups,
            &tasks,
        )?;
    }
    drop(tasks);
    Ok(())
}

/// Moves a task through all CPUs and waits on each until it has run there.
fn visit(task: &Task, cpus: &[usize]) -> Result<()> {
    for cpu in cpus {
        task::pin(task.pid(), &[*cpu])?;
        // It is there now, and its time on CPUs grows when it has run there.
        let (before, deadline) = (task.on_cpu()?, Instant::now() + PATIENCE);
        while task.on_cpu()? == before {
            ensure!(Instant::now() < deadline, "a task gets no CPU");
            sleep(Duration::from_millis(10));
        }
    }
    task::pin(task.pid(), cpus)
}

/// Lets the tasks run and judges the wait of all groups together and of each one. Each group owns a chunk of `tasks` of
/// the same length.
fn judge_each(
    world: &World,
    report: &mut Report,
    when: &str,
    groups: &[Group],
    tasks: &[Task],
) -> Result<()> {
    let all: Vec<&Group> = groups.iter().collect();
    let of_each = || -> Result<Vec<u64>> {
        let each = tasks.chunks(tasks.len() / groups.len());
        each.map(Tasks::run_delays).collect()
    };
    let span = Span::of(world, &all, tasks)?;
    let before = of_each()?;
    let measured = span.during(|| sleep(Duration::from_secs(5)))?;
    let after = of_each()?;
    measured.judge(report, when, EXACT);
    for (group, (after, before)) in groups.iter().zip(after.into_iter().zip(before)) {
        let mine = [label("cgroup", &group.label)];
        let sleeps = measured.grown(PHANTOM, &mine)?;
        report.within(
            format!("{when}wait in {} in ns", group.label),
            (after - before).saturating_sub(sleeps),
            measured.grown(STALL, &mine)?,
            EXACT,
        );
    }
    Ok(())
}

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let cpus = world.cpus();
    let [first, last] = [cpus.first(), cpus.last()].map(|cpu| cpu.copied().unwrap_or(0));
    let before = ours(&world.scrape()?)?;
    let (mut made, mut wrong, mut looked) = (0, Vec::new(), 0);
    for nth in 0..GROUPS {
        let moves = 1 + nth * 7 % 5;
        let group = Group::new(&format!("churn-{nth}"))?;
        hop(&group, &root(&group)?, moves, [first, last])?;
        made += moves;
        if nth % LOOK == 0 {
            println!("    {nth} of {GROUPS} cgroups came and went");
            looked += 1;
            let labels = [label("cgroup", &group.label)];
            let counted = world.scrape()?.sum(TOTAL, &labels)?;
            if counted != moves {
                wrong.push(format!("{nth}: {moves} made, {counted} counted"));
            }
        }
    }
    report.check(
        "cgroups with exactly their own migrations",
        format!("{looked} of {looked}"),
        format!("{} of {looked} {}", looked - wrong.len(), wrong.join(", ")),
        wrong.is_empty(),
    );
    let counted = ours(&world.scrape()?)? - before;
    if world.guest {
        report.equal("migrations in all of them together", made, counted);
    } else {
        // Cgroups of others may come and go here as well.
        let what = "migrations in all of them together, and in others' that ended";
        report.between(what, made, made * 2, counted);
    }
    Ok(())
}

/// Migrations in cgroups of the lab's own, and in removed ones: a cgroup that ended keeps its name for a while, and is
/// then counted there.
fn ours(scrape: &Scrape) -> Result<u64> {
    let mut sum = 0;
    for (series, value) in scrape.series(TOTAL, &[]) {
        if series.contains(group::PREFIX) || series.contains("(removed)") {
            sum += value.parse::<u64>().context("a count")?;
        }
    }
    Ok(sum)
}

/// The file that takes a process out of every cgroup.
fn root(group: &Group) -> Result<fs::File> {
    let folder = group.dir.parent().context("a cgroup has a parent")?;
    let path = folder.join("cgroup.procs");
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Runs a process that enters the group, is moved so often, and leaves the group again before it ends.
fn hop(group: &Group, root: &fs::File, moves: u64, cpus: [usize; 2]) -> Result<()> {
    let procs = group.entrance()?;
    let work = || -> Result<()> {
        task::pin(0, &[cpus[0]])?;
        (&procs).write_all(b"0")?;
        for nth in 1..=moves {
            task::pin(0, &[cpus[(nth % 2) as usize]])?;
        }
        let mut root = root;
        root.write_all(b"0")?;
        Ok(())
    };
    task::fork(work)?.wait()
}
