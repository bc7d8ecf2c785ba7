//! Values that depend on the number of CPUs and NUMA nodes or on the page size, checked by computation: no kernel of
//! any size is needed.

#[path = "limits/maps.rs"]
mod maps;
#[path = "limits/sources.rs"]
mod sources;

use stallscope::{agent::tables, probe::kernel_log, probes::PROBES};
use stallscope_ebpf::{HINTED_CGROUPS, Host, MAX_CPUS, MAX_NODES, NODE_PAIRS};

use maps::{ARRAY, HASH, MMAPABLE, Map, RING};

/// Possible page sizes, in bytes.
const PAGES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
const LARGEST_PAGE: u32 = 64 << 10;

/// Returns hosts at the limits: the smallest, a small one, the documented one, and the largest.
fn hosts() -> [Host; 5] {
    let most = u32::MAX;
    [
        tables(1, 1, 32768, PAGES[0], 0, true),
        tables(2, 1, 1 << 22, PAGES[0], 65536, true),
        tables(128, 8, 1 << 22, PAGES[2], most, false),
        tables(MAX_CPUS - 1, MAX_NODES - 1, 1 << 22, PAGES[1], most, false),
        tables(MAX_CPUS, MAX_NODES, 1 << 22, PAGES[0], most, true),
    ]
}

/// Returns the type of a map, and its required number of entries on a host.
fn expected(probe: &str, map: &str, host: &Host) -> Option<(u32, u64)> {
    let (cpus, slots) = (u64::from(host.cpus), u64::from(host.slots));
    let nodes = u64::from(host.nodes);
    Some(match (probe, map) {
        ("cpu_wait" | "page_faults" | "task_migrations", "CELLS") => (ARRAY, slots * cpus),
        ("cpu_wait" | "page_faults" | "task_migrations", "RETIRED")
        | ("cpu_wait", "RINGS")
        | ("task_migrations", "PLACES" | "UNPAIRED")
        | ("cpu_throttling", "UNTHROTTLING") => (ARRAY, cpus),
        ("cpu_wait" | "page_faults" | "task_migrations", "ORDER") => (HASH, cpus),
        // One entry per CPU, and one for all.
        ("cpu_wait" | "page_faults" | "task_migrations", "TURNS") => (ARRAY, cpus + 1),
        // A sixteenth of the slots.
        ("cpu_wait" | "page_faults" | "task_migrations", "RESERVED") => (HASH, (slots / 16).max(1)),
        ("cpu_wait", "OWNERS") => (ARRAY, slots),
        ("cpu_wait", "PHANTOMS") => (HASH, 1024),
        ("cpu_wait", "TASKS") => (ARRAY, 1 << host.task_bits),
        // One entry per node for each of three daemons, and one for what has no cell.
        ("cpu_wait", "DAEMONS") => (ARRAY, 3 * nodes + 1),
        ("task_migrations", "DISTANCES") => (ARRAY, nodes * nodes),
        ("task_migrations", "NODE_PAIRS") | ("page_faults", "HINTS") if nodes == 1 => (HASH, 1),
        ("task_migrations", "NODE_PAIRS") => (HASH, NODE_PAIRS.into()),
        ("page_faults", "HINTS") => (HASH, HINTED_CGROUPS.into()),
        // Entries by cgroup, task or reason.
        ("page_faults", "LOST") | ("cpu_wait", "PHANTOMS_LOST") => (ARRAY, 1),
        ("cpu_throttling", "LENGTHS") | ("reclaim", "TASKS") => (HASH, 4096),
        ("cpu_throttling", "LOST") => (ARRAY, 2),
        ("reclaim", "LENGTHS") => (HASH, 8192),
        ("reclaim", "LOST") => (ARRAY, 4),
        (_, kernel_log::MAP) => (RING, kernel_log::RING_BYTES[0].into()),
        _ => return None,
    })
}

/// Returns every map of every probe on a host: the probe's name and the map, with its number of entries.
fn made(host: &Host) -> Vec<(&'static str, Map)> {
    let mut all = Vec::new();
    for probe in PROBES {
        let Ok(elf) = stallscope::probe::object(probe.name) else {
            println!("skipped: {} was not built", probe.name);
            continue;
        };
        let mut sizes = (probe.map_sizes)(host);
        sizes.push((kernel_log::MAP, kernel_log::RING_BYTES[0]));
        for mut map in maps::of(elf) {
            if let Some(at) = sizes.iter().position(|(name, _)| *name == map.name) {
                map.entries = sizes.remove(at).1;
            }
            all.push((probe.name, map));
        }
        let unknown: Vec<_> = sizes
            .iter()
            .filter(|(name, _)| *name != kernel_log::MAP)
            .collect();
        assert!(unknown.is_empty(), "{}: no map is {unknown:?}", probe.name);
    }
    all
}

#[test]
fn every_map_is_as_large_as_what_it_is_indexed_by() {
    for host in hosts() {
        for (probe, map) in made(&host) {
            let name = &map.name;
            let expected = expected(probe, name, &host);
            let found = Some((map.kind, u64::from(map.entries)));
            assert_eq!(
                found, expected,
                "{probe} {name}, {} CPUs and {} nodes",
                host.cpus, host.nodes
            );
            // The size of an array must fit the integers that the kernel and mmap(2) count with.
            let bytes = u64::from(map.entries) * u64::from(map.value);
            assert!(
                i32::try_from(bytes).is_ok(),
                "{probe} {name}: {bytes} bytes"
            );
        }
    }
}

#[test]
fn an_array_that_the_agent_maps_has_values_of_whole_words() {
    // The kernel pads values to eight bytes. The agent walks them without padding.
    for (probe, map) in made(&hosts()[0]) {
        if map.flags & MMAPABLE != 0 {
            assert_eq!(map.kind, ARRAY, "{probe} {}", map.name);
            assert_eq!(map.value % 8, 0, "{probe} {}", map.name);
        }
    }
}

#[test]
fn ring_buffers_are_powers_of_two_of_whole_pages_of_any_size() {
    let whole = |bytes: u32| {
        assert!(bytes.is_power_of_two(), "{bytes}");
        assert_eq!(bytes % LARGEST_PAGE, 0, "{bytes}");
        for page in PAGES {
            assert_eq!(bytes as usize % page, 0, "{bytes} in pages of {page}");
        }
    };
    for bytes in kernel_log::RING_BYTES {
        whole(bytes);
    }
    assert!(kernel_log::RING_BYTES.contains(&kernel_log::ring_bytes()));
    for probe in PROBES {
        let Ok(elf) = stallscope::probe::object(probe.name) else {
            println!("skipped: {} was not built", probe.name);
            continue;
        };
        for map in maps::of(elf).iter().filter(|map| map.kind == RING) {
            whole(map.entries);
            assert_eq!(map.name, kernel_log::MAP, "{}: nobody sizes it", probe.name);
        }
    }
}

#[test]
fn tables_keep_to_their_budget_with_pages_of_any_size() {
    /// Target for the tables on 128 CPUs, in bytes: `docs/cost.md`.
    const MOST: u64 = 64_000_000;
    for page in PAGES {
        let host = tables(128, 8, 1 << 22, page, u32::MAX, false);
        let sizes = made(&host)
            .into_iter()
            .map(|(_, map)| map.bytes(page as u64, 128));
        let bytes: u64 = sizes.sum();
        println!("pages of {page} bytes: {bytes} bytes");
        assert!(bytes <= MOST, "{bytes} bytes with pages of {page}");
    }
}
