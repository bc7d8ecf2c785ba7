//! Moves that are made, by CPUs, and the sums that they have to add up to.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::levels::Levels;
use crate::World;

/// Number of moves from one CPU to another.
#[derive(Debug, Default)]
pub(super) struct Moves(BTreeMap<(usize, usize), u64>);

impl Moves {
    pub(super) fn add(&mut self, way: (usize, usize), count: u64) {
        *self.0.entry(way).or_default() += count;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// CPUs on which any move begins.
    pub(super) fn starts(&self) -> Vec<usize> {
        let mut starts: Vec<_> = self.0.keys().map(|(from, _)| *from).collect();
        starts.dedup();
        starts
    }

    /// Destinations of the moves from one CPU, with their numbers.
    pub(super) fn from(&self, start: usize) -> impl Iterator<Item = (usize, u64)> {
        let here = self.0.iter().filter(move |((from, _), _)| *from == start);
        here.map(|((_, to), count)| (*to, *count))
    }

    /// Sums by the word of the farthest boundary.
    pub(super) fn by_boundary(&self, levels: &Levels) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for ((from, to), count) in &self.0 {
            *sums.entry(levels.boundary(*from, *to)).or_default() += count;
        }
        sums
    }

    /// Sums by the nodes, of moves to another node.
    pub(super) fn between_nodes(&self, world: &World) -> Result<BTreeMap<(u32, u32), u64>> {
        let mut sums = BTreeMap::new();
        for ((from, to), count) in &self.0 {
            let (from, to) = (node_of(world, *from)?, node_of(world, *to)?);
            if from != to {
                *sums.entry((from, to)).or_default() += count;
            }
        }
        Ok(sums)
    }
}

/// The node of a CPU.
fn node_of(world: &World, cpu: usize) -> Result<u32> {
    let node = world.nodes.iter().find(|node| node.cpus.contains(&cpu));
    Ok(node.with_context(|| format!("CPU {cpu} is in no node"))?.id)
}

/// Sum of the distances of moves between nodes.
pub(super) fn distance(world: &World, pairs: &BTreeMap<(u32, u32), u64>) -> Result<u64> {
    let place = |id: u32| world.nodes.iter().position(|node| node.id == id);
    pairs
        .iter()
        .map(|((from, to), count)| {
            let way = place(*from).zip(place(*to));
            let distance = way.and_then(|(from, to)| world.nodes[from].distances.get(to));
            let distance = distance.with_context(|| format!("no distance from {from} to {to}"))?;
            Ok(distance * count)
        })
        .sum()
}
