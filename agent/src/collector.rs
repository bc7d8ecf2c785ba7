//! From a probe's maps to rows of counters by cgroup, and from rows by owner to the exposition.

use std::collections::HashMap;

use crate::{
    cgroup::CgroupId,
    exposition::{Encoder, OwnerLabels},
};

/// Reads one probe's maps and knows what they mean.
pub trait Collector: Send {
    /// The words of its rows.
    fn columns(&self) -> Columns;

    /// Reads everything counted so far.
    fn read(&mut self, rows: &mut Rows);

    /// Writes its families.
    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder);

    /// Answers the programs' questions about the cgroups they saw; `group` says whose each is, if
    /// it is known yet.
    fn answer(&mut self, _group: &dyn Fn(CgroupId) -> Option<u32>) {}

    /// Drops what is kept in the kernel for cgroups that are gone.
    fn forget(&mut self, _gone: &[CgroupId]) {}

    /// Events that could not be given to anything, by reason, since the start.
    fn lost(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// How many words a row has, and which of them wrap at 32 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Columns {
    /// Words in all; those that wrap come last.
    pub width: usize,
    /// How many at the end are sums of 32-bit counters.
    pub wrapping: usize,
}

/// One reading of a probe: counters by cgroup, and those of cells that lost their cgroup.
#[derive(Debug, Default)]
pub struct Rows {
    width: usize,
    by_cgroup: HashMap<CgroupId, Box<[u64]>>,
    retired: Box<[u64]>,
}

impl Rows {
    /// Empties it for a reading of rows of `width` words.
    pub fn clear(&mut self, width: usize) {
        self.width = width;
        self.by_cgroup.clear();
        self.retired = vec![0; width].into();
    }

    /// The row of a cgroup, zero at first; id 0 stands for what lies beyond the capacity.
    pub fn row(&mut self, cgroup: CgroupId) -> &mut [u64] {
        self.by_cgroup
            .entry(cgroup)
            .or_insert_with(|| vec![0; self.width].into())
    }

    /// The row of cells that were taken over by another cgroup.
    pub fn retired(&mut self) -> &mut [u64] {
        &mut self.retired
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (CgroupId, &[u64])> {
        self.by_cgroup.iter().map(|(id, row)| (*id, &**row))
    }

    /// Whether a cgroup has a row.
    #[must_use]
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.by_cgroup.contains_key(&cgroup)
    }

    /// What [`Rows::retired`] holds.
    #[must_use]
    pub fn retired_row(&self) -> &[u64] {
        &self.retired
    }
}

/// Totals of one probe by owner, in the order in which they are written.
pub struct OwnerRows<'a> {
    /// Labels and counters.
    pub rows: Vec<(&'a OwnerLabels, &'a [u64])>,
}
