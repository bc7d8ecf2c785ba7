//! The cells of a probe, read while the programs count in them.

use aya::{Ebpf, Pod};
use stallscope_ebpf::{
    Cell, Host, cell_place,
    cells::{SERIAL_WORD, Source, copy},
    cpu_of_cell, is_beyond_slots,
    turn::turn_words,
};

use crate::{host::cgroup::CgroupId, ledger::rows::Rows, probe::mapped_array::Mapped};

/// Map of the reserved slots that the agent gave, by kernfs id of the cgroup.
pub const RESERVED: &str = "RESERVED";

/// Sizes of the maps that `stallscope_ebpf::cells!` defines, for a probe with so many sets of slots.
#[must_use]
pub fn map_sizes(host: &Host, sets: u32) -> Vec<(&'static str, u32)> {
    vec![
        ("CELLS", sets * cell_place(host.slots, 0, host.cpus)),
        ("RETIRED", sets * host.cpus),
        ("ORDER", host.cpus),
        ("TURNS", turn_words(host.cpus)),
        (RESERVED, host.reserved_slots().max(1)),
    ]
}

/// The tables `CELLS` and `RETIRED` of a probe. [`stallscope_ebpf::cells`] says how a cell passes from
/// one cgroup to another, and why a copy of it is all of one.
pub struct Cells<T> {
    counted: Mapped<T>,
    retired: Mapped<T>,
    cpus: usize,
    /// Cells of one set of slots; a probe may have several sets, one after the other.
    set: usize,
}

/// A cell of a table.
struct At<'a, T> {
    cells: &'a Mapped<T>,
    place: usize,
}

impl<T: Cell + Pod> Source for At<'_, T> {
    type Copy = Option<T>;

    fn serial(&self) -> u64 {
        self.cells.word(self.place, SERIAL_WORD).unwrap_or_default()
    }

    fn barrier(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
    }

    fn words(&self) -> Option<T> {
        self.cells.get(self.place)
    }
}

impl<T: Cell + Pod> Cells<T> {
    /// Maps the tables of a probe that was loaded for `host`.
    ///
    /// # Errors
    /// As [`Mapped::open`].
    pub fn open(ebpf: &Ebpf, host: &Host) -> anyhow::Result<Self> {
        let cpus = host.cpus as usize;
        Ok(Self {
            counted: Mapped::open(ebpf, "CELLS")?,
            retired: Mapped::open(ebpf, "RETIRED")?,
            cpus,
            set: cpus * host.slots as usize,
        })
    }

    /// Possible CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Adds the counts to rows; `add` adds those that one CPU, the last argument, has in a cell.
    pub fn read(&self, rows: &mut Rows, add: impl Fn(&mut [u64], &T, usize)) {
        // The retired cells come first: see the protocol.
        for place in 0..self.retired.len() {
            if let Some(cell) = self.retired.get(place) {
                add(rows.retired(), &cell, cpu_of_cell(place, self.cpus));
            }
        }
        self.read_slots(rows, add);
    }

    /// Does the same as [`Cells::read`], without the retired cells.
    pub fn read_slots(&self, rows: &mut Rows, add: impl Fn(&mut [u64], &T, usize)) {
        for place in 0..self.counted.len() {
            if let Some(cell) = self.of_somebody(place) {
                let row = rows.row(CgroupId(cell.cgroup()));
                add(row, &cell, cpu_of_cell(place, self.cpus));
            }
        }
    }

    /// Returns the cell at `place`, if it counted anything for any cgroup.
    fn of_somebody(&self, place: usize) -> Option<T> {
        if is_beyond_slots(place % self.set, self.cpus) {
            // Slot 0 never changes hands.
            return self.counted.get(place).filter(|cell| !cell.is_empty());
        }
        copy(&At {
            cells: &self.counted,
            place,
        })?
    }
}
