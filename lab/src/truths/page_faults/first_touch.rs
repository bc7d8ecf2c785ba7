//! New memory: first writes, huge pages and copies on write.

use std::fs;

use anyhow::{Context as _, Result};

use super::{
    Act, Toucher,
    counts::{Counts, FILE_MAP, FIRST_TOUCH},
    counts_here, unsampled,
};
use crate::{
    Group, Report, World,
    memory::{Region, allocate_on, map_file, memory_file, page_size},
    primes,
    world::Node,
};

const HOOK: &str = "first touch";

/// Lets the region lie on a node, where there is a choice.
fn bind(world: &World, region: &Region, node: &Node) -> Result<()> {
    if world.nodes.len() > 1 {
        region.bind(node.id)?;
    }
    Ok(())
}

fn say_what_is_missing(world: &World, report: &mut Report) {
    if world.nodes.len() < 2 {
        report.leave_out("remote memory: this machine has one NUMA node");
    }
}

pub(super) fn base_pages(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    say_what_is_missing(world, report);
    let _unsampled = unsampled(world)?;
    let mut sizes = primes(53);
    for here in &world.nodes {
        let group = Group::new(&format!("touch-{}", here.id))?;
        let mut regions = Vec::new();
        for there in &world.nodes {
            let pages = sizes.next().context("there is always one more prime")?;
            let region = Region::anonymous(usize::try_from(pages)?)?;
            bind(world, &region, there)?;
            regions.push((region, Act::Write, there.id));
        }
        let mut process = Toucher::start(&group, here.cpus[0], regions.clone())?;
        for (region, _, there) in regions {
            let pages = region.pages as u64;
            let touched = process.touch(world, &group, FIRST_TOUCH)?;
            let what = format!("CPU of node {}, memory of node {there}", here.id);
            let expected = Counts::all(pages, pages, here.id != there);
            report.equal(&what, expected, touched.counted);
            report.equal(format!("{what}: ru_minflt"), pages, touched.faults);
            report.equal(format!("{what}: pages there"), pages, touched.placed);
        }
    }
    Ok(())
}

const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";

/// Bytes of a huge page, if there are any.
pub(super) fn huge_size() -> Option<usize> {
    let read = |file: &str| fs::read_to_string(format!("{HUGE}/{file}")).ok();
    let on = read("enabled")?.contains("[never]");
    (!on).then_some(())?;
    read("hpage_pmd_size")?.trim().parse().ok()
}

pub(super) fn huge_pages(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    let Some(size) = huge_size() else {
        report.leave_out("this kernel has no transparent huge pages, or they are off");
        return Ok(());
    };
    say_what_is_missing(world, report);
    let _unsampled = unsampled(world)?;
    let group = Group::new("huge")?;
    let here = world.nodes.last().context("a node")?;
    let mut counts = primes(2);
    let mut regions = Vec::new();
    for there in &world.nodes {
        let count = counts.next().context("there is always one more prime")?;
        let region = Region::huge(size, usize::try_from(count)?)?;
        bind(world, &region, there)?;
        regions.push((region, Act::Write, there.id, count));
    }
    let acts = regions.iter().map(|(r, act, node, _)| (*r, *act, *node));
    let mut process = Toucher::start(&group, here.cpus[0], acts.collect())?;
    for (region, _, there, count) in regions {
        let touched = process.touch(world, &group, FIRST_TOUCH)?;
        let what = format!(
            "{count} huge pages of node {there}, CPU of node {}",
            here.id
        );
        // Where none was free the process had more faults, and all its pages all the same.
        let pages = (size / page_size()) as u64 * count;
        let expected = Counts::all(touched.faults, pages, here.id != there);
        report.equal(&what, expected, touched.counted);
        report.equal(format!("{what}: pages there"), pages, touched.placed);
        if touched.faults == count || world.guest {
            report.equal(format!("{what}: ru_minflt"), count, touched.faults);
        } else {
            report.leave_out(format!("{what}: not all were free"));
        }
        assert_eq!(region.pages as u64, pages);
    }
    Ok(())
}

/// Where the CPU is, where the memory is that is copied, and where the copy is to be.
fn ways(world: &World) -> Vec<[&Node; 3]> {
    let nodes = &world.nodes;
    let node = |nth: usize| &nodes[nth % nodes.len()];
    if nodes.len() < 2 {
        return vec![[node(0); 3]];
    }
    vec![
        [node(0), node(1), node(0)],
        [node(1), node(1), node(2)],
        [node(2), node(2), node(2)],
        [node(3), node(1), node(2)],
    ]
}

pub(super) fn copies(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    say_what_is_missing(world, report);
    let files = counts_here(world, report, "file mapping")?;
    let _unsampled = unsampled(world)?;
    let group = Group::new("copies")?;
    let mut sizes = primes(61);
    for [cpu, old, new] in ways(world) {
        let mut size = || -> Result<usize> {
            let size = sizes.next().context("there is always one more prime")?;
            Ok(usize::try_from(size)?)
        };
        let (parents, files_pages) = (size()?, size()?);
        let several = world.nodes.len() > 1;
        allocate_on(several.then_some(old.id))?;
        let inherited = Region::anonymous(parents)?;
        // Ours before the fork: the child's writes copy them.
        inherited.write();
        let file = memory_file(files_pages)?;
        let private = map_file(&file, files_pages, libc::MAP_PRIVATE)?;
        let read_first = map_file(&file, files_pages, libc::MAP_PRIVATE)?;
        // The policy is inherited, and pages are copied to where it says.
        allocate_on(several.then_some(new.id))?;
        let regions = vec![
            (inherited, Act::Write, new.id),
            (private, Act::Write, new.id),
            (read_first, Act::Read, old.id),
            (read_first, Act::Write, new.id),
        ];
        let process = Toucher::start(&group, cpu.cpus[0], regions);
        allocate_on(None)?;
        let mut process = process?;
        let way = format!("CPU of node {}, copy from {} to {}", cpu.id, old.id, new.id);
        let remote = cpu.id != new.id;
        for (what, pages) in [
            ("inherited memory", parents as u64),
            ("private file", files_pages as u64),
        ] {
            let what = format!("{way}, {what}");
            let mapped = Counts::of(world, &group, FILE_MAP);
            let touched = process.touch(world, &group, FIRST_TOUCH)?;
            let expected = Counts::all(pages, pages, remote);
            report.equal(&what, expected, touched.counted);
            report.equal(format!("{what}: ru_minflt"), pages, touched.faults);
            report.equal(format!("{what}: pages there"), pages, touched.placed);
            if files {
                let grown = Counts::of(world, &group, FILE_MAP)?.since(mapped?)?;
                report.equal(format!("{what}: mapped"), Counts::default(), grown);
            }
        }
        let what = format!("{way}, private file read before");
        let touched = process.touch(world, &group, FIRST_TOUCH)?;
        report.equal(
            format!("{what}: reading"),
            Counts::default(),
            touched.counted,
        );
        let pages = files_pages as u64;
        report.equal(format!("{what}: pages there"), pages, touched.placed);
        let touched = process.touch(world, &group, FIRST_TOUCH)?;
        let expected = Counts::all(pages, pages, remote);
        report.equal(format!("{what}: writing"), expected, touched.counted);
        report.equal(format!("{what}: copies there"), pages, touched.placed);
    }
    Ok(())
}
