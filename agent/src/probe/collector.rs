//! From a probe's maps to rows of counters by cgroup, and from rows by owner to the exposition.

use std::time::Instant;

use aya::Ebpf;
use stallscope_ebpf::Host;

use crate::{
    attribution::owners::Owners,
    exposition::{Encoder, OwnerLabels},
    host::cgroup::CgroupId,
    ledger::{
        history::Quantity,
        rows::{Columns, Rows},
    },
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

/// Totals of one probe by owner, in the order in which they are written.
pub struct OwnerRows<'a> {
    /// Labels and counters.
    pub rows: Vec<(&'a OwnerLabels, &'a [u64])>,
    /// Returns the labels of a cgroup's owner, for values of the moment.
    pub labels: &'a dyn Fn(CgroupId) -> Option<&'a OwnerLabels>,
}
