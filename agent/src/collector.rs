//! From a probe's maps to rows of counters by cgroup, and from rows by owner to the exposition.

use std::{collections::HashMap, time::Instant};

use aya::Ebpf;
use stallscope_ebpf::Host;

use crate::{
    cgroup::CgroupId,
    exposition::{Encoder, OwnerLabels},
    history::Quantity,
    owners::Owners,
};

/// Reads one probe's maps and knows what they mean.
pub trait Collector: Send {
    /// The words of its rows.
    fn columns(&self) -> Columns;

    /// Reads everything counted so far.
    fn read(&mut self, rows: &mut Rows);

    /// Writes its families.
    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder);

    /// What the history keeps of a row: quantities, and the words that sum to them.
    fn recorded(&self) -> Vec<(Quantity, usize)> {
        Vec::new()
    }

    /// What the history keeps of the host: totals since the start, times in nanoseconds.
    fn recorded_of_host(&self) -> Vec<(Quantity, u64)> {
        Vec::new()
    }

    /// Answers the programs' questions about the cgroups they saw; `group` says whose each is, if
    /// it is known yet.
    fn answer(&mut self, _group: &dyn Fn(CgroupId) -> Option<u32>) {}

    /// Looks after what it reads from the cgroup file system rather than from its maps; called at
    /// each tick, about once a second.
    fn watch(&mut self, _owners: &Owners, _now: Instant) {}

    /// Goes on with the tables of `larger`, which was loaded for `host`, in place of those that grow with
    /// the host's slots. All other tables are the same as before.
    ///
    /// # Errors
    /// When they cannot be mapped; everything then stays as it was.
    fn grow(&mut self, _larger: &Ebpf, _host: &Host) -> anyhow::Result<LastReading> {
        Ok(Box::new(|_| {}))
    }

    /// Drops what is kept for cgroups that are gone, and their rows from the reading that was just
    /// taken in. What they had counted belongs into [`Rows::retired`] from then on.
    fn forget(&mut self, _gone: &[CgroupId], _rows: &mut Rows) {}

    /// Events that could not be given to anything, by reason, since the start.
    fn lost(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Reads what was counted in tables that others have followed, once nothing is counted there any more.
pub type LastReading = Box<dyn FnOnce(&mut Rows)>;

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

    /// Adds all that `other` has.
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

fn add(sums: &mut [u64], parts: &[u64]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = sum.wrapping_add(*part);
    }
}

/// Totals of one probe by owner, in the order in which they are written.
pub struct OwnerRows<'a> {
    /// Labels and counters.
    pub rows: Vec<(&'a OwnerLabels, &'a [u64])>,
    /// Whose a cgroup is, for values of the moment.
    pub labels: &'a dyn Fn(CgroupId) -> Option<&'a OwnerLabels>,
}
