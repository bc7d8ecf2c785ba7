//! Sizes of the kernel-side tables on this host, and the facts about its kernel that the programs need.

use std::{ffi::CStr, path::Path};

use stallscope_ebpf::{FaultCell, Host, MigrationCell, WaitCell, kernel::ABSENT};

use crate::{
    host::{
        btf::{Btf, Enumerator, KERNEL_BTF},
        cgroup::Hierarchy,
        topology::Topology,
    },
    probe::Kernel,
};

/// Budget of kernel memory for per-CPU cells and [`ROUNDED`] pages, in bytes. With the tables of fixed size this is
/// under 64 MB on 128 CPUs, even by the estimate of Linux 5.11 to 6.3, which is more than arrays take. With pages of 4
/// KiB, 50.5 MiB are left for cells.
const CELL_BUDGET: u64 = (50 << 20) + (576 << 10);
/// Approximate loss to page rounding, in pages: every array that the agent maps has a first page of its own, and a last
/// page that is not full.
const ROUNDED: u64 = 16;
/// Size of all cells of one slot on one CPU, in bytes.
const CELL_BYTES: u64 =
    (size_of::<WaitCell>() + size_of::<FaultCell>() + size_of::<MigrationCell>()) as u64;
const MIN_SLOTS: u32 = 1024;
pub(super) const MAX_SLOTS: u32 = 16384;
/// Number of slots of tables that cannot grow: a node has at most some hundred pods, each with a few cgroups.
pub(super) const SEALED_SLOTS: u32 = 4000;

/// One slot in this many is reserved for pods that would have none, on a node whose tables are full of others' cgroups:
/// 1,024 slots of the largest tables, 250 of those that cannot grow.
const RESERVED_OF: u32 = 16;

/// The largest `kernel.pid_max`.
pub(super) const PID_MAX: u32 = 1 << 22;

/// Returns the facts about this kernel, for tables of the sizes in `host`.
pub(super) fn kernel(
    hierarchy: &Hierarchy,
    mut host: Host,
    topology: &Topology,
    disabled: Vec<String>,
) -> anyhow::Result<Kernel> {
    let btf = Btf::read(Path::new(KERNEL_BTF))?;
    let layout = btf.layout(hierarchy.controller());
    host.page_node_shift = btf.page_node_shift().unwrap_or(64);
    host.page_shift = rustix::param::page_size().trailing_zeros();
    host.page_head_bit = btf
        .enumerator(Enumerator::PAGE_HEAD)
        .map_or(ABSENT, |bit| bit as u32);
    host.in_user_fault_bit = btf.in_user_fault_bit().unwrap_or(0);
    Kernel::new(btf, layout, host, hierarchy.clone(), topology, disabled)
}

/// Refuses a topology with fewer CPUs than the `here` of this host: a CPU beyond the tables would count in the cells of
/// the next slot.
pub(super) fn check_cpus(topology: &Topology, here: usize) -> anyhow::Result<()> {
    let cpus = topology.possible_cpus();
    anyhow::ensure!(
        cpus as usize >= here,
        "the topology has {cpus} possible CPUs, but this host has {here}: expected at least as many",
    );
    Ok(())
}

/// Returns the tables' sizes for this host: `wanted` slots, but no more than the memory budget allows.
pub(super) fn host(topology: &Topology, wanted: u32, exact: bool) -> Host {
    let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(PID_MAX);
    let nodes = nodes(topology);
    let page = rustix::param::page_size();
    let cpus = topology.possible_cpus();
    let host = tables(cpus, nodes, pid_max, page, wanted, exact);
    if locks_are_preemptible(rustix::system::uname().version()) {
        with_file_slots(host, page)
    } else {
        host
    }
}

/// Returns whether a kernel of this version (`uname -v`) can preempt the holder of a spinlock: one with
/// `CONFIG_PREEMPT_RT` has that word in `UTS_VERSION` (`init/Makefile`).
fn locks_are_preemptible(version: &CStr) -> bool {
    let words = version.to_bytes().split(u8::is_ascii_whitespace);
    words.into_iter().any(|word| word == b"PREEMPT_RT")
}

