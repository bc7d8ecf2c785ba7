//! One reading of a probe: counters by cgroup.

use std::collections::HashMap;

use crate::host::cgroup::CgroupId;

/// Number of words of a row, and of those that wrap at 32 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Columns {
    /// Number of all words; those that wrap come last.
    pub width: usize,
    /// Number of words at the end that are sums of 32-bit counters.
    pub wrapping: usize,
}

/// One reading of a probe: counters by cgroup, and the counters of cells that lost their cgroup.
#[derive(Debug, Default)]
pub struct Rows {
    width: usize,
    by_cgroup: HashMap<CgroupId, Box<[u64]>>,
    retired: Box<[u64]>,
}

impl Rows {
    /// Empties the rows for a reading whose rows have `width` words.
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

    /// The row of cells that other cgroups took over.
    pub fn retired(&mut self) -> &mut [u64] {
        &mut self.retired
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (CgroupId, &[u64])> {
        self.by_cgroup.iter().map(|(id, row)| (*id, &**row))
    }

    /// Adds all rows of `other`.
    pub fn add(&mut self, other: &Self) {
        for (id, row) in other.iter() {
            add(self.row(id), row);
        }
        add(&mut self.retired, &other.retired);
    }

    /// Adds the rows of all cgroups to `sums`.
    pub fn sum_into(&self, sums: &mut [u64]) {
        self.iter().for_each(|(_, row)| add(sums, row));
    }

    /// Drops the rows of cgroups.
    pub fn remove(&mut self, cgroups: &[CgroupId]) {
        for id in cgroups {
            self.by_cgroup.remove(id);
        }
    }

    /// Returns whether a cgroup has a row.
    #[must_use]
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.by_cgroup.contains_key(&cgroup)
    }

    /// The row of [`Rows::retired`], to be read.
    #[must_use]
    pub fn retired_row(&self) -> &[u64] {
        &self.retired
    }
}

fn add(sums: &mut [u64], parts: &[u64]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = sum.wrapping_add(*part);
    }
}
