//! The kernel's memory daemons: their work, and the time that they take from tasks on their CPUs.

mod kthread;

use std::{fs::File, io::Read as _, time::Duration};

use anyhow::{Context as _, Result};

use super::Truth;
use crate::{
    Group, Report, Setting, World,
    memory::{self, HUGE_PAGES, Region},
    split::EXACT,
    world::{DISK, Node},
};
use kthread::{Kthread, Taken};

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "adds_up_kswapd",
        about: "kswapd on the victims' CPUs: what it took, its own time, its node, and the sum of it all",
        both_hierarchies: false,
        run: kswapd,
    },
    Truth {
        name: "daemons_kcompactd",
        about: "kcompactd on the victims' CPUs",
        both_hierarchies: false,
        run: kcompactd,
    },
    Truth {
        name: "daemons_khugepaged",
        about: "khugepaged on the victims' CPUs",
        both_hierarchies: false,
        run: khugepaged,
    },
];

/// Reason why memory is not made short.
pub(super) const NO_PRESSURE: &str =
    "not held because an emulated machine locks up under memory pressure with PREEMPT_RT";

/// The node whose daemons are made to work, and another; `None`, with the reason in the report, where
/// that cannot be.
fn two_nodes<'a>(world: &'a World, report: &mut Report) -> Option<(&'a Node, &'a Node)> {
    if !world.guest {
        report.leave_out("memory pressure would fall on the whole machine");
        return None;
    }
    if world.real_time() {
        report.leave_out(NO_PRESSURE);
        return None;
    }
    if world.nodes.len() < 2 {
        report.leave_out("there is one NUMA node only, so that no other could be mistaken for it");
        return None;
    }
    Some((&world.nodes[1], &world.nodes[0]))
}

fn kswapd(world: &mut World, report: &mut Report) -> Result<()> {
    let Some((node, other)) = two_nodes(world, report) else {
        return Ok(());
    };
    let daemon = Kthread::find(&format!("kswapd{}", node.id)).context("there is no kswapd")?;
    let readers = Group::new("reader")?;
    let taken = Taken::by(world, &daemon, "kswapd", &node.cpus, || {
        let (id, cpus) = (node.id, other.cpus.clone());
        let reader = readers.spawn(move || {
            crate::task::pin(0, &cpus)?;
            memory::allocate_on(Some(id))?;
            loop {
                read_disk()?;
            }
        })?;
        let worked = daemon.works(Duration::from_millis(500));
        drop(reader);
        worked
    })?;
    taken.wait.judge(report, "", EXACT);
    taken.judge(report, &node.id.to_string())
}

/// Reads the whole disk, which is twice as large as a node's memory.
fn read_disk() -> Result<()> {
    let mut disk = File::open(DISK).with_context(|| DISK.to_owned())?;
    let mut buffer = vec![0; 1 << 20];
    while disk.read(&mut buffer)? != 0 {}
    Ok(())
}

fn kcompactd(world: &mut World, report: &mut Report) -> Result<()> {
    let Some((node, other)) = two_nodes(world, report) else {
        return Ok(());
    };
    let name = format!("kcompactd{}", node.id);
    let daemon = Kthread::find(&name).context("there is no kcompactd")?;
    let Ok(proactive) = Setting::open("/proc/sys/vm/compaction_proactiveness") else {
        report.leave_out("this kernel's kcompactd does not compact of its own accord");
        return Ok(());
    };
    proactive.set("0")?;
    let owners = Group::new("fragments")?;
    let (id, cpus) = (node.id, other.cpus.clone());
    let owner = owners.spawn(move || {
        crate::task::pin(0, &cpus)?;
        fragments(id)?;
        crate::task::stop_self();
        Ok(())
    })?;
    owner.until('T')?;
    let taken = Taken::by(world, &daemon, "kcompactd", &node.cpus, || {
        proactive.set("100")?;
        daemon.works(Duration::from_millis(20))?;
        proactive.set("0")
    })?;
    taken.judge(report, &node.id.to_string())
}

/// Fills memory of a node and frees every other page, so that no large page is free.
fn fragments(node: u32) -> Result<()> {
    let region = Region::anonymous((600 << 20) / memory::page_size())?;
    region.bind(node)?;
    region.write();
    for page in (0..region.pages).step_by(2) {
        region.part(page, 1).advise(libc::MADV_DONTNEED)?;
    }
    Ok(())
}

fn khugepaged(world: &mut World, report: &mut Report) -> Result<()> {
    let Some((node, other)) = two_nodes(world, report) else {
        return Ok(());
    };
    let Ok(enabled) = Setting::open(format!("{HUGE_PAGES}/enabled")) else {
        report.leave_out("this kernel has no transparent huge pages");
        return Ok(());
    };
    let sleeps = Setting::open(format!("{HUGE_PAGES}/khugepaged/scan_sleep_millisecs"))?;
    let scans = Setting::open(format!("{HUGE_PAGES}/khugepaged/pages_to_scan"))?;
    sleeps.set("60000")?;
    enabled.set("always")?;
    scans.set("65536")?;
    let Some(size) = memory::huge_size_for(report) else {
        return Ok(());
    };
    let Some(daemon) = Kthread::find("khugepaged") else {
        report.leave_out("khugepaged does not run here");
        return Ok(());
    };
    // With its own nice value it would be the last to get a CPU.
    crate::task::nice(daemon.pid, 0)?;
    crate::task::pin(daemon.pid, &node.cpus)?;
    let owners = Group::new("pages")?;
    let cpus = other.cpus.clone();
    let owner = owners.spawn(move || {
        crate::task::pin(0, &cpus)?;
        let region = Region::huge(size, (128 << 20) / size)?;
        region.advise(libc::MADV_NOHUGEPAGE)?;
        region.write();
        region.advise(libc::MADV_HUGEPAGE)?;
        crate::task::stop_self();
        Ok(())
    })?;
    owner.until('T')?;
    let taken = Taken::by(world, &daemon, "khugepaged", &node.cpus, || {
        sleeps.set("10")?;
        daemon.works(Duration::from_millis(20))?;
        sleeps.set("60000")
    })?;
    crate::task::nice(daemon.pid, 19)?;
    crate::task::pin(daemon.pid, &world.cpus())?;
    taken.judge(report, "")
}
