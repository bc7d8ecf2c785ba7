//! New memory: first writes, huge pages and copies on write.

use anyhow::{Context as _, Result, bail};

use super::{
    counts::Counts,
    counts_here,
    files::judge_mapped,
    process::{Act, Mapping, Process, sizes},
    unsampled,
};
use crate::{
    Group, Report, World,
    memory::{Folios, Region, allocate_on, map_file, memory_file},
    primes,
    world::Node,
};

const HOOK: &str = "first touch";

/// Binds the region to a node, where there is a choice.
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
    let mut sizes = sizes(53);
    for here in &world.nodes {
        let group = Group::new(&format!("touch-{}", here.id))?;
        let mut mappings = Vec::new();
        for there in &world.nodes {
            let region = Region::anonymous(sizes.next().context("there is always one more")?)?;
            bind(world, &region, there)?;
            mappings.push(Mapping {
                region,
                act: Act::Write,
                node: there.id,
            });
        }
        let what = |there: u32| format!("CPU of node {}, memory of node {there}", here.id);
        let mut process = Process::start(world, &group, here, &mappings)?;
        for mapping in &mappings {
            let pages = mapping.pages();
            let expected = Counts::all(pages, pages, here.id != mapping.node);
            let touched = process.touch()?;
            touched.judge_first_touch(report, &what(mapping.node), expected);
        }
        for (nth, mapping) in mappings.iter().enumerate() {
            let what = format!("{}: pages there", what(mapping.node));
            report.equal(what, mapping.pages(), process.placed(nth)?);
        }
    }
    Ok(())
}

pub(super) fn huge_pages(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    let Some(folios) = Folios::large(world.guest, report)? else {
        return Ok(());
    };
    say_what_is_missing(world, report);
    let _unsampled = unsampled(world)?;
    let group = Group::new("huge")?;
    let here = world.nodes.last().context("a node")?;
    let mut mappings = Vec::new();
    for (count, there) in primes(2).zip(&world.nodes) {
        let region = Region::huge(folios.size, usize::try_from(count)?)?;
        bind(world, &region, there)?;
        mappings.push(Mapping {
            region,
            act: Act::Write,
            node: there.id,
        });
    }
    let mut process = Process::start(world, &group, here, &mappings)?;
    let what = |there: u32| format!("huge pages of node {there}, CPU of node {}", here.id);
    for (mapping, count) in mappings.iter().zip(primes(2)) {
        let touched = process.touch()?;
        // Where no huge page was free the process has more faults, and all its pages all the same.
        let faults = if world.guest { count } else { touched.faults };
        let expected = Counts::all(faults, mapping.pages(), here.id != mapping.node);
        touched.judge_first_touch(report, &what(mapping.node), expected);
        if faults != count {
            report.leave_out(format!("{}: not all were free", what(mapping.node)));
        }
    }
    for (nth, mapping) in mappings.iter().enumerate() {
        let what = format!("{}: pages there", what(mapping.node));
        report.equal(what, mapping.pages(), process.placed(nth)?);
    }
    Ok(())
}

/// Nodes of the CPU, of the memory that is copied, and of the copy.
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
    counts_here(world, report, "file mapping")?;
    let _unsampled = unsampled(world)?;
    let group = Group::new("copies")?;
    let mut sizes = sizes(61);
    for way in ways(world) {
        let sizes = [(); 2].map(|()| sizes.next());
        let [Some(inherited), Some(file)] = sizes else {
            bail!("there are always more primes");
        };
        copy(world, report, &group, way, inherited, file)?;
    }
    Ok(())
}

/// Lets a process copy `inherited` pages of this process and `file` pages of a file, twice.
fn copy(
    world: &World,
    report: &mut Report,
    group: &Group,
    [cpu, old, new]: [&Node; 3],
    inherited: usize,
    file: usize,
) -> Result<()> {
    let several = world.nodes.len() > 1;
    allocate_on(several.then_some(old.id))?;
    let memory = Region::anonymous(inherited)?;
    // Written before the fork, so that the child's writes copy the pages.
    memory.write();
    let pages = memory_file(file)?;
    let private = map_file(&pages, file, libc::MAP_PRIVATE)?;
    let read_first = map_file(&pages, file, libc::MAP_PRIVATE)?;
    let mappings = [
        (memory, Act::Write, new),
        (private, Act::Write, new),
        (read_first, Act::Read, old),
        (read_first, Act::Write, new),
    ];
    let mappings = mappings.map(|(region, act, node)| Mapping {
        region,
        act,
        node: node.id,
    });
    // The child inherits the policy, and the kernel copies pages to the node that it names.
    allocate_on(several.then_some(new.id))?;
    let process = Process::start(world, group, cpu, &mappings);
    allocate_on(None)?;
    let mut process = process?;
    let way = format!("CPU of node {}, copy from {} to {}", cpu.id, old.id, new.id);
    let steps = [
        "inherited memory",
        "private file",
        "private file is read",
        "private file that was read",
    ];
    for (mapping, step) in mappings.iter().zip(steps) {
        let what = format!("{way}, {step}");
        let touched = process.touch()?;
        let pages = mapping.pages();
        let remote = cpu.id != mapping.node;
        if mapping.act == Act::Write {
            let expected = Counts::all(pages, pages, remote);
            touched.judge_first_touch(report, &what, expected);
        } else {
            let counted = touched.counted.first_touch;
            report.equal(&what, Counts::default(), counted);
            judge_mapped(world, report, &what, &touched, mapping, remote);
        }
    }
    for nth in [0, 1, 3] {
        let what = format!("{way}, {}: pages there", steps[nth]);
        report.equal(what, mappings[nth].pages(), process.placed(nth)?);
    }
    Ok(())
}
