//! From a probe's maps to rows of counters by cgroup, and from rows by owner to the exposition.

use std::{collections::HashMap, time::Instant};

use aya::Ebpf;
use stallscope_ebpf::Host;

use crate::{
    attribution::owners::Owners,
    exposition::{Encoder, OwnerLabels},
    host::cgroup::CgroupId,
    ledger::history::Quantity,
};

/// Reads one probe's maps and knows what they mean.
pub trait Collector: Send {
    /// Layout of its rows.
    fn columns(&self) -> Columns;

    /// Reads everything counted so far.
    fn read(&mut self, rows: &mut Rows);

    /// Writes its families.
    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder);

    /// Quantities that the history keeps of a row, with the words that sum to them.
    fn recorded(&self) -> Vec<(Quantity, usize)> {
        Vec::new()
    }

    /// Quantities that the history keeps of the host: totals since the start, times in nanoseconds.
    fn recorded_of_host(&self) -> Vec<(Quantity, u64)> {
        Vec::new()
    }

    /// Gives the programs the groups of the cgroups they saw; `group` returns the group of a cgroup, if
    /// it is known yet.
    fn answer(&mut self, _group: &dyn Fn(CgroupId) -> Option<u32>) {}

    /// Updates what it reads from the cgroup file system rather than from its maps. The agent calls it at
    /// each tick, about once a second.
    fn watch(&mut self, _owners: &Owners, _now: Instant) {}

    /// Goes on with the tables of `larger`, loaded for `host`, in place of those that grow with the
    /// host's slots. All other tables stay the same.
    ///
    /// # Errors
    /// When they cannot be mapped; everything then stays as it was.
    fn grow(&mut self, _larger: &Ebpf, _host: &Host) -> anyhow::Result<LastReading> {
        Ok(Box::new(|_| {}))
    }

    /// Drops what it keeps for cgroups that are gone, and their rows from the reading just taken in. From
    /// then on their counts belong into [`Rows::retired`].
    fn forget(&mut self, _gone: &[CgroupId], _rows: &mut Rows) {}

    /// Events that could not be attributed, by reason, since the start.
    fn lost(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Reads the counts of tables that larger ones have replaced, once no program counts there any more.
pub type LastReading = Box<dyn FnOnce(&mut Rows)>;

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

/// Totals of one probe by owner, in the order in which they are written.
pub struct OwnerRows<'a> {
    /// Labels and counters.
    pub rows: Vec<(&'a OwnerLabels, &'a [u64])>,
    /// Returns the labels of a cgroup's owner, for values of the moment.
    pub labels: &'a dyn Fn(CgroupId) -> Option<&'a OwnerLabels>,
}
