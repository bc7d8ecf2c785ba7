//! Phantom waits (docs/quirks.md): the agent refuses and counts sleep that the kernel takes for a wait, and the sum
//! holds.

use std::{
    io::{PipeReader, PipeWriter, Read as _, Write as _, pipe},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::Truth;
use crate::{
    Group, Report, Task, World,
    split::{EXACT, Span},
    task,
};

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "adds_up_moved_asleep",
    about: "a task that is moved just after it fell asleep, still on its run queue: its sleep is no wait",
    both_hierarchies: false,
    run,
}];

const FAMILY: &str = "stallscope_phantom_wait_seconds_total";

/// Number of times that a sleeper is moved, and length of each sleep.
const TURNS: usize = 23;
const SLEEP: Duration = Duration::from_millis(400);

/// Orders to a sleeper.
const WORK: u8 = 1;
const NOTHING: u8 = 0;

/// A task that works when it is told to, and sleeps.
struct Sleeper {
    tell: PipeWriter,
    told: PipeReader,
}

impl Sleeper {
    /// Starts it in a group, on a CPU. Its weight is so small that it has soon worked ahead of its turn: a kernel
    /// that leaves sleepers on their run queues leaves this one there for long.
    fn start(group: &Group, cpu: usize) -> Result<(Self, Task)> {
        let (mut orders, tell) = pipe().context("cannot make a pipe")?;
        let (told, mut done) = pipe().context("cannot make a pipe")?;
        let task = group.spawn(move || {
            task::pin(0, &[cpu])?;
            task::nice(0, 19)?;
            let mut order = [NOTHING];
            while orders.read(&mut order)? == 1 {
                if order == [WORK] {
                    task::spin_for(Duration::from_millis(3));
                }
                done.write_all(&order)?;
            }
            Ok(())
        })?;
        Ok((Self { tell, told }, task))
    }

    /// Gives an order and waits until it is done; from then on the task is about to sleep.
    fn tell(&mut self, order: u8) -> Result<()> {
        self.tell.write_all(&[order])?;
        Ok(self.told.read_exact(&mut [0])?)
    }
}

/// Sleeps that were moved to another run queue: their number, and their least and greatest length.
#[derive(Debug, Default)]
struct Moved {
    count: usize,
    least: Duration,
    most: Duration,
}

impl Moved {
    /// Lets the sleeper fall asleep on one CPU, beside a task that wants it too, moves it to another, and wakes it
    /// there.
    fn turn(
        &mut self,
        sleeper: &mut Sleeper,
        task: &Task,
        [here, there]: [usize; 2],
    ) -> Result<()> {
        task::pin(task.pid(), &[here])?;
        sleeper.tell(WORK)?;
        task.until('S')?;
        let before = task.migrations().context("se.nr_migrations")?;
        let started = Instant::now();
        task::pin(task.pid(), &[there])?;
        // A sleeper that is on no run queue moves only when it wakes up.
        let moved = task.migrations().context("se.nr_migrations")? > before && task.is('S');
        let begun = Instant::now();
        sleep(SLEEP);
        let least = begun.elapsed();
        sleeper.tell(NOTHING)?;
        if moved {
            self.count += 1;
            self.least += least;
            self.most += started.elapsed();
        }
        Ok(())
    }
}

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let cpus = world.cpus();
    ensure!(cpus.len() > 1, "this machine has one CPU");
    let ends = [cpus[0], cpus[cpus.len() - 1]];
    let group = Group::new("asleep")?;
    let (mut sleeper, task) = Sleeper::start(&group, ends[0])?;
    if task.migrations().is_none() {
        report.leave_out("this kernel does not show se.nr_migrations");
        return Ok(());
    }
    let tasks = [task, group.spin_on(ends[0])?];
    let groups = [&group];
    let mut moved = Moved::default();
    let mut done = Ok(());
    let measured = Span::of(world, &groups, &tasks)?.during(|| {
        done = (0..TURNS).try_for_each(|_| moved.turn(&mut sleeper, &tasks[0], ends));
    })?;
    done?;
    measured.judge(report, "", EXACT);
    if world.version() < (6, 12) {
        report.equal("sleeps that were moved", 0, moved.count);
        let series = world.scrape()?.exact(FAMILY, &[])?;
        report.check(FAMILY, "absent", format!("{series:?}"), series.is_none());
        return Ok(());
    }
    println!("    {moved:?}");
    if moved.count == 0 {
        report.leave_out(
            "no sleep could be moved: none was still on its run queue when it was to be",
        );
        return Ok(());
    }
    if !world.guest {
        report.leave_out(
            "who keeps the CPU that a sleeper is moved to from being idle is not the lab's here",
        );
        return Ok(());
    }
    report.between(
        format!(
            "sleep that the kernel takes for a wait, in ns, of {} sleeps",
            moved.count
        ),
        nanos(moved.least) / 100 * 99,
        nanos(moved.most) / 100 * 101,
        measured.phantom,
    );
    Ok(())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