/// Returns these tables with separate cells for file mappings, and with fewer slots by the memory that those take.
fn with_file_slots(host: Host, page: usize) -> Host {
    let bytes = CELL_BYTES + size_of::<FaultCell>() as u64;
    let affordable = budget(page) / (bytes * u64::from(host.cpus));
    let slots = u32::try_from(affordable).map_or(host.slots, |most| host.slots.min(most.max(2)));
    Host {
        file_slots: slots,
        ..with_slots(host, slots)
    }
}

/// Returns these tables with so many slots, some of them reserved.
fn with_slots(host: Host, slots: u32) -> Host {
    Host {
        slots,
        direct_slots: slots - slots / RESERVED_OF,
        ..host
    }
}

/// Returns the highest node's number + 1, nodes without CPUs included.
fn nodes(topology: &Topology) -> u32 {
    let ids = topology.nodes().iter().map(|node| node.id);
    ids.max().map_or(1, |highest| highest + 1)
}

/// Returns the maximum size of all cells, in bytes, with pages of `page` bytes.
fn budget(page: usize) -> u64 {
    CELL_BUDGET.saturating_sub(ROUNDED * page as u64)
}

/// Returns the tables' sizes for a host of `cpus` possible CPUs, `nodes` NUMA nodes (highest number + 1) and pages of
/// `page` bytes, with `wanted` slots as far as the memory budget allows. Unless `exact`, `wanted` is taken as at least
/// 1,024 and at most 16,384.
#[must_use]
pub fn tables(cpus: u32, nodes: u32, pid_max: u32, page: usize, wanted: u32, exact: bool) -> Host {
    let cpus = cpus.max(1);
    let affordable = budget(page) / (CELL_BYTES * u64::from(cpus));
    let affordable = u32::try_from(affordable).unwrap_or(u32::MAX);
    let slots = if exact {
        wanted.max(2)
    } else {
        wanted.clamp(MIN_SLOTS, MAX_SLOTS)
    };
    let pids = pid_max.min(PID_MAX).next_power_of_two();
    let task_bits = pids.trailing_zeros().clamp(15, 17);
    let host = Host {
        cpus,
        task_mask: (1 << task_bits) - 1,
        task_bits,
        nodes,
        ..Host::default()
    };
    with_slots(host, slots.min(affordable))
}

#[cfg(test)]
mod tests {
    use stallscope_ebpf::{MAX_CPUS, MAX_NODES, OCCUPANT_SLOTS, cell_place};

    use super::*;

    /// Possible page sizes, in bytes.
    const PAGES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

    /// Returns a host with so many possible CPUs, of which the first is online, and with these nodes.
    fn topology(possible: u32, nodes: &[u32]) -> Topology {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = sys.path().join("devices/system").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write("cpu/possible", &format!("0-{}", possible - 1));
        write("cpu/present", "0");
        write("cpu/online", "0");
        for node in nodes {
            write(&format!("node/node{node}/cpulist"), "");
        }
        Topology::read(sys.path()).unwrap()
    }

    #[test]
    fn cells_keep_to_the_budget_and_to_32_bits_on_hosts_of_any_size() {
        for (cpus, page) in (1..=MAX_CPUS).flat_map(|cpus| PAGES.map(|page| (cpus, page))) {
            for (wanted, exact) in [
                (0, true),
                (2, true),
                (65536, true),
                (u32::MAX, true),
                (0, false),
                (u32::MAX, false),
            ] {
                let host = tables(cpus, 1, PID_MAX, page, wanted, exact);
                let cells = u64::from(host.slots) * u64::from(cpus);
                assert!(cells * CELL_BYTES <= budget(page), "{cpus} CPUs");
                assert_eq!(u64::from(cell_place(host.slots, 0, cpus)), cells);
                // At least slot 0 and one more, and at most as many as an occupant's word can hold.
                assert!((2..=OCCUPANT_SLOTS).contains(&host.slots), "{cpus} CPUs");
                assert!((2..=host.slots).contains(&host.direct_slots), "{cpus} CPUs");
            }
        }
    }

