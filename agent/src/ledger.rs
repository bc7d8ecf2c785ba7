//! Counters that never fall: what a probe counted, kept by owner across the ends of cgroups.
//!
//! The kernel side counts by cgroup, for as long as a cgroup has its slot. The ledger adds what has
//! grown since the last reading to the cgroup's owner. What was counted for cgroups that came and
//! went between two readings is known in sum only: it is what all cells together, retired ones
//! included, have grown beyond that, and goes to [`Owners::REMOVED`](crate::owners::Owners).

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use crate::{
    cgroup::CgroupId,
    collector::{Columns, Rows},
    owners::OwnerIndex,
};

/// Where the counts of a cgroup go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Account {
    /// To this owner.
    Owner(OwnerIndex),
    /// Not known yet: what is counted is held back until it is.
    Pending,
}

/// Totals of one probe.
#[derive(Debug)]
pub struct Ledger {
    columns: Columns,
    /// What was last read, by cgroup.
    cgroups: HashMap<CgroupId, Box<[u64]>>,
    /// Those of them that have ended, and are dropped once no row is theirs.
    ended: HashSet<CgroupId>,
    /// What cgroups have counted whose owner is not known yet.
    held: HashMap<CgroupId, Box<[u64]>>,
    /// Totals by owner.
    owners: HashMap<OwnerIndex, Box<[u64]>>,
    /// How much each owner's totals have grown lately, over all columns: see [`Ledger::age`].
    recent: HashMap<OwnerIndex, u64>,
    /// Sum of all cells at the last reading.
    everything: Box<[u64]>,
    /// Room for what one cgroup's row has grown by.
    grown: Vec<u64>,
    /// What all cells have grown by and no owner has been given.
    unaccounted: Box<[i64]>,
    removed: OwnerIndex,
}

impl Ledger {
    /// An empty ledger; what belonged to cgroups nobody saw goes to `removed`.
    #[must_use]
    pub fn new(columns: Columns, removed: OwnerIndex) -> Self {
        Self {
            columns,
            cgroups: HashMap::new(),
            ended: HashSet::new(),
            held: HashMap::new(),
            owners: HashMap::new(),
            recent: HashMap::new(),
            everything: vec![0; columns.width].into(),
            grown: Vec::new(),
            unaccounted: vec![0; columns.width].into(),
            removed,
        }
    }

    /// Takes in a reading.
    pub fn update(&mut self, rows: &Rows, mut account: impl FnMut(CgroupId) -> Account) {
        let width = self.columns.width;
        self.drop_ended(rows);
        let mut everything = rows.retired_row().to_vec();
        let mut grown = std::mem::take(&mut self.grown);
        for (id, row) in rows.iter() {
            for (sum, part) in everything.iter_mut().zip(row) {
                *sum = sum.wrapping_add(*part);
            }
            self.measure(id, row, &mut grown);
            self.give(id, account(id), &grown);
        }
        // The cells of these are another cgroup's by now.
        let mut held: Vec<_> = self.held.keys().copied().collect();
        held.retain(|id| !rows.has(*id));
        for id in held {
            self.give(id, account(id), &[]);
        }
        self.grown = grown;
        for i in 0..width {
            let wraps = i >= width - self.columns.wrapping;
            self.unaccounted[i] += balance(everything[i], self.everything[i], wraps);
            let lost = self.unaccounted[i];
            // Cells are read one after the other, so a balance may be short for one reading.
            if lost > 0 {
                let total = row_of(&mut self.owners, self.removed, width);
                total[i] = total[i].wrapping_add_signed(lost);
                self.unaccounted[i] -= lost;
            }
        }
        self.everything = everything.into();
    }

    /// By how much a cgroup's row has grown since it was last read; empty for one that has lost cells to another: it
    /// has ended, and counts no more.
    fn measure(&mut self, id: CgroupId, row: &[u64], grown: &mut Vec<u64>) {
        let width = self.columns.width;
        let exact = width - self.columns.wrapping;
        let last = row_of(&mut self.cgroups, id, width);
        grown.clear();
        // Each column tells, because what it counted elsewhere may outweigh in one what it lost in all.
        if (0..width).any(|i| balance(row[i], last[i], i >= exact) < 0) {
            return;
        }
        grown.extend((0..width).map(|i| {
            let grown = row[i].wrapping_sub(last[i]);
            if i >= exact { grown & WRAP } else { grown }
        }));
        last.copy_from_slice(row);
    }

