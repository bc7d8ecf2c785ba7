//! Which slot a task counts in, and the cell of that slot on this CPU.

use aya_ebpf::{helpers::bpf_get_smp_processor_id, maps::Array};

use crate::{
    Cell,
    kernel::{self, Access, Css, Task},
};

/// A slot with the cgroup that has it now.
#[derive(Clone, Copy)]
pub struct Slot {
    /// `css.id`, or 0 beyond the capacity.
    pub index: u32,
    /// kernfs id; 0 beyond the capacity.
    pub cgroup: u64,
}

impl Slot {
    /// Where the cell of this slot on `cpu` is.
    #[inline(always)]
    #[must_use]
    pub fn place(self, cpu: u32) -> u32 {
        self.index * kernel::cpus() + cpu
    }
}

/// The slot of a css.
#[inline(always)]
#[must_use]
pub fn of_css<A: Access>(css: Css<A>) -> Slot {
    let index = css.id();
    if index >= kernel::slots() {
        return Slot {
            index: 0,
            cgroup: 0,
        };
    }
    Slot {
        index,
        cgroup: css.cgroup().kn().id(),
    }
}

/// The slot of a task.
#[inline(always)]
#[must_use]
pub fn of_task<A: Access>(task: Task<A>) -> Slot {
    of_css(task.cgroups().css())
}

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
        self.index * kernel::cpus() + cpu
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

/// The cell of `slot` on `cpu`, whichever cgroup it counts for.
#[inline(always)]
#[must_use]
pub fn peek<T>(cells: &Array<T>, slot: Slot, cpu: u32) -> Option<*mut T> {
    cells.get_ptr_mut(slot.place(cpu))
}

/// The cell of `slot` on `cpu`, which must be this CPU, reset if it was another cgroup's.
#[inline(always)]
#[must_use]
pub fn cell<T: Cell>(cells: &Array<T>, retired: &Array<T>, slot: Slot, cpu: u32) -> Option<*mut T> {
    let cell = peek(cells, slot, cpu)?;
    // SAFETY: a pointer into the map's value, written by this CPU alone.
    unsafe {
        if (*cell).cgroup() != slot.cgroup {
            if (*cell).cgroup() != 0
                && let Some(sum) = retired.get_ptr_mut(cpu)
            {
                (*sum).add(&*cell);
            }
            *cell = T::new(slot.cgroup);
        }
    }
    Some(cell)
}
