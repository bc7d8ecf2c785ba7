//! Sealing: an agent without capabilities goes on measuring, but cannot load anything more.

use anyhow::Context as _;

use super::Agent;
use crate::{host::capabilities, probe::overhead};

impl Agent {
    /// Drops all capabilities once the probes are attached, if this kernel lets a process read maps without them: since
    /// 5.18 it does, before only where `kernel.unprivileged_bpf_disabled` is 0 (`__sys_bpf` in kernel/bpf/syscall.c).
    /// The tables cannot be enlarged from then on. Must be called on the main thread before other threads start.
    ///
    /// # Errors
    /// When the capabilities are still needed, with the reason; they are then all kept.
    pub fn seal(&mut self) -> anyhow::Result<()> {
        capabilities::drop_all(|| {
            for (probe, running) in self.running() {
                for (name, map) in running.ebpf.maps() {
                    let Some(data) = overhead::map_data(map) else {
                        continue;
                    };
                    data.info().with_context(|| {
                        format!("this kernel lets nobody without CAP_BPF ask about the map `{name}` of {probe}")
                    })?;
                }
            }
            Ok(())
        })?;
        self.sealed = true;
        Ok(())
    }

    /// Logs once that the tables would have to be enlarged.
    pub(super) fn refuse_to_grow(&mut self) {
        if !std::mem::replace(&mut self.refused_to_grow, true) {
            tracing::warn!(
                slots = self.host.slots,
                "more cgroups than slots, and without capabilities the kernel's tables cannot be enlarged: what is beyond is summed as (other); start with a larger --slots"
            );
        }
    }
}
