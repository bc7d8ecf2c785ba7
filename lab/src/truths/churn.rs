//! Many cgroups come and go: none inherits what another counted, and nothing is lost with one.

use std::{fs, io::Write as _};

use anyhow::{Context as _, Result};

use super::Truth;
use crate::{Group, Report, World, label, task};

const TOTAL: &str = "stallscope_task_migrations_total";

/// Cgroups that are made; a prime, as is every how many one is looked at while it exists.
const GROUPS: u64 = 2003;
const LOOK: u64 = 53;

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "cgroups_come_and_go",
    about: "2,003 cgroups with a known number of migrations each, made and removed while counting",
    run,
}];

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let cpus = world.cpus();
    let [first, last] = [cpus.first(), cpus.last()].map(|cpu| cpu.copied().unwrap_or(0));
    let parent = Group::new("churn")?;
    let root = root(&parent)?;
    let before = world.scrape()?.sum(TOTAL, &[])?;
    let background = others(world, &parent)?;
    let (mut made, mut wrong, mut looked) = (0, Vec::new(), 0);
    for nth in 0..GROUPS {
        let moves = 1 + nth * 7 % 5;
        let group = parent.child(&format!("{nth}"))?;
        hop(&group, &root, moves, [first, last])?;
        made += moves;
        if nth % LOOK == 0 {
            looked += 1;
            let counted = world
                .scrape()?
                .sum(TOTAL, &[label("cgroup", &group.label)])?;
            if counted != moves {
                wrong.push(format!("{nth}: {moves} made, {counted} counted"));
            }
        }
    }
    let after = world.scrape()?.sum(TOTAL, &[])?;
    report.check(
        "cgroups with exactly their own migrations",
        format!("{looked} of {looked}"),
        format!("{} of {looked} {}", looked - wrong.len(), wrong.join(", ")),
        wrong.is_empty(),
    );
    // Whatever else moved on this machine was in cgroups that still exist.
    let elsewhere = others(world, &parent)? - background;
    report.equal(
        "migrations in all of them together",
        made,
        after - before - elsewhere.min(after - before),
    );
    Ok(())
}

/// Migrations in cgroups that are not the truth's own and still have names.
fn others(world: &World, parent: &Group) -> Result<u64> {
    let scrape = world.scrape()?;
    let mut sum = 0;
    for (series, value) in scrape.series(TOTAL, &[]) {
        let ours = series.contains(&parent.label) || series.contains("(removed)");
        if !ours {
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

/// A process that enters the group, is moved so often, and leaves it again before it ends.
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
