//! Counters that never fall: the counts of a probe, kept by owner across the ends of cgroups.
//!
//! The kernel side counts by cgroup, for as long as a cgroup has its slot. The ledger adds the growth since the last
//! reading to the cgroup's owner. Counts of cgroups that came and went between two readings are known in sum only: all
//! cells together, retired ones included, have grown by more than the rows of the cgroups. The ledger gives that
//! remainder to [`Owners::REMOVED`](crate::attribution::owners::Owners).

pub mod history;
pub mod rows;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use crate::{
    attribution::owners::{Account, OwnerIndex},
    host::cgroup::CgroupId,
};
use rows::{Columns, Rows};

/// Totals of one probe.
#[derive(Debug)]
pub struct Ledger {
    columns: Columns,
    /// Last reading, by cgroup.
    cgroups: HashMap<CgroupId, Base>,
    /// Number of the current reading.
    reading: u64,
    /// Cgroups that have ended. The ledger drops them once they have no row.
    ended: HashSet<CgroupId>,
    /// Counts of cgroups whose owner is not known yet.
    held: HashMap<CgroupId, Box<[u64]>>,
    /// Totals by owner.
    owners: HashMap<OwnerIndex, Box<[u64]>>,
    /// Recent growth of each owner's totals, over all columns: see [`Ledger::age`].
    recent: HashMap<OwnerIndex, u64>,
    /// Sum of all cells at the last reading.
    everything: Box<[u64]>,
    /// Buffer for the growth of one cgroup's row.
    grown: Vec<u64>,
    /// Growth of all cells that no owner has been given.
    unaccounted: Box<[i64]>,
    removed: OwnerIndex,
}

/// Baseline from which growth is measured.
#[derive(Debug)]
struct Base {
    /// The row at the last reading that had one.
    row: Box<[u64]>,
    /// Number of that reading.
    reading: u64,
}

