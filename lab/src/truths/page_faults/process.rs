//! A process that touches one mapping after the other, and the counts of each.

use anyhow::Result;

use super::counts::{Counted, Counts};
use crate::{
    Group, Report, Worker, World,
    memory::{Region, map_own_code},
    primes, task,
    worker::minor_faults,
    world::Node,
};

/// Access to each page of a mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    Read,
    Write,
}

/// Pages, the access to them, and their node after that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) region: Region,
    pub(super) act: Act,
    pub(super) node: u32,
}

impl Mapping {
    /// Its length in pages.
    pub(super) fn pages(&self) -> u64 {
        self.region.pages as u64
    }
}

/// The steps of the process: the warm-up, and two for each mapping.
const WARM: u8 = 0;
const TOUCH: u8 = 1;
const WHERE: u8 = 2;

/// A process on one CPU with mappings.
pub(super) struct Process<'a> {
    world: &'a World,
    group: &'a Group,
    worker: Worker,
    touched: u8,
    seen: Counted,
}

impl<'a> Process<'a> {
    /// Starts it in the group, on the first CPU of the node.
    pub(super) fn start(
        world: &'a World,
        group: &'a Group,
        node: &Node,
        mappings: &[Mapping],
    ) -> Result<Self> {
        let (cpu, mappings) = (node.cpus[0], mappings.to_vec());
        let warm = Region::anonymous(7)?;
        let mut worker = Worker::start(group, move |step| {
            if step == WARM {
                task::pin(0, &[cpu])?;
                map_own_code()?;
                warm.write();
                warm.read();
                return Ok(warm.nodes()?.len() as u64 + minor_faults());
            }
            let Mapping { region, act, node } = &mappings[usize::from(step / 4)];
            if step % 4 == WHERE {
                let on = region.nodes()?.into_iter();
                return Ok(on.filter(|on| *on == node.cast_signed()).count() as u64);
            }
            let before = minor_faults();
            match act {
                Act::Read => region.read(),
                Act::Write => region.write(),
            }
            Ok(minor_faults() - before)
        })?;
        // A new process has faults on code and stack anyhow.
        worker.step(WARM)?;
        worker.step(WARM)?;
        let seen = Counted::of(world, group)?;
        Ok(Self {
            world,
            group,
            worker,
            touched: 0,
            seen,
        })
    }

    /// Touches its next mapping.
    pub(super) fn touch(&mut self) -> Result<Touched> {
        let faults = self.worker.step(self.touched * 4 + TOUCH)?;
        let seen = Counted::of(self.world, self.group)?;
        let counted = seen.since(self.seen)?;
        self.touched += 1;
        self.seen = seen;
        Ok(Touched { counted, faults })
    }

    /// Number of pages of its `nth` mapping that are on the node they were to be on. To be asked
    /// once all mappings are touched, since asking takes memory.
    pub(super) fn placed(&mut self, nth: usize) -> Result<u64> {
        self.worker.step(u8::try_from(nth)? * 4 + WHERE)
    }
}

/// Result of touching one mapping.
pub(super) struct Touched {
    pub(super) counted: Counted,
    /// The kernel's count of faults for the process.
    pub(super) faults: u64,
}

impl Touched {
    /// Judges that there was a first touch for each page, and nothing else.
    pub(super) fn judge_first_touch(&self, report: &mut Report, what: &str, expected: Counts) {
        report.equal(what, expected, self.counted.first_touch);
        report.equal(
            format!("{what}: ru_minflt"),
            expected.faults.sum(),
            self.faults,
        );
        if let Some(mapped) = self.counted.file_map {
            report.equal(format!("{what}: mapped"), Counts::default(), mapped);
        }
    }
}

/// Numbers of pages: the primes from `least` on.
pub(super) fn sizes(least: u64) -> impl Iterator<Item = usize> {
    primes(least).filter_map(|size| usize::try_from(size).ok())
}
