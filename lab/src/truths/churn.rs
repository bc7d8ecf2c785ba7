//! Many cgroups come and go: none inherits the counts of another, and nothing is lost with one.

use std::{fs, io::Write as _, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};

use super::Truth;
use crate::{
    Group, Report, Scrape, Tasks as _, World, group, label,
    split::{EXACT, Span},
    task,
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

/// The kernel makes the css of each cgroup anew when its controller comes again: its cells start afresh, in slots that
/// may be another's.
fn switched(world: &mut World, report: &mut Report) -> Result<()> {
    let parent = Group::new("switched")?;
    if !parent.unified() {
        report.leave_out("on v1 no controller goes while there are cgroups");
        return Ok(());
    }
    parent.delegate("+cpu")?;
    let groups = [
        parent.child("one")?,
        parent.child("two")?,
        parent.child("three")?,
    ];
    let mut tasks = Vec::new();
    for group in &groups {
        tasks.extend(group.spin(world.cpus().len() / 2 + 1)?);
    }
    let all = groups.each_ref();
    let before = Span::of(world, &all, &tasks)?.during(|| sleep(Duration::from_secs(10)))?;
    before.judge(report, "before: ", EXACT);
    for turn in ["once", "twice"] {
        parent.write("cgroup.subtree_control", "-cpu")?;
        parent.write("cgroup.subtree_control", "+cpu")?;
        // Counts between two readings belong to nobody while cells of a cgroup start afresh. So each CPU has to run
        // every cgroup, and the agent has to read all of that, before the next measurement.
        tasks.resume_all();
        sleep(Duration::from_secs(5));
        let span = Span::of(world, &all, &tasks)?;
        let after = span.during(|| sleep(Duration::from_secs(5)))?;
        after.judge(report, &format!("switched {turn}: "), EXACT);
    }
    drop(tasks);
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
