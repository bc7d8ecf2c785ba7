//! Indexes into the flat tables by CPU and NUMA node: one definition for both sides.

/// Most CPUs that a kernel can be built for: `CONFIG_NR_CPUS` goes no further on either
/// architecture.
pub const MAX_CPUS: u32 = 8192;

/// Most NUMA nodes that a kernel can be built for: `CONFIG_NODES_SHIFT` goes no further than 10.
pub const MAX_NODES: u32 = 1024;

/// Number of slots that an [`Occupant`](crate::Occupant) tells apart.
pub const OCCUPANT_SLOTS: u32 = 1 << 24;

/// Index of the cell of `slot` on `cpu`, on a host of `cpus` possible CPUs. All cells are in one
/// row, and those of a slot are neighbours.
#[inline(always)]
#[must_use]
pub const fn cell_place(slot: u32, cpu: u32, cpus: u32) -> u32 {
    slot * cpus + cpu
}

/// The CPU whose cell is at `place`.
#[must_use]
pub const fn cpu_of_cell(place: usize, cpus: usize) -> usize {
    place % cpus
}

/// True if the cell at `place` is of slot 0, which takes what lies beyond the capacity.
#[must_use]
pub const fn is_beyond_slots(place: usize, cpus: usize) -> bool {
    place < cpus
}

/// Index of the distance between two nodes, on a host whose highest node is `nodes` - 1.
#[inline(always)]
#[must_use]
pub const fn distance_place(from: u16, to: u16, nodes: u32) -> u32 {
    from as u32 * nodes + to as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Cause, GROUP_HOST, Occupant};

    /// Slots that fill a table of 2^29 cells on the largest host. No host has more cells.
    const MOST_SLOTS: u32 = 1 << 16;

    #[test]
    fn one_cpu_has_a_cell_a_slot() {
        for slot in [0, 1, 2, MOST_SLOTS - 1] {
            let place = cell_place(slot, 0, 1);
            assert_eq!(place, slot);
            assert_eq!(cpu_of_cell(place as usize, 1), 0);
            assert_eq!(is_beyond_slots(place as usize, 1), slot == 0);
        }
    }

    #[test]
    fn the_largest_table_has_a_place_for_every_cell_and_none_overflows() {
        for cpus in [1, 2, 127, 128, 4096, MAX_CPUS - 1, MAX_CPUS] {
            let cells = u64::from(MOST_SLOTS) * u64::from(cpus);
            let last = cell_place(MOST_SLOTS - 1, cpus - 1, cpus);
            assert_eq!(u64::from(last), cells - 1);
            // Slots follow each other without a gap and without sharing a cell.
            for slot in [0, 1, 2, MOST_SLOTS - 2] {
                assert_eq!(
                    cell_place(slot, cpus - 1, cpus) + 1,
                    cell_place(slot + 1, 0, cpus)
                );
            }
        }
    }

    #[test]
    fn every_pair_of_nodes_has_a_distance_of_its_own() {
        for nodes in [1, 2, 9, 64, 65, MAX_NODES - 1, MAX_NODES] {
            let last = (nodes - 1) as u16;
            assert_eq!(distance_place(0, 0, nodes), 0);
            assert_eq!(distance_place(last, last, nodes), nodes * nodes - 1);
            let mut seen = vec![false; (nodes * nodes) as usize];
            for from in 0..=last {
                for to in 0..=last {
                    let place = distance_place(from, to, nodes) as usize;
                    assert!(!seen[place], "{from} to {to} of {nodes} shares its place");
                    seen[place] = true;
                }
            }
        }
    }

    #[test]
    fn an_occupant_tells_all_slots_apart_beside_any_group() {
        let last = OCCUPANT_SLOTS - 1;
        for group in [0, GROUP_HOST, 2, u32::MAX] {
            for slot in [1, MOST_SLOTS, last - 1, last] {
                let who = Occupant::user(slot, group);
                assert_ne!(who, Occupant::user(slot - 1, group));
                assert_ne!(who, Occupant::user(slot, group.wrapping_add(1)));
                // It neither becomes a fixed cause nor loses its group.
                assert!(!who.is_daemon());
                assert_eq!(who.0 >> 56, 0);
                assert_eq!((who.0 >> 24) as u32, group);
                assert_eq!(who.0 & u64::from(last), u64::from(slot));
            }
            // A slot beyond is folded into slot 0 and leaves the group alone; no table is so large.
            assert_eq!(
                Occupant::user(OCCUPANT_SLOTS, group),
                Occupant::user(0, group)
            );
        }
        let fixed = Occupant::other(Cause::Unattributed);
        assert_ne!(Occupant::user(last, u32::MAX), fixed);
    }

    proptest! {
        #[test]
        fn a_place_is_of_one_slot_and_cpu(
            cpus in 1..=MAX_CPUS,
            slots in 1..=MOST_SLOTS,
            at in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let (slot, cpu) = (at.0.index(slots as usize) as u32, at.1.index(cpus as usize) as u32);
            let place = cell_place(slot, cpu, cpus);
            prop_assert!(u64::from(place) < u64::from(slots) * u64::from(cpus));
            let (place, cpus) = (place as usize, cpus as usize);
            prop_assert_eq!(cpu_of_cell(place, cpus), cpu as usize);
            prop_assert_eq!(place / cpus, slot as usize);
            prop_assert_eq!(is_beyond_slots(place, cpus), slot == 0);
        }

        #[test]
        fn a_distance_is_of_one_pair(
            nodes in 1..=MAX_NODES,
            at in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let (from, to) = (at.0.index(nodes as usize) as u16, at.1.index(nodes as usize) as u16);
            let place = distance_place(from, to, nodes);
            prop_assert!(place < nodes * nodes);
            prop_assert_eq!((place / nodes, place % nodes), (u32::from(from), u32::from(to)));
        }
    }
}
