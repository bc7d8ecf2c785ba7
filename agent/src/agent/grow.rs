//! Growth: replaces tables by larger ones without losing counts.

use super::{Agent, MAX_SLOTS, Reserved, host, log};
use crate::{
    host::{cgroup, deadline::at, heap::trim_heap},
    ledger::rows::Rows,
};
use stallscope_ebpf::Host;

impl Agent {
    /// Returns whether cgroups were counted beyond the capacity.
    pub(super) fn is_beyond(&self) -> bool {
        let mut instances = self.instances.iter();
        instances.any(|instance| instance.rows.has(cgroup::CgroupId(0)))
    }

    /// Loads larger tables when cgroups were counted beyond the capacity.
    ///
    /// # Errors
    /// When the kernel refuses the tables of some probes; these keep their present tables.
    pub fn grow(&mut self) -> anyhow::Result<()> {
        // Slot numbers go up to about the number of cgroups, so this growth has room for all of them at once.
        let cgroups = u32::try_from(self.owners.cgroups().count()).unwrap_or(MAX_SLOTS);
        let wanted = (self.host.slots * 2).max(cgroups.saturating_add(cgroups / 4));
        let larger = host(&self.topology, wanted, false);
        if larger.slots <= self.host.slots || !self.is_beyond() {
            return Ok(());
        }
        if self.sealed {
            self.refuse_to_grow();
            return Ok(());
        }
        tracing::info!(
            from = self.host.slots,
            to = larger.slots,
            "more cgroups than slots: growing"
        );
        let host = Host {
            generation: self.host.generation + 1,
            ..larger
        };
        at(|| "loading larger tables into the kernel");
        let kernel = self.kernel(host)?;
        self.host = host;
        self.grown += 1;
        let mut refused = Vec::new();
        for instance in &mut self.instances {
            let sizes = instance.probe.map_sizes;
            let Some(running) = &mut instance.running else {
                continue;
            };
            if sizes(&instance.host) == sizes(&host) {
                continue;
            }
            let mut last = Rows::default();
            last.clear(running.collector.columns().width);
            match instance.probe.grow(&kernel, running, &mut last) {
                Ok((status, old)) => {
                    self.overhead.keep(instance.probe.name, &old);
                    log(&status);
                    instance.status = status;
                    instance.host = host;
                }
                Err(state) => {
                    refused.push(format!("{}: {}", instance.probe.name, state.detail()));
                    continue;
                }
            }
            // Reads once more with the replaced tables, and from then on without them.
            instance.read(&mut self.owners, Some(&last));
            last.sum_into(&mut instance.followed);
            if let Some(ledger) = &mut instance.ledger {
                ledger.retire(&last);
            }
        }
        drop(kernel);
        self.reserved = Reserved::new(&self.host);
        trim_heap();
        anyhow::ensure!(
            refused.is_empty(),
            "these probes go on with the tables they have: {}",
            refused.join("; ")
        );
        Ok(())
    }
}
