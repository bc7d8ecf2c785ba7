//! Moves of tasks between CPUs, made one by one: each is counted once, with its boundary, its nodes
//! and its distance.

mod exported;
mod levels;
mod moves;

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::Truth;
use crate::{Group, Report, Task, Tasks as _, Worker, World, primes, task};
use exported::Exported;
use moves::Moves;

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "migrations_between_nodes",
        about: "every CPU to every CPU of another node, another number of times for each pair of nodes",
        both_hierarchies: false,
        run: between_nodes,
    },
    Truth {
        name: "migrations_within_nodes",
        about: "moves within a node: a boundary, but no pair of nodes and no distance",
        both_hierarchies: false,
        run: within_nodes,
    },
    Truth {
        name: "migrations_waiting",
        about: "a task that is moved while it waits for its CPU",
        both_hierarchies: false,
        run: waiting,
    },
    Truth {
        name: "migrations_asleep",
        about: "a task that may run elsewhere once it wakes: counted when it wakes, and once",
        both_hierarchies: false,
        run: asleep,
    },
    Truth {
        name: "migrations_balanced",
        about: "what the scheduler itself moves, and random affinities, against se.nr_migrations",
        both_hierarchies: false,
        run: balanced,
    },
];

/// The steps of a process that makes moves.
const GO_TO_START: u8 = 0;
const MOVE: u8 = 1;

/// Makes the moves and judges the counts. A task of its own makes each move, born where the move begins,
/// so that each direction has a number of its own.
fn judged(world: &World, report: &mut Report, group: &Group, moves: &Moves) -> Result<()> {
    let mut parents = Vec::new();
    for start in moves.starts() {
        let from_here: Vec<_> = moves.from(start).collect();
        let mut parent = Worker::start(group, move |step| {
            if step == GO_TO_START {
                task::pin(0, &[start])?;
                return Ok(0);
            }
            for (to, count) in &from_here {
                for _ in 0..*count {
                    task::fork(|| task::pin(0, &[*to]))?.wait()?;
                }
            }
            Ok(0)
        })?;
        parent.step(GO_TO_START)?;
        parents.push(parent);
    }
    let before = Exported::of(world, group)?;
    for parent in &mut parents {
        parent.step(MOVE)?;
    }
    let counted = Exported::of(world, group)?.since(&before)?;
    counted.judge(report, world, moves)
}

fn between_nodes(world: &mut World, report: &mut Report) -> Result<()> {
    if world.nodes.len() < 2 {
        report.leave_out("this machine has one NUMA node");
        return Ok(());
    }
    let group = Group::new("between")?;
    let mut moves = Moves::default();
    let mut numbers = primes(5);
    for from in &world.nodes {
        for to in world.nodes.iter().filter(|to| to.id != from.id) {
            let number = numbers.next().context("there is always one more prime")?;
            // Two CPUs of each node, and each way between them; the first way gets the rest of the
            // prime.
            let ways = from.cpus.iter().take(2).flat_map(|from| {
                let to = to.cpus.iter().take(2);
                to.map(move |to| (*from, *to))
            });
            let ways: Vec<_> = ways.collect();
            for way in &ways {
                moves.add(*way, 1);
            }
            moves.add(ways[0], number - ways.len() as u64);
        }
    }
    judged(world, report, &group, &moves)
}

fn within_nodes(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("within")?;
    let mut moves = Moves::default();
    let mut numbers = primes(11);
    for node in &world.nodes {
        for way in node.cpus.windows(2).take(2) {
            for way in [(way[0], way[1]), (way[1], way[0])] {
                let number = numbers.next().context("there is always one more prime")?;
                moves.add(way, number);
            }
        }
    }
    if moves.is_empty() {
        report.leave_out("no NUMA node has two CPUs");
        return Ok(());
    }
    judged(world, report, &group, &moves)
}

/// Two CPUs, as far from each other as there are.
fn far_apart(world: &World) -> Result<[usize; 2]> {
    let first = world.nodes.first().context("a node")?;
    let farthest = first
        .distances
        .iter()
        .zip(&world.nodes)
        .max_by_key(|(distance, _)| **distance);
    let node = farthest.map_or(first, |(_, node)| node);
    let cpus = [first.cpus.first(), node.cpus.last()].map(Option::<&usize>::copied);
    let [Some(one), Some(other)] = cpus else {
        anyhow::bail!("a node without CPUs is none of these");
    };
    ensure!(one != other, "this machine has one CPU");
    Ok([one, other])
}

/// Number of moves of the waiting task.
const WAITS: usize = 97;