    /// Adds what a cgroup has counted, and what was held back of it, to its account.
    fn give(&mut self, id: CgroupId, account: Account, grown: &[u64]) {
        let width = self.columns.width;
        for (sum, part) in self.unaccounted.iter_mut().zip(grown) {
            *sum -= part.cast_signed();
        }
        let Account::Owner(owner) = account else {
            add(row_of(&mut self.held, id, width), grown);
            return;
        };
        let held = self.held.remove(&id);
        if held.is_none() && grown.is_empty() {
            return;
        }
        let total = row_of(&mut self.owners, owner, width);
        let recent = self.recent.entry(owner).or_default();
        for row in held.as_deref().into_iter().chain([grown]) {
            add(total, row);
            *recent = row
                .iter()
                .fold(*recent, |sum, part| sum.saturating_add(*part));
        }
    }

    /// What `rows` holds of cgroups will be among what is retired from the next reading on, because the cells that
    /// held it are no longer read.
    pub fn retire(&mut self, rows: &Rows) {
        for (id, row) in rows.iter() {
            if let Some(last) = self.cgroups.get_mut(&id) {
                for (last, part) in last.iter_mut().zip(row) {
                    *last = last.wrapping_sub(*part);
                }
            }
        }
    }

    /// Adds an owner's totals to another's, because it has ended or has no place of its own.
    pub fn fold(&mut self, from: OwnerIndex, into: OwnerIndex) {
        self.recent.remove(&from);
        let Some(row) = self.owners.remove(&from) else {
            return;
        };
        add(row_of(&mut self.owners, into, self.columns.width), &row);
    }

    /// Drops what was remembered of cgroups that have ended, as soon as they are gone from the maps
    /// as well.
    pub fn forget(&mut self, gone: &[CgroupId], rows: &Rows) {
        for id in gone {
            if self.held.contains_key(id) {
                self.give(*id, Account::Owner(self.removed), &[]);
            }
        }
        let known = gone.iter().filter(|id| self.cgroups.contains_key(*id));
        self.ended.extend(known.copied());
        self.drop_ended(rows);
    }

    fn drop_ended(&mut self, rows: &Rows) {
        let cgroups = &mut self.cgroups;
        self.ended.retain(|id| {
            let stays = rows.has(*id);
            if !stays {
                cgroups.remove(id);
            }
            stays
        });
    }

    /// Halves what [`Ledger::recent`] says, so that the past counts less the longer it is ago.
    pub fn age(&mut self) {
        for recent in self.recent.values_mut() {
            *recent /= 2;
        }
    }

    /// How much an owner's totals have grown lately, over all columns: a measure of how much it does. Times are in
    /// nanoseconds and so outweigh counts.
    #[must_use]
    pub fn recent(&self, owner: OwnerIndex) -> u64 {
        self.recent.get(&owner).copied().unwrap_or_default()
    }

    /// An owner's totals.
    #[must_use]
    pub fn row(&self, owner: OwnerIndex) -> Option<&[u64]> {
        self.owners.get(&owner).map(|row| &**row)
    }

    /// All owners that counted anything.
    pub fn owners(&self) -> impl Iterator<Item = OwnerIndex> {
        self.owners.keys().copied()
    }
}

/// The row of a key, zero at first.
fn row_of<K: Eq + Hash>(rows: &mut HashMap<K, Box<[u64]>>, key: K, width: usize) -> &mut [u64] {
    rows.entry(key).or_insert_with(|| vec![0; width].into())
}

fn add(sums: &mut [u64], parts: &[u64]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum += part;
    }
}

/// Where 32-bit counters wrap. Readings are seconds apart, so none grows by half of that between two.
const WRAP: u64 = 0xffff_ffff;

