//! Samples of NUMA balancing: by where the page was when it was touched, not where it went.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::sampled::{BALANCING, Moment, NOT_BALANCED, Sampled, fast};
use crate::{
    Group, Report, Worker, World,
    memory::{Folios, Region, allocate_on, page_size},
    task,
    worker::minor_faults,
    world::Node,
};

/// Time for which memory is read while the kernel samples.
const TIME: Duration = Duration::from_secs(4);
/// The steps of a process.
const WARM: u8 = 0;
const PLACE: u8 = 1;
const READ: u8 = 2;

/// The nodes of the CPU and of the memory; `None` if there is nothing to balance.
fn nodes<'a>(world: &'a World, report: &mut Report) -> Result<Option<[&'a Node; 2]>> {
    if !world.guest {
        let (state, detail) = world.hook("page_faults", "hinting")?;
        report.leave_out(format!(
            "the settings of NUMA balancing are not the lab's here (hinting is {state}: {detail})"
        ));
        return Ok(None);
    }
    if !Path::new(BALANCING).exists() {
        report.leave_out(NOT_BALANCED);
        return Ok(None);
    }
    let [_, here, .., there] = &world.nodes[..] else {
        report.leave_out("this machine has too few NUMA nodes");
        return Ok(None);
    };
    Ok(Some([here, there]))
}

/// Reads every `stride`th page again and again.
fn read_on(region: &Region, stride: usize) {
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        for page in (0..region.pages).step_by(stride) {
            region.part(page, 1).read();
        }
    }
}

/// Writes to every `stride`th page so that it lies on a node. A policy of the mapping's own would
/// keep it from being sampled.
fn place(region: &Region, stride: usize, node: &Node) -> Result<()> {
    allocate_on(Some(node.id))?;
    region.write_every(stride);
    allocate_on(None)
}

/// Runs a process on a CPU of the first node that reads memory of the second. Returns the samples,
/// and the kernel's count of the process's faults.
fn sample(
    world: &World,
    report: &mut Report,
    [here, there]: [&Node; 2],
    region: Region,
    stride: usize,
) -> Result<(Sampled, u64)> {
    let _fast = fast()?;
    let group = Group::new("hinting")?;
    let (cpu, there) = (here.cpus[0], there.clone());
    let mut worker = Worker::start(&group, move |step| {
        let before = minor_faults();
        match step {
            WARM => task::pin(0, &[cpu])?,
            PLACE => place(&region, stride, &there)?,
            _ => read_on(&region, stride),
        }
        Ok(minor_faults() - before)
    })?;
    worker.step(WARM)?;
    worker.step(PLACE)?;
    let then = Moment::now(world, &group)?;
    let faults = worker.step(READ)?;
    let now = Moment::now(world, &group)?;
    Ok((now.judge(report, &then)?, faults))
}

/// Judges the group's samples: no more than its own faults, and no more than the machine's samples.
fn judge_group(report: &mut Report, sampled: &Sampled, least: u64, faults: u64) {
    let Sampled { group, kernel } = sampled;
    let what = "faults of the group, by ru_minflt";
    report.between(what, least, faults, group.sum());
    report.between("local faults of the group", 0, kernel.local, group.local);
    report.between("remote faults of the group", 0, kernel.remote, group.remote);
}

pub(super) fn one_thread(world: &mut World, report: &mut Report) -> Result<()> {
    let Some(ends) = nodes(world, report)? else {
        return Ok(());
    };
    let pages = 1009;
    let region = Region::anonymous(pages)?;
    let (sampled, faults) = sample(world, report, ends, region, 1)?;
    // All its pages are there, so the process has hardly any faults but these.
    judge_group(report, &sampled, faults - faults / 50, faults);
    // Each page is remote until it has been moved, and a thread alone is not sampled on its own node.
    let pages = pages as u64;
    let (least, most) = (pages * 9 / 10, pages * 3 / 2);
    report.between("remote faults", least, most, sampled.group.remote);
    report.between("local faults", 0, pages / 50, sampled.group.local);
    Ok(())
}

pub(super) fn huge_pages(world: &mut World, report: &mut Report) -> Result<()> {
    let Some(ends) = nodes(world, report)? else {
        return Ok(());
    };
    let Some(folios) = Folios::large(world.guest, report)? else {
        return Ok(());
    };
    let count = 5;
    let region = Region::huge(folios.size, count)?;
    let stride = folios.size / page_size();
    let (sampled, faults) = sample(world, report, ends, region, stride)?;
    // A page that has been moved can have one more, for the accessed flag.
    judge_group(report, &sampled, faults / 2, faults);
    report.between("remote faults", 1, 1000, sampled.group.remote);
    Ok(())
}

pub(super) fn two_threads(world: &mut World, report: &mut Report) -> Result<()> {
    let Some(ends) = nodes(world, report)? else {
        return Ok(());
    };
    let _fast = fast()?;
    let group = Group::new("hinting")?;
    let region = Region::anonymous(503)?;
    let [here, there] = ends.map(Clone::clone);
    let mut worker = Worker::start(&group, move |step| {
        if step == WARM {
            place(&region, 1, &there)?;
            return Ok(0);
        }
        let reader = |node: &Node| {
            let cpu = node.cpus[0];
            std::thread::spawn(move || {
                task::pin(0, &[cpu])?;
                let before = minor_faults();
                read_on(&region, 1);
                anyhow::Ok(minor_faults() - before)
            })
        };
        let mut faults = 0;
        for reader in [reader(&here), reader(&there)] {
            let read = reader.join().ok().context("a thread panicked")?;
            faults += read?;
        }
        Ok(faults)
    })?;
    worker.step(WARM)?;
    let then = Moment::now(world, &group)?;
    let faults = worker.step(READ)?;
    let now = Moment::now(world, &group)?;
    let sampled = now.judge(report, &then)?;
    // Nearly all samples of this machine are the group's. A thread that finds that the other was
    // there first has had a fault, but was not sampled; before and after it reads each thread has a
    // few faults as well.
    let all = sampled.kernel.sum();
    judge_group(report, &sampled, all - all / 10, faults + faults / 20);
    for (what, count) in [
        ("local", sampled.group.local),
        ("remote", sampled.group.remote),
    ] {
        report.check(format!("{what} faults"), "more than 9", count, count > 9);
    }
    Ok(())
}
