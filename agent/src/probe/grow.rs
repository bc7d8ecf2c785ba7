//! Larger tables for a probe that counts: nothing is lost, nothing is counted twice, no counter falls.
//!
//! The agent loads the programs once more, with larger tables, and hands on every table that stays as large
//! as it was: what the kernel side remembers of tasks and CPUs, and what it counts for the host, goes on.
//! The new programs attach beside the old ones and take over from them CPU by CPU
//! ([`stallscope_ebpf::turn`]).

use std::{os::fd::AsFd as _, os::fd::AsRawFd as _, thread::sleep, time::Duration};

use anyhow::Context as _;
use aya::{Ebpf, maps::MapData};
use stallscope_ebpf::turn::turn_words;

use super::{Kernel, Probe, Running, State, Status};
use crate::{
    ledger::rows::Rows,
    probe::{cells::RESERVED, kernel_log, mapped_array::Mapped, overhead::map_data},
};

/// Time that CPUs have to change over by themselves, at their next event.
const CHANGE_OVER: Duration = Duration::from_millis(100);

impl Probe {
    /// Gives a running probe the tables that `kernel.host` asks for. The counts of the tables that they
    /// replace are added to `last`, which has the collector's width. Returns the old programs, which count
    /// no more.
    ///
    /// # Errors
    /// The state of the probe instead: everything then stays as it was.
    pub fn grow(
        &'static self,
        kernel: &Kernel,
        running: &mut Running,
        last: &mut Rows,
    ) -> Result<(Status, Ebpf), State> {
        let failed = |error: anyhow::Error| State::Failed {
            error: format!("{error:#}"),
        };
        let mut larger = self.load(kernel).map_err(failed)?;
        hand_on(&running.ebpf, &mut larger).map_err(failed)?;
        if let Some(prepare) = self.prepare {
            prepare(&mut larger, kernel).map_err(failed)?;
        }
        let mut turns = Mapped::<u64>::open(&larger, "TURNS").map_err(failed)?;
        let mut hooks = Vec::new();
        let (_, by, links) = self.attach(kernel, &mut larger, &mut hooks)?;
        let grown = running.collector.grow(&larger, &kernel.host);
        let last_reading = grown.map_err(failed)?;
        let generation = u64::from(kernel.host.generation);
        let attached = turn_words(kernel.host.cpus) as usize - 1;
        turns.set_word(attached, 0, generation);
        sleep(CHANGE_OVER);
        // Dropping their links takes the old programs off their hooks.
        drop(std::mem::replace(&mut running.links, links));
        for cpu in 0..attached {
            turns.set_word(cpu, 0, generation);
        }
        wait_for_programs();
        last_reading(last);
        running.log = kernel_log::KernelLog::open(&mut larger);
        let old = std::mem::replace(&mut running.ebpf, larger);
        let status = Status {
            probe: self.name,
            summary: self.summary,
            state: State::Attached { by },
            hooks,
        };
        Ok((status, old))
    }
}

/// Puts the maps of `old` in the place of those of `new` that are alike, before any program of `new` is
/// loaded: programs name maps by descriptor, and the kernel looks them up as it loads them.
fn hand_on(old: &Ebpf, new: &mut Ebpf) -> anyhow::Result<()> {
    for (name, map) in new.maps() {
        // Constants belong to the programs, each has its own messages, and reserved slots are at the end of the tables.
        if name.starts_with('.') || name == kernel_log::MAP || name == RESERVED {
            continue;
        }
        let (Some(to), Some(from)) = (map_data(map), old.map(name).and_then(map_data)) else {
            continue;
        };
        if same_size(from, to)? {
            let (from, to) = (from.fd().as_fd().as_raw_fd(), to.fd().as_fd().as_raw_fd());
            // SAFETY: both are open descriptors, owned by maps; the second stays open and is still owned by
            // its map, which is the first's from now on.
            let result = unsafe { libc::dup3(from, to, libc::O_CLOEXEC) };
            if result < 0 {
                return Err(std::io::Error::last_os_error())
                    .with_context(|| format!("cannot hand on the map `{name}`"));
            }
        }
    }
    Ok(())
}

fn same_size(a: &MapData, b: &MapData) -> anyhow::Result<bool> {
    let size = |map: &MapData| -> anyhow::Result<_> {
        let info = map.info()?;
        Ok((info.map_type()?, info.value_size(), info.max_entries()))
    };
    Ok(size(a)? == size(b)?)
}

/// Waits until no program runs that was on its hook when this was called, and all its stores are visible.
fn wait_for_programs() {
    // linux/membarrier.h
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier(2) has no preconditions. This command waits for an RCU grace period, and programs
    // run inside RCU's read side.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // The call fails with `nohz_full`, and where a filter of system calls does not know it.
        sleep(CHANGE_OVER);
    }
}
