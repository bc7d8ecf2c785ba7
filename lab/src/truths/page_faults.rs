//! Page faults, made page by page on nodes of one's choice: each is counted once, with the locality
//! that the kernel says its page has.

mod counts;
mod files;
mod first_touch;
mod hinting;
mod sampled;

use anyhow::Result;

use super::Truth;
use crate::{Group, Report, Setting, Worker, World, memory::Region, task, worker::minor_faults};
use counts::Counts;

pub(super) const TRUTHS: &[Truth] = &[
    Truth {
        name: "page_faults_first_touch",
        about: "first writes to base pages, from a CPU of each node to memory of each node",
        run: first_touch::base_pages,
    },
    Truth {
        name: "page_faults_huge",
        about: "first writes to huge pages of each node: one fault, all its pages",
        run: first_touch::huge_pages,
    },
    Truth {
        name: "page_faults_copies",
        about: "copies on write, by where the copy lies and not what was copied",
        run: first_touch::copies,
    },
    Truth {
        name: "page_faults_shared",
        about: "shared memory of each node, read and written from a CPU of each node",
        run: files::shared_memory,
    },
    Truth {
        name: "page_faults_disk",
        about: "pages of a disk in the page cache, of which one fault maps several",
        run: files::disk,
    },
    Truth {
        name: "page_faults_hinting",
        about: "NUMA balancing samples a thread whose memory is on another node",
        run: hinting::one_thread,
    },
    Truth {
        name: "page_faults_hinting_shared",
        about: "NUMA balancing samples threads on two nodes that share memory",
        run: hinting::two_threads,
    },
    Truth {
        name: "page_faults_hinting_huge",
        about: "NUMA balancing samples huge pages: one fault is one, whatever it moves",
        run: hinting::huge_pages,
    },
];

/// Whether a hook counts here. Only on a machine of one's own it may be missing.
fn counts_here(world: &World, report: &mut Report, hook: &str) -> Result<bool> {
    let (state, detail) = world.hook("page_faults", hook)?;
    if state == "unsupported" && !world.guest {
        report.leave_out(format!("{hook}: {detail}"));
        return Ok(false);
    }
    Ok(true)
}

/// NUMA balancing off for a while: its samples are faults as well, and it moves pages.
fn unsampled(world: &World) -> Result<Option<Setting>> {
    let path = "/proc/sys/kernel/numa_balancing";
    let there = world.guest && std::path::Path::new(path).exists();
    there.then(|| Setting::put(path, "0")).transpose()
}

/// What a process does with one mapping after the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    Read,
    Write,
}

/// The steps of a process that is pinned to one CPU.
const WARM: u8 = 0;
const TOUCH: u8 = 1;
const WHERE: u8 = 2;

/// A process on one CPU with mappings that it touches one by one.
struct Toucher {
    worker: Worker,
    next: u8,
}

impl Toucher {
    /// Starts it in the group. It touches `regions` in their order, each with its act, and of each
    /// tells how many of its pages lie on its node.
    fn start(group: &Group, cpu: usize, regions: Vec<(Region, Act, u32)>) -> Result<Self> {
        let warm = Region::anonymous(7)?;
        let worker = Worker::start(group, move |step| {
            if step == WARM {
                task::pin(0, &[cpu])?;
                warm.write();
                return Ok(minor_faults());
            }
            let (region, act, node) = &regions[usize::from(step / 4)];
            if step % 4 == WHERE {
                let on = region
                    .nodes()?
                    .into_iter()
                    .filter(|n| *n == node.cast_signed());
                return Ok(on.count() as u64);
            }
            let before = minor_faults();
            match act {
                Act::Read => region.read(),
                Act::Write => region.write(),
            }
            Ok(minor_faults() - before)
        })?;
        let mut process = Self { worker, next: 0 };
        // The faults on code and stack that a new process has anyhow.
        process.worker.step(WARM)?;
        process.worker.step(WARM)?;
        Ok(process)
    }

    /// Touches its next mapping: what was counted in the family, the kernel's count of faults, and
    /// how many of its pages are where they were to be.
    fn touch(&mut self, world: &World, group: &Group, family: &str) -> Result<Touched> {
        let before = Counts::of(world, group, family)?;
        let faults = self.worker.step(self.next * 4 + TOUCH)?;
        let counted = Counts::of(world, group, family)?.since(before)?;
        let placed = self.worker.step(self.next * 4 + WHERE)?;
        self.next += 1;
        Ok(Touched {
            counted,
            faults,
            placed,
        })
    }
}

/// What came of touching one mapping.
struct Touched {
    counted: Counts,
    /// The kernel's count for the process.
    faults: u64,
    /// Pages on the node they were to be on.
    placed: u64,
}
