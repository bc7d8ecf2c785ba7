//! Page faults, made page by page on nodes of one's choice: each is counted once, with the locality
//! that the kernel says its page has.

mod counts;
mod files;
mod first_touch;
mod folios;
mod hinting;
mod process;
mod sampled;

use std::path::Path;

use anyhow::Result;

use super::Truth;
use crate::{Report, Setting, World};
pub(super) use sampled::{BALANCING, NOT_BALANCED};

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "page_faults_first_touch",
        about: "first writes to base pages, from a CPU of each node to memory of each node",
        both_hierarchies: false,
        run: first_touch::base_pages,
    },
    Truth {
        name: "page_faults_huge",
        about: "first writes to huge pages of each node: one fault, all its pages",
        both_hierarchies: false,
        run: first_touch::huge_pages,
    },
    Truth {
        name: "page_faults_copies",
        about: "copies on write, by where the copy lies and not what was copied",
        both_hierarchies: false,
        run: first_touch::copies,
    },
    Truth {
        name: "page_faults_shared",
        about: "shared memory of each node, read and written from a CPU of each node",
        both_hierarchies: false,
        run: files::shared_memory,
    },
    Truth {
        name: "page_faults_folios",
        about: "shared memory in large folios: one fault maps all pages of one",
        both_hierarchies: false,
        run: folios::shared_folios,
    },
    Truth {
        name: "page_faults_disk",
        about: "pages of a disk in the page cache, of which one fault maps several",
        both_hierarchies: false,
        run: files::disk,
    },
    Truth {
        name: "page_faults_hinting",
        about: "NUMA balancing samples a thread whose memory is on another node",
        both_hierarchies: false,
        run: hinting::one_thread,
    },
    Truth {
        name: "page_faults_hinting_shared",
        about: "NUMA balancing samples threads on two nodes that share memory",
        both_hierarchies: false,
        run: hinting::two_threads,
    },
    Truth {
        name: "page_faults_hinting_huge",
        about: "NUMA balancing samples huge pages: one fault is one, whatever it moves",
        both_hierarchies: false,
        run: hinting::huge_pages,
    },
];

/// Returns whether a hook counts here. It may be missing only on a machine that is not the lab's
/// own.
fn counts_here(world: &World, report: &mut Report, hook: &str) -> Result<bool> {
    let (state, detail) = world.hook("page_faults", hook)?;
    if state == "unsupported" && !world.guest {
        report.leave_out(format!("{hook}: {detail}"));
        return Ok(false);
    }
    Ok(true)
}

/// Switches NUMA balancing off for a while: its samples are faults as well, and it moves pages.
fn unsampled(world: &World) -> Result<Option<Setting>> {
    let there = world.guest && Path::new(BALANCING).exists();
    there.then(|| Setting::put(BALANCING, "0")).transpose()
}
