//! Pages of files and of shared memory that are in memory already.

use std::{fs::File, os::fd::AsRawFd as _, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};

use super::{
    Act, Touched, Toucher,
    counts::{Both, Counts, FILE_MAP, FIRST_TOUCH},
    counts_here, unsampled,
};
use crate::{
    Group, Report, World,
    memory::{Region, allocate_on, map_file, memory_file, page_size},
    primes,
};

const HOOK: &str = "file mapping";

/// Pages that a fault maps at most: those around it within 64 KiB.
fn around() -> u64 {
    (64 * 1024 / page_size() as u64).max(1)
}

pub(super) fn shared_memory(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    let _unsampled = unsampled(world)?;
    let mut sizes = primes(101);
    for here in &world.nodes {
        let group = Group::new(&format!("shared-{}", here.id))?;
        let mut regions = Vec::new();
        let mut files = Vec::new();
        for there in &world.nodes {
            let pages = sizes.next().context("there is always one more prime")?;
            let pages = usize::try_from(pages)?;
            allocate_on(Some(there.id))?;
            let file = memory_file(pages);
            allocate_on(None)?;
            let file = file?;
            for act in [Act::Read, Act::Write] {
                let region = map_file(&file, pages, libc::MAP_SHARED)?;
                regions.push((region, act, there.id));
            }
            files.push(file);
        }
        let mut process = Toucher::start(&group, here.cpus[0], regions.clone())?;
        for (region, act, there) in regions {
            let touched = process.touch(world, &group, FILE_MAP)?;
            let what = format!(
                "CPU of node {}, memory of node {there}, {}",
                here.id,
                if act == Act::Read { "read" } else { "written" }
            );
            judge(world, report, &what, &touched, &region, here.id != there);
            if act == Act::Write {
                let pages = region.pages as u64;
                report.equal(format!("{what}: ru_minflt"), pages, touched.faults);
            }
        }
    }
    Ok(())
}

/// The faults are the process's, and the pages all there are.
fn judge(
    world: &World,
    report: &mut Report,
    what: &str,
    touched: &Touched,
    region: &Region,
    remote: bool,
) {
    let pages = region.pages as u64;
    let faults = Both::all(touched.faults, remote);
    report.equal(format!("{what}: faults"), faults, touched.counted.faults);
    report.equal(format!("{what}: pages there"), pages, touched.placed);
    let counted = touched.counted.pages;
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
    let expected = format!(
        "{pages} to {most}, {}",
        ["local", "remote"][usize::from(remote)]
    );
    report.check(what, expected, counted, agrees);
}

const DISK: &str = "/dev/vda";

/// So that a fault on a large folio, where the kernel has any, maps more than one of its pages.
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
        let region = Region::map(pages, libc::MAP_PRIVATE, file.as_raw_fd())?;
        let regions = vec![(region, Act::Read, there.id)];
        let mut process = Toucher::start(&group, here.cpus[0], regions)?;
        let anonymous = Counts::of(world, &group, FIRST_TOUCH)?;
        let touched = process.touch(world, &group, FILE_MAP)?;
        let what = format!("CPU of node {}, page cache of node {}", here.id, there.id);
        judge(world, report, &what, &touched, &region, here.id != there.id);
        let least = (pages as u64).div_ceil(around());
        let most = least + 1;
        report.between(format!("{what}: ru_minflt"), least, most, touched.faults);
        let grown = Counts::of(world, &group, FIRST_TOUCH)?.since(anonymous)?;
        report.equal(format!("{what}: new memory"), Counts::default(), grown);
    }
    Ok(())
}

/// Reads the beginning of a file into memory of a node.
fn cache_on(file: &File, node: u32, pages: usize) -> Result<()> {
    // SAFETY: a descriptor of our own. Pages that stay in memory are found by where they lie.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let mut bytes = vec![0; pages * page_size()];
    allocate_on(Some(node))?;
    let read = file.read_exact_at(&mut bytes, 0);
    allocate_on(None)?;
    read.with_context(|| format!("cannot read {DISK}"))
}
