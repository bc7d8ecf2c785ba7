//! Reserved slots, for pods that would have none because others made more cgroups than the tables hold.
//!
//! The kernel gives a cgroup's css the lowest free ID, and that ID is its slot. Whoever may make cgroups can make so
//! many that a new pod's ID lies beyond the tables, on a node where these cannot grow. The pod's cgroups then get slots
//! at the end of the tables, which no ID leads to: from [`Host::direct_slots`] on.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, Map};
use stallscope_ebpf::Host;

use super::Agent;
use crate::{attribution::Rank, host::cgroup::CgroupId, probe::cells::RESERVED};

/// The reserved slots, free and given.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    free: Vec<u32>,
    given: HashMap<CgroupId, u32>,
    failed: bool,
}

impl Reserved {
    /// Returns all reserved slots of tables of these sizes as free.
    pub(super) fn new(host: &Host) -> Self {
        Self {
            free: (host.direct_slots..host.slots).rev().collect(),
            ..Self::default()
        }
    }

    /// Returns the number of given slots.
    pub(super) fn given(&self) -> usize {
        self.given.len()
    }

    fn len(&self) -> usize {
        self.free.len() + self.given.len()
    }

    /// Gives the slots to the first of `wanting`: by rank, then those that have one already, then the newest. Returns
    /// the cgroups that lost a slot, and those that got one with its number.
    fn give(
        &mut self,
        mut wanting: Vec<(Rank, CgroupId)>,
    ) -> (Vec<CgroupId>, Vec<(CgroupId, u32)>) {
        let given = &self.given;
        wanting.sort_unstable_by_key(|(rank, id)| {
            (*rank, !given.contains_key(id), std::cmp::Reverse(*id))
        });
        wanting.truncate(self.len());
        let chosen: HashSet<CgroupId> = wanting.iter().map(|(_, id)| *id).collect();
        let mut taken = Vec::new();
        self.given.retain(|id, slot| {
            let stays = chosen.contains(id);
            if !stays {
                self.free.push(*slot);
                taken.push(*id);
            }
            stays
        });
        let mut got = Vec::new();
        for (_, id) in wanting {
            if !self.given.contains_key(&id)
                && let Some(slot) = self.free.pop()
            {
                self.given.insert(id, slot);
                got.push((id, slot));
            }
        }
        (taken, got)
    }
}

impl Agent {
    /// Gives reserved slots to cgroups of pods, and remaining ones to services of the host, once anything was counted
    /// beyond the capacity.
    pub(super) fn give_reserved_slots(&mut self) {
        if self.reserved.len() == 0 || !self.is_beyond() {
            return;
        }
        let given = &self.reserved.given;
        // A cgroup with counts has a slot of its own, unless it was given one.
        let counted = |id| self.instances.iter().any(|instance| instance.rows.has(id));
        let wanting = self.owners.ranked().filter(|(rank, id)| {
            *rank <= Rank::Host && id.0 != 0 && (given.contains_key(id) || !counted(*id))
        });
        let wanting = wanting.collect();
        let (taken, got) = self.reserved.give(wanting);
        if taken.is_empty() && got.is_empty() {
            return;
        }
        let told = self.tell_programs(&taken, &got);
        match told {
            Ok(()) => tracing::debug!(taken = taken.len(), given = got.len(), "reserved slots"),
            Err(error) if !self.reserved.failed => {
                self.reserved.failed = true;
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot give reserved slots: pods beyond the capacity are summed as (other)"
                );
            }
            Err(_) => {}
        }
    }

    fn tell_programs(&mut self, taken: &[CgroupId], got: &[(CgroupId, u32)]) -> anyhow::Result<()> {
        for instance in &mut self.instances {
            let Some(running) = &mut instance.running else {
                continue;
            };
            let Some(map @ Map::HashMap(_)) = running.ebpf.map_mut(RESERVED) else {
                continue;
            };
            let mut map = BpfHashMap::<_, u64, u32>::try_from(map)?;
            for id in taken {
                // A missing entry is no error: this probe never got it.
                let _ = map.remove(&id.0);
            }
            // A probe whose larger tables were refused gets only those slots that its tables have.
            let own = instance.host.direct_slots..instance.host.slots;
            for (id, slot) in got.iter().filter(|(_, slot)| own.contains(slot)) {
                map.insert(id.0, slot, 0)
                    .with_context(|| format!("slot {slot} in {}", instance.probe.name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(slots: u32) -> Reserved {
        Reserved::new(&Host {
            slots: 100 + slots,
            direct_slots: 100,
            ..Host::default()
        })
    }

    #[test]
    fn pods_get_the_slots_of_services_and_nobody_those_of_pods() {
        let mut reserved = reserved(2);
        let (pod, host) = (Rank::Pod, Rank::Host);
        let id = CgroupId;
        let (taken, got) = reserved.give(vec![(host, id(1)), (host, id(2)), (host, id(3))]);
        assert!(taken.is_empty());
        assert_eq!(got, [(id(3), 100), (id(2), 101)], "the newest first");
        // The first services keep their slots: a newer one of the same rank does not take them.
        let (taken, got) = reserved.give(vec![(host, id(2)), (host, id(3)), (host, id(4))]);
        assert_eq!((taken.len(), got.len()), (0, 0));
        let (taken, got) = reserved.give(vec![
            (host, id(3)),
            (pod, id(5)),
            (host, id(2)),
            (pod, id(6)),
        ]);
        assert_eq!(taken.len(), 2);
        assert_eq!(got.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [6, 5]);
        let (taken, got) = reserved.give(vec![(pod, id(5)), (pod, id(6)), (pod, id(7))]);
        assert_eq!((taken.len(), got.len()), (0, 0));
        // A cgroup that ended returns its slot.
        let (taken, got) = reserved.give(vec![(pod, id(6)), (pod, id(7))]);
        assert_eq!((taken, got.len()), (vec![id(5)], 1));
        assert_eq!(reserved.given(), 2);
        let slots: HashSet<u32> = reserved.given.values().copied().collect();
        assert_eq!(slots, HashSet::from([100, 101]));
    }
}
