//! Pages of files and of shared memory that are in memory already.

use std::{fs::File, os::fd::AsRawFd as _, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};

use super::{
    counts::{Both, Counts},
    counts_here,
    process::{Act, Mapping, Process, Touched, sizes},
    unsampled,
};
use crate::{
    Group, Report, World,
    memory::{Region, allocate_on, map_file, memory_file, page_size},
    world::DISK,
};

pub(super) const HOOK: &str = "file mapping";

/// Most pages that a fault maps: those around it within 64 KiB.
fn around() -> u64 {
    (64 * 1024 / page_size() as u64).max(1)
}

pub(super) fn shared_memory(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    let _unsampled = unsampled(world)?;
    let mut sizes = sizes(101);
    for here in &world.nodes {
        let group = Group::new(&format!("shared-{}", here.id))?;
        let mut mappings = Vec::new();
        for there in &world.nodes {
            let pages = sizes.next().context("there is always one more")?;
            allocate_on(Some(there.id))?;
            let file = memory_file(pages);
            allocate_on(None)?;
            let file = file?;
            for act in [Act::Read, Act::Write] {
                mappings.push(Mapping {
                    region: map_file(&file, pages, libc::MAP_SHARED)?,
                    act,
                    node: there.id,
                });
            }
        }
        let what = |mapping: &Mapping| {
            let Mapping { act, node, .. } = mapping;
            format!("CPU of node {}, memory of node {node}, {act:?}", here.id)
        };
        let mut process = Process::start(world, &group, here, &mappings)?;
        for mapping in &mappings {
            let (touched, what) = (process.touch()?, what(mapping));
            judge_mapped(
                world,
                report,
                &what,
                &touched,
                mapping,
                here.id != mapping.node,
            );
            let new = touched.counted.first_touch;
            report.equal(format!("{what}: new memory"), Counts::default(), new);
            if mapping.act == Act::Write {
                let pages = mapping.pages();
                report.equal(format!("{what}: ru_minflt"), pages, touched.faults);
            }
        }
        for (nth, mapping) in mappings.iter().enumerate() {
            let what = format!("{}: pages there", what(mapping));
            report.equal(what, mapping.pages(), process.placed(nth)?);
        }
    }
    Ok(())
}

/// Judges mappings where they are counted: the faults are the process's, and the pages all there
/// are.
pub(super) fn judge_mapped(
    world: &World,
    report: &mut Report,
    what: &str,
    touched: &Touched,
    mapping: &Mapping,
    remote: bool,
) {
    let Some(counted) = touched.counted.file_map else {
        if world.guest {
            report.check(what, "counted", "not exported", false);
        }
        return;
    };
    let faults = Both::all(touched.faults, remote);
    report.equal(format!("{what}: faults"), faults, counted.faults);
    let (pages, counted) = (mapping.pages(), counted.pages);
    let what = format!("{what}: pages");
    if world.version() >= (5, 12) {
        report.equal(what, Both::all(pages, remote), counted);
        return;
    }
    // The second fault finds pages that the first has mapped, unless the mapping begins at a
    // multiple of 64 KiB; up to 5.11 the function is called for them as well.
    let most = pages + around() - 1;
    let agrees =
        (pages..=most).contains(&counted.sum()) && counted == Both::all(counted.sum(), remote);
    let side = if remote { "remote" } else { "local" };
    report.check(what, format!("{pages} to {most} {side}"), counted, agrees);
}

/// Pages of the mappings: so many that a fault on a large folio, where the kernel has any, maps
/// more than one of its pages.
const DISK_PAGES: [usize; 2] = [257, 509];

pub(super) fn disk(world: &mut World, report: &mut Report) -> Result<()> {
    if !world.guest {
        report.leave_out("only the lab's machines have a disk that nobody else reads");
        return Ok(());
    }
    let _unsampled = unsampled(world)?;
    let file = File::open(DISK).with_context(|| format!("cannot open {DISK}"))?;
    let nodes = &world.nodes;
    let (here, far) = (&nodes[1 % nodes.len()], &nodes[3 % nodes.len()]);
    for (there, pages) in [here, far].into_iter().zip(DISK_PAGES) {
        let group = Group::new(&format!("disk-{}", there.id))?;
        cache_on(&file, there.id, pages)?;
        let mapping = Mapping {
            region: Region::map(pages, libc::MAP_PRIVATE, file.as_raw_fd())?,
            act: Act::Read,
            node: there.id,
        };
        let mut process = Process::start(world, &group, here, &[mapping])?;
        let touched = process.touch()?;
        let what = format!("CPU of node {}, page cache of node {}", here.id, there.id);
        judge_mapped(
            world,
            report,
            &what,
            &touched,
            &mapping,
            here.id != there.id,
        );
        let least = mapping.pages().div_ceil(around());
        report.between(
            format!("{what}: ru_minflt"),
            least,
            least + 1,
            touched.faults,
        );
        let new = touched.counted.first_touch;
        report.equal(format!("{what}: new memory"), Counts::default(), new);
        report.equal(
            format!("{what}: pages there"),
            mapping.pages(),
            process.placed(0)?,
        );
    }
    Ok(())
}

/// Reads the beginning of a file into the page cache on a node.
fn cache_on(file: &File, node: u32, pages: usize) -> Result<()> {
    // SAFETY: a descriptor of our own. Pages that stay in memory are found by where they lie.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let mut bytes = vec![0; pages * page_size()];
    allocate_on(Some(node))?;
    let read = file.read_exact_at(&mut bytes, 0);
    allocate_on(None)?;
    read.with_context(|| format!("cannot read {DISK}"))
}