    #[test]
    fn slots_follow_the_cgroups_between_the_limits() {
        let slots = |cpus, wanted| tables(cpus, 1, PID_MAX, PAGES[0], wanted, false).slots;
        assert_eq!(slots(1, 0), 1024);
        assert_eq!(slots(1, 1024), 1024);
        assert_eq!(slots(1, 1025), 1025);
        assert_eq!(slots(1, 16384), 16384);
        assert_eq!(slots(1, 16385), 16384);
        // The slots that 50.5 MiB hold on 128 CPUs, and on the largest possible number of CPUs.
        assert_eq!(slots(128, 16384), 1292);
        assert_eq!(slots(MAX_CPUS, 16384), 20);
        assert_eq!(
            tables(0, 1, PID_MAX, PAGES[0], 5, true).cpus,
            1,
            "no host has none"
        );
    }

    #[test]
    fn where_locks_are_preemptible_file_mappings_have_cells_of_their_own_within_the_budget() {
        for (cpus, page) in [1, 2, 128, 4096, MAX_CPUS]
            .into_iter()
            .flat_map(|cpus| PAGES.map(|page| (cpus, page)))
        {
            let host = with_file_slots(tables(cpus, 1, PID_MAX, page, u32::MAX, false), page);
            assert_eq!(host.file_slots, host.slots);
            let bytes = CELL_BYTES + size_of::<FaultCell>() as u64;
            let cells = u64::from(host.slots) * u64::from(cpus);
            assert!(
                host.slots >= 2 && cells * bytes <= budget(page),
                "{cpus} CPUs"
            );
        }
        let few = tables(2, 1, PID_MAX, PAGES[0], 1024, false);
        assert_eq!(with_file_slots(few, PAGES[0]).slots, few.slots);
    }

    #[test]
    fn a_kernel_says_whether_its_locks_are_preemptible() {
        for (version, expected) in [
            (c"#1 SMP PREEMPT_RT Debian 6.12.107-1 (2026-07-01)", true),
            (c"#1 SMP PREEMPT_DYNAMIC @0", false),
            (c"#1 SMP PREEMPT Debian 5.10.223-1 (2024-08-10)", false),
        ] {
            assert_eq!(locks_are_preemptible(version), expected, "{version:?}");
        }
    }

    #[test]
    fn larger_pages_leave_less_for_cells() {
        assert_eq!(PAGES.map(budget), [52_953_088, 52_756_480, 51_970_048]);
        let slots = PAGES.map(|page| tables(128, 1, PID_MAX, page, u32::MAX, false).slots);
        assert_eq!(slots, [1292, 1288, 1268]);
        assert_eq!(budget(1 << 30), 0);
    }

    #[test]
    fn tables_are_for_possible_cpus_and_the_highest_node() {
        for (possible, nodes, expected) in [
            (1, &[0][..], 1),
            (4096, &[0, 1], 2),
            (MAX_CPUS, &[0, 63], 64),
            (MAX_CPUS, &[0, 64], 65),
            (2, &[1, 8, MAX_NODES - 2], MAX_NODES - 1),
            (2, &[MAX_NODES - 1], MAX_NODES),
            (2, &[], 1),
        ] {
            let host = host(&topology(possible, nodes), 5, true);
            assert_eq!((host.cpus, host.nodes), (possible, expected));
        }
    }

    #[test]
    fn a_pid_leaves_room_for_its_tag() {
        for pid_max in [0, 1, 301, 32768, 32769, 1 << 17, PID_MAX, u32::MAX] {
            let host = tables(1, 1, pid_max, PAGES[0], 5, true);
            assert_eq!(host.task_mask + 1, 1 << host.task_bits);
            // The pid's upper bits plus 1 fit in a byte, even if `pid_max` is raised later.
            let tag = ((PID_MAX - 1) >> host.task_bits) + 1;
            assert!(u8::try_from(tag).is_ok(), "{tag}");
        }
        let bits = |pid_max| tables(1, 1, pid_max, PAGES[0], 5, true).task_bits;
        assert_eq!((bits(32768), bits(32769), bits(PID_MAX)), (15, 16, 17));
    }

    #[test]
    fn a_topology_of_fewer_cpus_than_the_host_is_refused() {
        let four = topology(4, &[0]);
        assert!(check_cpus(&four, 3).is_ok());
        assert!(check_cpus(&four, 4).is_ok());
        let error = check_cpus(&four, 5).unwrap_err().to_string();
        assert!(
            error.contains("4 possible CPUs") && error.contains("has 5"),
            "{error}"
        );
    }
}