fn waiting(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("waiting")?;
    let cpus = far_apart(world)?;
    let start = cpus[0];
    let victim = group.spawn(move || {
        task::pin(0, &[start])?;
        task::nice(0, 19)?;
        task::spin()
    })?;
    // Processes outside of the group, so much heavier that the victim hardly ever runs.
    let hog = |cpu: &usize| {
        let cpu = *cpu;
        task::fork(move || {
            task::pin(0, &[cpu])?;
            task::nice(0, -20)?;
            task::spin()
        })
    };
    let hogs = cpus.iter().map(hog).collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_millis(500));
    let before = Exported::of(world, &group)?;
    let kernel = victim.migrations();
    let mut moves = Moves::default();
    let mut waited = 0;
    for turn in 0..WAITS {
        let way = (cpus[turn % 2], cpus[(turn + 1) % 2]);
        let ran = victim.on_cpu()?;
        task::pin(victim.pid(), &[way.1])?;
        // A task's time on CPUs grows when it leaves one. It has not grown, so the task was waiting
        // there.
        waited += u64::from(victim.on_cpu()? == ran);
        moves.add(way, 1);
        sleep(Duration::from_millis(2));
    }
    drop(hogs);
    let counted = Exported::of(world, &group)?.since(&before)?;
    counted.judge(report, world, &moves)?;
    judge_kernel(report, &[(kernel, victim.migrations())], counted.total());
    report.between("moves made while it waited", 20, WAITS as u64, waited);
    Ok(())
}

/// Judges the exported number against the kernel's counts of each task, before and after.
fn judge_kernel(report: &mut Report, tasks: &[(Option<u64>, Option<u64>)], counted: u64) {
    let grown = tasks.iter().map(|(then, now)| Some((*now)? - (*then)?));
    match grown.sum::<Option<u64>>() {
        Some(expected) => report.equal("moves by se.nr_migrations", expected, counted),
        None => report.leave_out("this kernel does not show se.nr_migrations"),
    }
}

fn asleep(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("asleep")?;
    let mut worker = Worker::start(&group, |_| Ok(0))?;
    let pid = worker.task().pid();
    let cpus = world.cpus();
    ensure!(cpus.len() > 1, "this machine has one CPU");
    let mut here = cpus[0];
    task::pin(pid, &[here])?;
    worker.step(0)?;
    let before = Exported::of(world, &group)?;
    let kernel = worker.task().migrations();
    let mut moves = Moves::default();
    for turn in 0..61 {
        let others: Vec<_> = cpus.iter().filter(|cpu| **cpu != here).collect();
        let there = *others[turn * 5 % others.len()];
        fast_asleep(&worker)?;
        // A sleeper that is moved on before it wakes never was on that CPU.
        for cpu in [*others[turn * 3 % others.len()], there] {
            task::pin(pid, &[cpu])?;
        }
        if turn == 0 {
            let counted = Exported::of(world, &group)?.since(&before)?;
            report.equal("moves of a task that still sleeps", 0, counted.total());
        }
        worker.step(0)?;
        moves.add((here, there), 1);
        here = there;
    }
    let counted = Exported::of(world, &group)?.since(&before)?;
    counted.judge(report, world, &moves)?;
    judge_kernel(
        report,
        &[(kernel, worker.task().migrations())],
        counted.total(),
    );
    Ok(())
}

/// Waits until the worker sleeps and has left its run queue, which happens a little later.
fn fast_asleep(worker: &Worker) -> Result<()> {
    worker.task().until('S')?;
    sleep(Duration::from_millis(20));
    Ok(())
}

fn balanced(world: &mut World, report: &mut Report) -> Result<()> {
    let group = Group::new("balanced")?;
    let cpus = world.cpus();
    let tasks = group.spin(cpus.len() * 2 + 1)?;
    sleep(Duration::from_millis(500));
    tasks.stop_all()?;
    let before = Exported::of(world, &group)?;
    let kernel: Vec<_> = tasks.iter().map(Task::migrations).collect();
    tasks.resume_all();
    for turn in 0..211 {
        let task = &tasks[turn * 7 % tasks.len()];
        let cpu = cpus[turn * 5 % cpus.len()];
        let place = if turn % 3 == 0 { &[cpu][..] } else { &cpus[..] };
        task::pin(task.pid(), place)?;
        sleep(Duration::from_millis(17));
    }
    tasks.stop_all()?;
    let counted = Exported::of(world, &group)?.since(&before)?;
    let now = tasks.iter().map(Task::migrations);
    let kernel: Vec<_> = kernel.into_iter().zip(now).collect();
    judge_kernel(report, &kernel, counted.total());
    counted.judge_sums(report, world)
}
