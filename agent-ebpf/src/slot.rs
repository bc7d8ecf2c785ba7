//! The slot that a task counts in, and the cell of that slot on this CPU.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::bpf_get_smp_processor_id,
    maps::{Array, HashMap},
};

use crate::{
    Cell, cell_place,
    cells::{CLOSED, SERIAL_WORD, Takeover, take_over},
    kernel::{self, Access, Css, Task},
    turn::{Turn, turn_words},
};

/// The tables in which a program counts by slot: see [`cells!`](crate::cells).
#[derive(Clone, Copy)]
pub struct Cells<T: 'static> {
    /// Counts of each CPU by slot, at `cell_place`.
    pub cells: &'static Array<T>,
    /// Counts of cgroups that lost their slot, by CPU.
    pub retired: &'static Array<T>,
    /// Hash whose lock orders the stores of a takeover: see [`crate::cells`].
    pub order: &'static HashMap<u32, u32>,
    /// Generation that counts, by CPU: see [`crate::turn`].
    pub turns: &'static Array<u64>,
    /// The reserved slots that the agent gave, by kernfs id of the cgroup.
    pub reserved: &'static HashMap<u64, u32>,
}

impl<T> Cells<T> {
    /// Returns whether these tables count an event on `cpu`, which is this CPU.
    #[inline(always)]
    #[must_use]
    pub fn have_turn(self, cpu: u32) -> bool {
        let Some(turn) = self.turns.get_ptr_mut(cpu) else {
            return false;
        };
        // SAFETY: the lookup gave a pointer to this CPU's word, which is read whole.
        unsafe {
            turn.read_volatile() == u64::from(kernel::generation()) || take_turn(turn, self.turns)
        }
    }
}

/// Takes this CPU's turn where it is time. Returns false, because the turn begins with the next event.
///
/// # Safety
/// `turn` is this CPU's word of `turns`.
#[cold]
#[inline(never)]
unsafe fn take_turn(turn: *mut u64, turns: &Array<u64>) -> bool {
    let own = u64::from(kernel::generation());
    if let Some(attached) = turns.get_ptr(turn_words(kernel::cpus()) - 1) {
        // SAFETY: `turn` is this CPU's word, which no other CPU's programs write, and `attached`
        // points into the same map's value; words are read and stored whole.
        unsafe {
            if Turn::of(own, turn.read_volatile(), attached.read_volatile()) == Turn::Take {
                turn.write_volatile(own);
            }
        }
    }
    false
}

/// Defines the maps that hold a program's cells of a type, and `cells()`, which names them.
#[macro_export]
macro_rules! cells {
    ($cell:ty) => {
        /// Counts of each CPU by slot, at `cell_place`.
        #[aya_ebpf::macros::map]
        static CELLS: aya_ebpf::maps::Array<$cell> =
            aya_ebpf::maps::Array::with_max_entries(1, aya_ebpf::bindings::BPF_F_MMAPABLE);
        /// Counts of cgroups that lost their slot, by CPU.
        #[aya_ebpf::macros::map]
        static RETIRED: aya_ebpf::maps::Array<$cell> =
            aya_ebpf::maps::Array::with_max_entries(1, aya_ebpf::bindings::BPF_F_MMAPABLE);
        /// Holds nothing: its lock orders the stores of a cell that changes hands.
        #[aya_ebpf::macros::map]
        static ORDER: aya_ebpf::maps::HashMap<u32, u32> =
            aya_ebpf::maps::HashMap::with_max_entries(1, 0);

        /// Generation of tables that counts, by CPU; the last word is the generation that is attached.
        #[aya_ebpf::macros::map]
        static TURNS: aya_ebpf::maps::Array<u64> =
            aya_ebpf::maps::Array::with_max_entries(1, aya_ebpf::bindings::BPF_F_MMAPABLE);

        /// The reserved slots that the agent gave, by kernfs id of the cgroup.
        #[aya_ebpf::macros::map]
        static RESERVED: aya_ebpf::maps::HashMap<u64, u32> =
            aya_ebpf::maps::HashMap::with_max_entries(1, 0);

        /// These maps.
        #[inline(always)]
        fn cells() -> $crate::slot::Cells<$cell> {
            $crate::slot::Cells {
                cells: &CELLS,
                retired: &RETIRED,
                order: &ORDER,
                turns: &TURNS,
                reserved: &RESERVED,
            }
        }
    };
}

/// A slot with the css that has it now. The hot path needs no more; following the css to its cgroup's
/// id would cost three more loads from two more cache lines.
#[derive(Clone, Copy)]
pub struct Seat<A> {
    /// `css.id`, a reserved slot, or 0 beyond the capacity.
    pub index: u32,
    /// Serial number, by which this css differs from all others that ever had the slot; 0 beyond the
    /// capacity.
    pub serial: u64,
    css: Css<A>,
}

