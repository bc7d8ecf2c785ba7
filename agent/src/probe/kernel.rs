//! Facts about a kernel that the agent has to know before it loads a probe.

use std::path::Path;

use anyhow::Context as _;
use aya::{Btf as ProgramBtf, Endianness};
use stallscope_ebpf::{Host, Layout};

use crate::host::{
    btf::Btf,
    cgroup::Hierarchy,
    topology::{Boundary, CpuPlace, Topology},
};

/// Facts about a kernel and its host, gathered before anything is loaded.
pub struct Kernel {
    /// Offsets of the kernel's fields.
    pub layout: Layout,
    /// Constants of the host for the programs.
    pub host: Host,
    /// Hierarchy whose cgroups are told apart.
    pub hierarchy: Hierarchy,
    /// NUMA node of each possible CPU; `None` where it is not known, as for a CPU that was offline.
    pub cpu_nodes: Vec<Option<u32>>,
    /// Place of each possible CPU.
    pub places: Vec<CpuPlace>,
    /// The boundaries that this host reports, nearest first.
    pub boundaries: Vec<Boundary>,
    /// NUMA distances, `nodes * nodes`, row by row; 0 where the firmware gives none.
    pub distances: Vec<u32>,
    /// Its type information.
    pub btf: Btf,
    /// `Ok` if NUMA balancing samples accesses; otherwise the reason why it does not.
    pub numa_balancing: Result<(), String>,
    /// aya's own view of the same BTF, for attaching.
    pub(super) program_btf: ProgramBtf,
    /// Hooks that the agent treats as if this kernel refused them.
    pub(super) disabled: Vec<String>,
}

impl Kernel {
    /// Gathers the facts.
    ///
    /// `disabled` names hooks (`kprobe`, `tp_btf/sched_switch`, …) that the agent treats as if this
    /// kernel refused them.
    ///
    /// # Errors
    /// When aya cannot read the kernel's type information.
    pub fn new(
        btf: Btf,
        layout: Layout,
        host: Host,
        hierarchy: Hierarchy,
        topology: &Topology,
        disabled: Vec<String>,
    ) -> anyhow::Result<Self> {
        let program_btf = ProgramBtf::parse(btf.as_bytes(), Endianness::default())
            .context("cannot parse the kernel's type information")?;
        let cpu_nodes = cpu_nodes(topology, host.cpus);
        let distances = (0..host.nodes)
            .flat_map(|from| (0..host.nodes).map(move |to| (from, to)))
            .map(|(from, to)| topology.distance(from, to).unwrap_or(0))
            .collect();
        let places = topology.places().to_vec();
        Ok(Self {
            layout,
            host,
            hierarchy,
            cpu_nodes,
            places,
            boundaries: topology.boundaries().collect(),
            distances,
            btf,
            numa_balancing: numa_balancing(Path::new(NUMA_BALANCING)),
            program_btf,
            disabled,
        })
    }

    /// Returns the first of these fields that the kernel lacks.
    pub(super) fn missing<'a>(&self, fields: &[&'a str]) -> Option<&'a str> {
        fields
            .iter()
            .copied()
            .find(|field| self.layout.get(field).is_none())
    }
}

/// NUMA node of each CPU. On a host with one node, CPUs that are offline will be on it too.
fn cpu_nodes(topology: &Topology, cpus: u32) -> Vec<Option<u32>> {
    let only = match topology.nodes() {
        [node] => Some(node.id),
        _ => None,
    };
    (0..cpus)
        .map(|cpu| topology.node_of(cpu).or(only))
        .collect()
}

const NUMA_BALANCING: &str = "/proc/sys/kernel/numa_balancing";

/// Checks that the kernel samples accesses; otherwise returns the reason why it does not.
fn numa_balancing(path: &Path) -> Result<(), String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("this kernel is built without NUMA balancing (CONFIG_NUMA_BALANCING)".to_owned())
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(text) if text.trim() == "0" => Err(format!(
            "NUMA balancing was off when the agent started ({} is 0)",
            path.display()
        )),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Topology, cpu_nodes, numa_balancing};

    /// The nodes of four CPUs, of which all but the last are online.
    fn nodes(cpulists: &[(u32, &str)]) -> Vec<Option<u32>> {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = sys.path().join("devices/system").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write("cpu/possible", "0-3");
        write("cpu/present", "0-3");
        write("cpu/online", "0-2");
        for (node, cpus) in cpulists {
            write(&format!("node/node{node}/cpulist"), cpus);
        }
        cpu_nodes(&Topology::read(sys.path()).unwrap(), 4)
    }

    #[test]
    fn the_node_of_an_offline_cpu_is_not_made_up() {
        let (first, last) = (Some(0), Some(1023));
        assert_eq!(
            nodes(&[(0, "0-1"), (1023, "2")]),
            [first, first, last, None]
        );
        // The offline CPU could come online on the node that has no CPUs yet.
        assert_eq!(nodes(&[(0, "0-2"), (1, "")]), [first, first, first, None]);
        assert_eq!(nodes(&[(1023, "0-2")]), [last; 4], "there is no other");
        assert_eq!(nodes(&[]), [first; 4], "a kernel without NUMA");
    }

    #[test]
    fn numa_balancing_is_off_on_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numa_balancing");
        assert!(numa_balancing(&path).unwrap_err().contains("built without"));
        for (text, on) in [("0\n", false), ("1\n", true), ("2\n", true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(numa_balancing(&path).is_ok(), on, "{text}");
        }
    }
}
