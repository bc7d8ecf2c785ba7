//! The place of the demonstration on this machine.

use anyhow::{Context as _, Result};

use crate::{World, world::Node};

/// Most CPUs that the service takes, however many there are.
const CPUS: usize = 2;

/// The CPUs and the node of the service, and the farthest other node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// CPUs of the service.
    pub cpus: Vec<usize>,
    /// Node of its memory, if there are several.
    pub node: Option<u32>,
    /// Farthest other node, if there is one.
    pub far: Option<Far>,
}

/// Another node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Far {
    /// Its number.
    pub node: u32,
    /// CPUs of the node, at most as many as the service takes.
    pub cpus: Vec<usize>,
}

impl Place {
    /// Chooses among the nodes of this machine, by the CPUs that this process may use.
    ///
    /// # Errors
    /// When it may use none of them.
    pub fn find(world: &World) -> Result<Self> {
        Self::among(&world.nodes, &allowed()?).context("this process may run on no CPU")
    }

    fn among(nodes: &[Node], allowed: &[usize]) -> Option<Self> {
        // The first CPUs serve more interrupts, so the last are taken.
        let usable = |node: &Node| -> Vec<usize> {
            let mut cpus: Vec<usize> = node.cpus.clone();
            cpus.retain(|cpu| allowed.contains(cpu));
            cpus.split_off(cpus.len().saturating_sub(CPUS))
        };
        let usable: Vec<Vec<usize>> = nodes.iter().map(usable).collect();
        let in_use = |place: &usize| !usable[*place].is_empty();
        // The first node holds what the kernel allocated early, so it is taken last.
        let home = (1..nodes.len()).find(in_use).or(Some(0).filter(in_use))?;
        let distance = |place: &usize| nodes[home].distances.get(*place).copied();
        let others = (0..nodes.len()).filter(|place| *place != home);
        let far = others.filter(in_use).max_by_key(distance).map(|place| Far {
            node: nodes[place].id,
            cpus: usable[place].clone(),
        });
        Some(Self {
            cpus: usable[home].clone(),
            node: (nodes.len() > 1).then_some(nodes[home].id),
            far,
        })
    }
}

/// The CPUs that this process may run on.
fn allowed() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None).context("cannot read the CPU affinity")?;
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    Ok(all.filter(|cpu| set.is_set(*cpu)).collect())
}

#[cfg(test)]
mod tests {
    use super::{Far, Place};
    use crate::world::Node;

    fn node(id: u32, cpus: &[usize], distances: &[u64]) -> Node {
        Node {
            id,
            cpus: cpus.to_vec(),
            distances: distances.to_vec(),
        }
    }

    #[test]
    fn of_one_node_the_last_cpus_are_taken() {
        let nodes = [node(0, &[0, 1, 2, 3], &[10])];
        let expected = Place {
            cpus: vec![2, 3],
            node: None,
            far: None,
        };
        assert_eq!(Place::among(&nodes, &[0, 1, 2, 3]), Some(expected));
        assert_eq!(Place::among(&nodes, &[1]).unwrap().cpus, [1]);
        assert_eq!(Place::among(&nodes, &[9]), None);
    }

    #[test]
    fn the_other_node_is_the_farthest_that_can_be_used() {
        let nodes = [
            node(0, &[0, 1], &[10, 20, 35]),
            node(1, &[2, 3], &[20, 10, 20]),
            node(2, &[4, 5], &[35, 20, 10]),
        ];
        let all = [0, 1, 2, 3, 4, 5];
        let place = Place::among(&nodes, &all).unwrap();
        assert_eq!((place.cpus, place.node), (vec![2, 3], Some(1)));
        let place = Place::among(&nodes, &[0, 1, 4]).unwrap();
        let far = Far {
            node: 0,
            cpus: vec![0, 1],
        };
        assert_eq!((place.cpus, place.far), (vec![4], Some(far)));
    }
}