impl<A: Access> Seat<A> {
    /// The seat of a task in these tables.
    #[inline(always)]
    #[must_use]
    pub fn of_task<T: Cell>(task: Task<A>, cells: Cells<T>) -> Self {
        let css = task.cgroups().css();
        let mut index = css.id();
        if index >= kernel::direct_slots() {
            index = reserved_slot(css, cells.reserved);
            if index == 0 {
                return Self {
                    index,
                    serial: 0,
                    css,
                };
            }
        }
        Self {
            index,
            serial: css.serial_nr(),
            css,
        }
    }

    /// The same css in another set of slots, which begins at `first`.
    #[inline(always)]
    #[must_use]
    pub fn in_set(self, first: u32) -> Self {
        Self {
            index: self.index + first,
            ..self
        }
    }

    /// Index of the cell of this slot on `cpu`.
    #[inline(always)]
    #[must_use]
    pub fn place(self, cpu: u32) -> u32 {
        cell_place(self.index, cpu, kernel::cpus())
    }

    /// Returns the cell of this slot on `cpu`, which must be this CPU. A cell of another cgroup's is
    /// started afresh.
    #[inline(always)]
    #[must_use]
    pub fn cell<T: Cell>(self, cells: Cells<T>, cpu: u32) -> Option<*mut T> {
        let cell = cells.cells.get_ptr_mut(self.place(cpu))?;
        // SAFETY: the lookup gave a pointer to this CPU's cell, which no other CPU writes.
        unsafe {
            if (*cell).serial() != self.serial {
                start_afresh(cell, cells, self, cpu);
            }
        }
        Some(cell)
    }

    /// kernfs id of the cgroup; 0 beyond the capacity.
    #[inline(always)]
    #[must_use]
    pub fn cgroup(self) -> u64 {
        if self.serial == 0 {
            0
        } else {
            self.css.cgroup().kn().id()
        }
    }
}

/// Returns the reserved slot that the agent gave to a cgroup, or 0.
#[cold]
#[inline(never)]
fn reserved_slot<A: Access>(css: Css<A>, reserved: &HashMap<u64, u32>) -> u32 {
    let cgroup = css.cgroup().kn().id();
    let slot = reserved.get_ptr(cgroup);
    // SAFETY: the lookup gave a pointer into the map's value, which is read whole. An entry that changes hands
    // before its use still names one of the table's slots, whose cells pass by serial number to the css that
    // counts there.
    slot.map_or(0, |slot| unsafe { slot.read_volatile() })
}

/// Number of this CPU.
#[inline(always)]
#[must_use]
pub fn this_cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() as u32 }
}

/// A cell that passes to another css.
struct Passing<T, A> {
    cell: *mut T,
    /// This CPU's retired cell, or null.
    retired: *mut T,
    order: &'static HashMap<u32, u32>,
    cpu: u32,
    cgroup: u64,
    serial: u64,
    access: PhantomData<A>,
}

impl<T: Cell, A: Access> Passing<T, A> {
    #[inline(always)]
    fn set_serial(&mut self, to: u64) {
        // SAFETY: `cell` is this CPU's, which no other CPU writes; every cell has this word, as `Cell`
        // demands.
        unsafe { self.cell.cast::<u64>().add(SERIAL_WORD).write_volatile(to) }
    }
}

impl<T: Cell, A: Access> Takeover for Passing<T, A> {
    #[inline(always)]
    fn close(&mut self) {
        self.set_serial(CLOSED);
    }

    #[inline(always)]
    fn barrier(&mut self) {
        // Both take the lock of one bucket, also where there is no room.
        let _ = self.order.insert(self.cpu, 0, BPF_ANY.into());
        let _ = self.order.remove(self.cpu);
    }

    #[inline(always)]
    fn retire(&mut self) {
        // SAFETY: both cells are this CPU's, which no other CPU writes, and `retired` is not null.
        unsafe {
            if (*self.cell).cgroup() != 0 && !self.retired.is_null() {
                (*self.retired).add(&*self.cell);
            }
        }
    }

    #[inline(always)]
    fn clear(&mut self) {
        // SAFETY: `cell` is this CPU's, which no other CPU writes.
        unsafe { *self.cell = T::new(self.cgroup) }
    }

    #[inline(always)]
    fn open(&mut self) {
        self.set_serial(self.serial);
    }
}

/// Gives a cell to the cgroup that has its slot now, and its counts to this CPU's retired cell.
///
/// # Safety
/// `cell` is of `seat` on `cpu`, which is this CPU.
#[cold]
#[inline(never)]
unsafe fn start_afresh<T: Cell, A: Access>(cell: *mut T, cells: Cells<T>, seat: Seat<A>, cpu: u32) {
    // The retired cells of the second set come after all of the first.
    let first = if seat.index >= kernel::slots() {
        kernel::cpus()
    } else {
        0
    };
    let retired = cells.retired.get_ptr_mut(cpu + first);
    take_over(&mut Passing {
        cell,
        retired: retired.unwrap_or(core::ptr::null_mut()),
        order: cells.order,
        cpu,
        cgroup: seat.cgroup(),
        serial: seat.serial,
        access: PhantomData::<A>,
    });
}
