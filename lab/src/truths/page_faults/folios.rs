//! Shared memory in large folios, each of which one fault maps as a whole.

use anyhow::{Context as _, Result};

use super::{
    counts_here,
    files::{HOOK, judge_mapped},
    process::{Act, Mapping, Process},
    unsampled,
};
use crate::{
    Group, Report, Setting, World,
    memory::{Region, page_size, sizes_with},
};

/// Number of folios to touch, on the process's node and on another.
const FOLIOS: [usize; 2] = [7, 11];

/// Maps shared memory for so many folios, within one page table: a folio in two is mapped page by page.
fn shared(size: usize, count: usize) -> Result<Region> {
    // A page table has as many entries of eight bytes as fit on a page.
    let table = page_size() / 8;
    let all = Region::map(3 * table, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
    let folio = size / page_size();
    let begins =
        (all.address() / page_size()).next_multiple_of(table) - all.address() / page_size();
    Ok(all.part(begins.next_multiple_of(folio), count * folio))
}

pub(super) fn shared_folios(world: &mut World, report: &mut Report) -> Result<()> {
    if !counts_here(world, report, HOOK)? {
        return Ok(());
    }
    // The smallest size in which this kernel makes shared memory.
    let smallest = sizes_with("shmem_enabled").into_iter().min();
    let Some((size, enabled)) = smallest.filter(|_| world.guest) else {
        report.leave_out("this kernel makes no large folios of shared memory, or is not the lab's");
        return Ok(());
    };
    let _unsampled = unsampled(world)?;
    let _always = Setting::put(enabled, "always")?;
    let nodes = &world.nodes;
    let (here, far) = (&nodes[1 % nodes.len()], &nodes[3 % nodes.len()]);
    for (there, count) in [here, far].into_iter().zip(FOLIOS) {
        let group = Group::new(&format!("folios-{}", there.id))?;
        let region = shared(size, count)?;
        region.bind(there.id)?;
        let mapping = Mapping {
            region,
            act: Act::Write,
            node: there.id,
        };
        let mut process = Process::start(world, &group, here, &[mapping])?;
        let touched = process.touch()?;
        let what = format!("CPU of node {}, memory of node {}", here.id, there.id);
        let remote = here.id != there.id;
        judge_mapped(world, report, &what, &touched, &mapping, remote);
        let folios = u64::try_from(count).context("a small number")?;
        report.equal(format!("{what}: ru_minflt"), folios, touched.faults);
        let placed = process.placed(0)?;
        report.equal(format!("{what}: pages there"), mapping.pages(), placed);
    }
    Ok(())
}