/// By how much a sum of cells has changed: it falls when one of them goes to another cgroup, and that of
/// all while what is being retired is missing for a moment.
fn balance(now: u64, then: u64, wraps: bool) -> i64 {
    let change = now.wrapping_sub(then).cast_signed();
    if wraps {
        i64::from(change as i32)
    } else {
        change
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: Columns = Columns {
        width: 2,
        wrapping: 1,
    };
    const REMOVED: OwnerIndex = OwnerIndex(1);

    fn rows(cgroups: &[(u64, [u64; 2])], retired: [u64; 2]) -> Rows {
        let mut rows = Rows::default();
        rows.clear(2);
        for (id, row) in cgroups {
            rows.row(CgroupId(*id)).copy_from_slice(row);
        }
        rows.retired().copy_from_slice(&retired);
        rows
    }

    fn by_id(id: CgroupId) -> Account {
        Account::Owner(OwnerIndex(id.0 as u32))
    }

    #[test]
    fn growth_goes_to_the_owner_and_wraps() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        for count in [0x7000_0000, 0xe000_0000, 0xffff_fffe, 3] {
            ledger.update(&rows(&[(7, [15, count])], [0, 0]), by_id);
        }
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[15, (1 << 32) + 3][..]));
        assert!(ledger.row(REMOVED).is_none());
    }

    #[test]
    fn a_cgroup_that_lost_its_cells_keeps_what_it_had_and_the_rest_is_not_lost() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [10, 1])], [0, 0]), by_id);
        // It counted 5 more, then 8 took its slot over on one CPU and counted 2.
        ledger.update(&rows(&[(7, [4, 1]), (8, [2, 1])], [11, 1]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)).unwrap()[0], 10);
        assert_eq!(ledger.row(OwnerIndex(8)).unwrap()[0], 2);
        assert_eq!(ledger.row(REMOVED).unwrap()[0], 5);
    }

    #[test]
    fn a_lost_cell_shows_in_any_column() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [10, 4])], [0, 0]), by_id);
        // A cell with 3 and 4 went to 8, but 7 had counted 5 more in another that count in the first
        // column alone.
        ledger.update(&rows(&[(7, [12, 0]), (8, [1, 1])], [3, 4]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[10, 4][..]));
        assert_eq!(ledger.row(REMOVED), Some(&[5, 0][..]));
    }

    #[test]
    fn what_is_pending_is_given_once_it_is_known() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        let reading = rows(&[(7, [10, 1])], [0, 0]);
        ledger.update(&reading, |_| Account::Pending);
        assert_eq!(ledger.owners().count(), 0);
        ledger.update(&reading, by_id);
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[10, 1][..]));
        assert!(ledger.row(REMOVED).is_none());
    }

    #[test]
    fn what_is_pending_is_kept_when_another_cgroup_takes_the_cells() {
        let pending = |_| Account::Pending;
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [10, 1]), (9, [4, 4])], [0, 0]), pending);
        let reused = rows(&[(8, [2, 1])], [14, 5]);
        ledger.update(&reused, pending);
        assert_eq!(ledger.owners().collect::<Vec<_>>(), []);
        ledger.update(&reused, |id| {
            if id.0 == 9 {
                Account::Pending
            } else {
                by_id(id)
            }
        });
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[10, 1][..]));
        assert_eq!(ledger.row(OwnerIndex(8)), Some(&[2, 1][..]));
        // Nobody ever knew whose the third was.
        ledger.forget(&[CgroupId(9)], &reused);
        assert_eq!(ledger.row(REMOVED), Some(&[4, 4][..]));
        ledger.update(&reused, by_id);
        assert_eq!(ledger.row(REMOVED), Some(&[4, 4][..]));
    }

    #[test]
    fn what_larger_tables_follow_is_neither_lost_nor_counted_again() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [10, 1]), (0, [4, 4])], [3, 0]), by_id);
        // Both tables at once: 7 has counted 2 more in the larger one, 8 was beyond the smaller.
        ledger.update(
            &rows(&[(7, [12, 2]), (0, [5, 4]), (8, [1, 1])], [3, 0]),
            by_id,
        );
        ledger.retire(&rows(&[(7, [10, 1]), (0, [5, 4])], [0, 0]));
        ledger.update(&rows(&[(7, [6, 2]), (8, [3, 2])], [18, 5]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[16, 3][..]));
        assert_eq!(ledger.row(OwnerIndex(0)), Some(&[5, 4][..]));
        assert_eq!(ledger.row(OwnerIndex(8)), Some(&[3, 2][..]));
        assert_eq!(ledger.row(REMOVED).unwrap()[0], 3);
    }

    #[test]
    fn what_an_owner_did_lately_counts_more_than_what_it_did_long_ago() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [1000, 0])], [0, 0]), by_id);
        for _ in 0..4 {
            ledger.age();
        }
        ledger.update(&rows(&[(7, [1000, 0]), (8, [100, 2])], [0, 0]), by_id);
        let recent = [7, 8, 9].map(|owner| ledger.recent(OwnerIndex(owner)));
        assert_eq!(recent, [62, 102, 0]);
    }

    #[test]
    fn folding_moves_everything() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [10, 1]), (8, [1, 1])], [0, 0]), by_id);
        ledger.fold(OwnerIndex(7), OwnerIndex(8));
        assert_eq!(ledger.row(OwnerIndex(8)), Some(&[11, 2][..]));
        assert!(ledger.row(OwnerIndex(7)).is_none());
    }

    #[test]
    fn what_has_ended_is_dropped_when_its_row_goes_and_may_come_again() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        let reading = rows(&[(7, [10, 1]), (8, [3, 1])], [0, 0]);
        ledger.update(&reading, by_id);
        ledger.forget(&[CgroupId(7)], &reading);
        assert_eq!(ledger.cgroups.len(), 2);
        // Its entry was deleted, and what it held is with the retired.
        ledger.update(&rows(&[(8, [3, 1])], [10, 1]), by_id);
        assert_eq!(ledger.cgroups.len(), 1);
        assert!(ledger.ended.is_empty());
        ledger.update(&rows(&[(7, [2, 1]), (8, [3, 1])], [10, 1]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)).unwrap()[0], 12);
        assert!(ledger.row(REMOVED).is_none());
    }

    proptest! {
        /// Whatever cgroups come, go and take each other's slots over, and however late their names come, no owner's
        /// total falls, and all of them together with what is held back are what was counted.
        #[test]
        fn nothing_is_lost_and_nothing_falls(
            steps in proptest::collection::vec((0_usize..4, 0_u64..5, 1_u64..1000, any::<bool>()), 1..80),
            late in 0_u64..3,
        ) {
            let mut ledger = Ledger::new(COLUMNS, REMOVED);
            // Four cells, as of one slot on four CPUs: (cgroup, count).
            let mut cells = [(0_u64, 0_u64); 4];
            let (mut retired, mut counted, mut current) = (0, 0, 10_u64);
            let mut before: HashMap<OwnerIndex, u64> = HashMap::new();
            for (cpu, new, count, read) in steps {
                if new == 0 {
                    current += 1;
                }
                if cells[cpu].0 != current {
                    retired += cells[cpu].1;
                    cells[cpu] = (current, 0);
                }
                cells[cpu].1 += count;
                counted += count;
                if !read {
                    continue;
                }
                let mut reading = rows(&[], [retired, retired & 0xffff_ffff]);
                for (id, count) in cells.iter().filter(|cell| cell.0 != 0) {
                    let row = reading.row(CgroupId(*id));
                    row[0] += count;
                    row[1] = (row[1] + count) & 0xffff_ffff;
                }
                let named = |id: CgroupId| id.0 + late <= current;
                ledger.update(&reading, |id| if named(id) { by_id(id) } else { Account::Pending });
                prop_assert!(ledger.held.keys().all(|id| !named(*id)));
                let owned = ledger.owners().filter_map(|o| ledger.row(o)).map(|row| row[0]);
                let held = ledger.held.values().map(|row| row[0]);
                prop_assert_eq!(owned.chain(held).sum::<u64>(), counted);
                for owner in ledger.owners() {
                    let now = ledger.row(owner).map_or(0, |row| row[0]);
                    prop_assert!(now >= before.get(&owner).copied().unwrap_or(0));
                    before.insert(owner, now);
                }
            }
        }
    }
}
