//! Which slot a task counts in, and the cell of that slot on this CPU.

use aya_ebpf::{helpers::bpf_get_smp_processor_id, maps::Array};

use crate::{
    Cell, cell_place,
    kernel::{self, Access, Css, Task},
};

/// A slot with the css that has it now: what is needed on the hot path, where following the css to
/// its cgroup's id would cost three more loads from two more cache lines.
#[derive(Clone, Copy)]
pub struct Seat<A> {
    /// `css.id`, or 0 beyond the capacity.
    pub index: u32,
    /// Tells this css from all others that ever had the slot; 0 beyond the capacity.
    pub serial: u64,
    css: Css<A>,
}

impl<A: Access> Seat<A> {
    /// The seat of a task.
    #[inline(always)]
    #[must_use]
    pub fn of_task(task: Task<A>) -> Self {
        let css = task.cgroups().css();
        let index = css.id();
        if index >= kernel::slots() {
            return Self {
                index: 0,
                serial: 0,
                css,
            };
        }
        Self {
            index,
            serial: css.serial_nr(),
            css,
        }
    }

    /// Where the cell of this slot on `cpu` is.
    #[inline(always)]
    #[must_use]
    pub fn place(self, cpu: u32) -> u32 {
        cell_place(self.index, cpu, kernel::cpus())
    }

    /// The cell of this slot on `cpu`, which must be this CPU; started afresh if it was another
    /// cgroup's.
    #[inline(always)]
    #[must_use]
    pub fn cell<T: Cell>(self, cells: &Array<T>, retired: &Array<T>, cpu: u32) -> Option<*mut T> {
        let cell = cells.get_ptr_mut(self.place(cpu))?;
        // SAFETY: a pointer into the map's value, written by this CPU alone.
        unsafe {
            if !(*cell).is_of(self.serial) {
                let retired = retired.get_ptr_mut(cpu).unwrap_or(core::ptr::null_mut());
                start_afresh(cell, retired, self);
            }
        }
        Some(cell)
    }

    /// kernfs id of the cgroup; 0 beyond the capacity.
    #[inline(always)]
    #[must_use]
    pub fn cgroup(self) -> u64 {
        if self.index == 0 {
            0
        } else {
            self.css.cgroup().kn().id()
        }
    }
}

/// Number of this CPU.
#[inline(always)]
#[must_use]
pub fn this_cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() as u32 }
}

/// Gives a cell to the cgroup that has its slot now, and what it counted to `retired`.
///
/// # Safety
/// `cell` is this CPU's of `seat`; `retired` is this CPU's, or null.
#[cold]
#[inline(never)]
unsafe fn start_afresh<T: Cell, A: Access>(cell: *mut T, retired: *mut T, seat: Seat<A>) {
    // SAFETY: the caller's.
    unsafe {
        if (*cell).cgroup() != 0 && !retired.is_null() {
            (*retired).add(&*cell);
        }
        *cell = T::new(seat.cgroup(), seat.serial);
    }
}
