//! How much kernel memory the probes may take at most on a host of another size.

use std::path::Path;

use aya::maps::{Map, MapType};

use super::host::{MAX_SLOTS, PID_MAX, kernel, tables};
use crate::{
    cgroup::Hierarchy,
    overhead::{map_data, memlock},
    probes::PROBES,
    topology::Topology,
};

/// CPUs that share a NUMA node in the host that the bound is for; more nodes take more memory, and
/// servers have no fewer CPUs in one.
const CPUS_OF_NODE: u32 = 16;

/// What [`map_bound`] found.
#[derive(Clone, Copy, Debug)]
pub struct MapBound {
    /// Kernel memory of all probes' maps, in bytes.
    pub bytes: u64,
    /// The cgroups that there is then room for.
    pub slots: u32,
}

/// Kernel memory of all probes' maps on a host of `cpus` CPUs with all the slots that
/// [`Agent`](super::Agent) would ever grow to: by making the maps here in those sizes and asking the
/// kernel.
///
/// # Errors
/// When the kernel's types cannot be read or it refuses a map.
pub fn map_bound(cpus: u32) -> anyhow::Result<MapBound> {
    let topology = Topology::read(Path::new("/sys"))?;
    let here = u64::from(topology.possible_cpus());
    let hierarchy = Hierarchy::discover(Path::new("/proc"), None)?;
    let nodes = cpus.div_ceil(CPUS_OF_NODE);
    let page = rustix::param::page_size();
    let host = tables(cpus, nodes, PID_MAX, page, MAX_SLOTS, false);
    let kernel = kernel(&hierarchy, host, &topology, Vec::new())?;
    let mut bytes = 0;
    for probe in PROBES {
        let ebpf = probe.load(&kernel)?;
        for (name, map) in ebpf.maps() {
            let Some(memory) = memlock(map) else {
                tracing::warn!(probe = probe.name, map = name, "memory not known");
                continue;
            };
            bytes += memory;
            bytes += per_cpu(map)? * u64::from(cpus).saturating_sub(here);
        }
    }
    Ok(MapBound {
        bytes,
        slots: host.slots,
    })
}

/// What each CPU adds to a map whose values the kernel itself keeps by CPU, in bytes.
fn per_cpu(map: &Map) -> anyhow::Result<u64> {
    let Some(data) = map_data(map) else {
        return Ok(0);
    };
    let info = data.info()?;
    let by_cpu = matches!(
        info.map_type()?,
        MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash
    );
    let value = u64::from(info.value_size()).next_multiple_of(8);
    Ok(if by_cpu {
        value * u64::from(info.max_entries())
    } else {
        0
    })
}