impl Ledger {
    /// An empty ledger. Counts of cgroups that nobody saw go to `removed`.
    #[must_use]
    pub fn new(columns: Columns, removed: OwnerIndex) -> Self {
        Self {
            columns,
            cgroups: HashMap::new(),
            reading: 0,
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

    /// Adds a reading to the totals.
    pub fn update(&mut self, rows: &Rows, mut account: impl FnMut(CgroupId) -> Account) {
        let width = self.columns.width;
        self.reading += 1;
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
        // The cells of these belong to other cgroups by now.
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
            // The agent reads cells one after the other, so a balance may be short for one reading.
            if lost > 0 {
                let total = row_of(&mut self.owners, self.removed, width);
                total[i] = total[i].wrapping_add_signed(lost);
                self.unaccounted[i] -= lost;
            }
        }
        self.everything = everything.into();
    }

    /// Computes the growth of a cgroup's row since its last reading.
    ///
    /// A row falls when cells of it are started afresh: those of a cgroup that has ended, for another one, and those of
    /// a live one whose css the kernel makes anew, because its controller was switched off and on again above it
    /// (`cgroup_apply_control()`). The growth in between is not known then. The cgroup is given nothing, and the counts
    /// are left to [`Owners::REMOVED`](crate::attribution::owners::Owners::REMOVED); from there on growth is measured anew. Only
    /// where the cgroup had no cell at all at the last reading, all that is in its row is new.
    fn measure(&mut self, id: CgroupId, row: &[u64], grown: &mut Vec<u64>) {
        let width = self.columns.width;
        let exact = width - self.columns.wrapping;
        let base = self.cgroups.entry(id).or_insert_with(|| Base {
            row: vec![0; width].into(),
            reading: self.reading,
        });
        let last = &mut base.row;
        grown.clear();
        // Every column is tested, because growth in other cells may outweigh in one column the loss of a cell.
        let fell = (0..width).any(|i| balance(row[i], last[i], i >= exact) < 0);
        if !fell {
            grown.extend((0..width).map(|i| {
                let grown = row[i].wrapping_sub(last[i]);
                if i >= exact { grown & WRAP } else { grown }
            }));
        } else if base.reading + 1 < self.reading {
            grown.extend_from_slice(row);
        }
        last.copy_from_slice(row);
        base.reading = self.reading;
    }

    /// Adds the growth of a cgroup, and the counts held back for it, to its account.
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

    /// Takes the counts in `rows` off the cgroups' baselines: from the next reading on they are among the retired,
    /// because the agent no longer reads the cells that held them.
    pub fn retire(&mut self, rows: &Rows) {
        for (id, row) in rows.iter() {
            if let Some(base) = self.cgroups.get_mut(&id) {
                for (last, part) in base.row.iter_mut().zip(row) {
                    *last = last.wrapping_sub(*part);
                }
            }
        }
    }

    /// Adds an owner's totals to another's, because the owner has ended or has no place of its own.
    pub fn fold(&mut self, from: OwnerIndex, into: OwnerIndex) {
        self.recent.remove(&from);
        let Some(row) = self.owners.remove(&from) else {
            return;
        };
        add(row_of(&mut self.owners, into, self.columns.width), &row);
    }

    /// Drops the baselines of cgroups that have ended, as soon as they are gone from the maps as well.
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

    /// Halves [`Ledger::recent`] of every owner, so that growth counts less the longer ago it was.
    pub fn age(&mut self) {
        for recent in self.recent.values_mut() {
            *recent /= 2;
        }
    }

    /// Recent growth of an owner's totals, over all columns: a measure of its activity. Times are in nanoseconds and so
    /// outweigh counts.
    #[must_use]
    pub fn recent(&self, owner: OwnerIndex) -> u64 {
        self.recent.get(&owner).copied().unwrap_or_default()
    }

    /// An owner's totals.
    #[must_use]
    pub fn row(&self, owner: OwnerIndex) -> Option<&[u64]> {
        self.owners.get(&owner).map(|row| &**row)
    }

    /// All owners with counts.
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

/// Mask of 32-bit counters. Readings are seconds apart, so none grows by half of its range between two.
const WRAP: u64 = 0xffff_ffff;

/// Change of a sum of cells. It is negative when one of the cells goes to another cgroup; the sum of all cells falls
/// while counts that are being retired are missing for a moment.
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
        // The third never had an owner.
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

    #[test]
    fn a_live_cgroup_whose_cells_start_afresh_goes_on_counting() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [100, 10])], [0, 0]), by_id);
        // Its controller was switched off and on: the cell has a new css and counts from zero, 3 of 5 in view.
        ledger.update(&rows(&[(7, [3, 1])], [102, 10]), by_id);
        ledger.update(&rows(&[(7, [53, 2])], [102, 10]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[150, 11][..]));
        assert_eq!(ledger.row(REMOVED), Some(&[5, 1][..]));
    }

    #[test]
    fn what_a_cgroup_counts_after_all_its_cells_were_gone_is_its_own() {
        let mut ledger = Ledger::new(COLUMNS, REMOVED);
        ledger.update(&rows(&[(7, [100, 10]), (8, [1, 1])], [0, 0]), by_id);
        ledger.update(&rows(&[(8, [2, 2])], [100, 10]), by_id);
        ledger.update(&rows(&[(7, [30, 1]), (8, [2, 2])], [100, 10]), by_id);
        assert_eq!(ledger.row(OwnerIndex(7)), Some(&[130, 11][..]));
        assert!(ledger.row(REMOVED).is_none());
    }

    /// Cells of three slots on two CPUs, as the programs keep them.
    struct Cells {
        /// Serial number of the css that counts there, its cgroup, and the count.
        by_slot: [[(u64, u64, u64); 2]; 3],
        /// By slot: the css that has it, and its cgroup.
        slots: [(u64, u64); 3],
        serial: u64,
        retired: u64,
        /// True if a cell was started afresh since this was last taken.
        afresh: bool,
    }

    impl Cells {
        fn new() -> Self {
            Self {
                by_slot: [[(0, 0, 0); 2]; 3],
                slots: [(1, 10), (2, 11), (3, 12)],
                serial: 3,
                retired: 0,
                afresh: false,
            }
        }

        /// Gives the slot to a new css of this cgroup.
        fn make(&mut self, slot: usize, cgroup: u64) {
            self.serial += 1;
            self.slots[slot] = (self.serial, cgroup);
        }

        fn count(&mut self, slot: usize, cpu: usize, count: u64) {
            let (serial, cgroup) = self.slots[slot];
            let cell = &mut self.by_slot[slot][cpu];
            if cell.0 != serial {
                self.retired += cell.2;
                *cell = (serial, cgroup, 0);
                self.afresh = true;
            }
            cell.2 += count;
        }

        fn read(&self) -> Rows {
            let mut reading = rows(&[], [self.retired, self.retired & WRAP]);
            for (_, id, count) in self.by_slot.iter().flatten().filter(|cell| cell.1 != 0) {
                let row = reading.row(CgroupId(*id));
                row[0] += count;
                row[1] = (row[1] + count) & WRAP;
            }
            reading
        }
    }

    proptest! {
        /// Whatever cgroups come, go and take each other's slots over, whichever have their css made anew, and however
        /// late their names come: no owner's total falls, all of them together with what is held back are what was
        /// counted, and as long as no cell is started afresh each cgroup has all that it counts.
        #[test]
        fn nothing_is_lost_and_nothing_falls(
            steps in proptest::collection::vec(
                (0_usize..3, 0_usize..2, 0_u64..12, 1_u64..1000, any::<bool>()),
                1..80,
            ),
            late in 0_u64..3,
        ) {
            let mut ledger = Ledger::new(COLUMNS, REMOVED);
            let mut cells = Cells::new();
            let (mut counted, mut newest) = (0, 12_u64);
            let mut before: HashMap<OwnerIndex, u64> = HashMap::new();
            let mut since: HashMap<u64, u64> = HashMap::new();
            for (slot, cpu, event, count, read) in steps {
                match event {
                    // Another cgroup takes the slot of one that ended.
                    0 => {
                        newest += 1;
                        cells.make(slot, newest);
                    }
                    // Two cgroups have their css made anew, in each other's slots or in their own.
                    1 | 2 => {
                        let other = (slot + event as usize) % 3;
                        let (mine, others) = (cells.slots[slot].1, cells.slots[other].1);
                        cells.make(slot, others);
                        cells.make(other, mine);
                    }
                    3 => cells.make(slot, cells.slots[slot].1),
                    _ => {}
                }
                cells.count(slot, cpu, count);
                counted += count;
                *since.entry(cells.slots[slot].1).or_default() += count;
                if !read {
                    continue;
                }
                let named = |id: CgroupId| id.0 + late <= newest;
                let total = |ledger: &Ledger, id: u64| {
                    let owner = ledger.row(OwnerIndex(id as u32)).map_or(0, |row| row[0]);
                    owner + ledger.held.get(&CgroupId(id)).map_or(0, |row| row[0])
                };
                let then: HashMap<u64, u64> =
                    since.keys().map(|id| (*id, total(&ledger, *id))).collect();
                let account = |id| if named(id) { by_id(id) } else { Account::Pending };
                ledger.update(&cells.read(), account);
                if !std::mem::take(&mut cells.afresh) {
                    for (id, count) in &since {
                        prop_assert_eq!(total(&ledger, *id) - then[id], *count, "cgroup {}", id);
                    }
                }
                since.clear();
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
