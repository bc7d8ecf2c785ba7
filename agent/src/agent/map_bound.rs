//! Upper bound of the probes' kernel memory on a host of another size.

use std::path::Path;

use aya::maps::{Map, MapType};

use super::host::{MAX_SLOTS, PID_MAX, kernel, tables};
use crate::{
    host::{cgroup::Hierarchy, topology::Topology},
    probe::overhead::{map_data, memlock},
    probes::PROBES,
};

/// CPUs per NUMA node on the host that the bound is for. More nodes take more memory, and servers do not have fewer
/// CPUs in a node.
const CPUS_OF_NODE: u32 = 16;

/// Result of [`map_bound`].
#[derive(Clone, Copy, Debug)]
pub struct MapBound {
    /// Kernel memory of all probes' maps, in bytes.
    pub bytes: u64,
    /// Number of cgroups that the maps have room for.
    pub slots: u32,
}

/// Returns the kernel memory of all probes' maps on a host of `cpus` CPUs, with the largest number of slots that
/// [`Agent`](super::Agent) would ever use. It makes maps of those sizes here and asks the kernel.
///
/// # Errors
/// When the kernel's types cannot be read or the kernel refuses a map.
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

/// Returns the bytes that each CPU adds to a per-CPU map; 0 for other maps.
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
