//! Exported counters of the moves of a group.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{
    levels::{Levels, WORDS},
    moves::{Moves, distance},
};
use crate::{Group, Report, World, label};

const TOTAL: &str = "stallscope_task_migrations_total";
const BETWEEN: &str = "stallscope_task_migrations_between_nodes_total";
const DISTANCE: &str = "stallscope_task_migration_distance_total";

/// Counters of a group, or their growth.
#[derive(Debug)]
pub(super) struct Exported {
    /// Counts by boundary; boundaries that are not exported are absent.
    boundaries: BTreeMap<&'static str, u64>,
    /// Counts by node of the source and of the destination.
    pairs: BTreeMap<(u32, u32), u64>,
    /// Sum of the pairs, whatever their labels are.
    all_pairs: u64,
    distance: Option<u64>,
}

impl Exported {
    pub(super) fn of(world: &World, group: &Group) -> Result<Self> {
        let scrape = world.scrape()?;
        let group = label("cgroup", &group.label);
        let mut boundaries = BTreeMap::new();
        for word in WORDS.into_iter().chain(["none"]) {
            let labels = [group.clone(), label("boundary", word)];
            if let Some(count) = scrape.exact(TOTAL, &labels)? {
                boundaries.insert(word, count);
            }
        }
        let mut pairs = BTreeMap::new();
        for (from, to) in pairs_of(world) {
            let ends = [("from", from), ("to", to)].map(|(name, id)| label(name, &id.to_string()));
            let labels = [std::slice::from_ref(&group), &ends].concat();
            pairs.insert((from, to), scrape.sum(BETWEEN, &labels)?);
        }
        let group = [group];
        Ok(Self {
            boundaries,
            pairs,
            all_pairs: scrape.sum(BETWEEN, &group)?,
            distance: scrape.exact(DISTANCE, &group)?,
        })
    }

    /// Growth since `before`.
    pub(super) fn since(mut self, before: &Self) -> Result<Self> {
        let less = |now: u64, then: u64| now.checked_sub(then).context("a counter fell");
        for (word, count) in &mut self.boundaries {
            *count = less(*count, before.boundaries.get(word).copied().unwrap_or(0))?;
        }
        for (pair, count) in &mut self.pairs {
            *count = less(*count, before.pairs.get(pair).copied().unwrap_or(0))?;
        }
        self.all_pairs = less(self.all_pairs, before.all_pairs)?;
        let then = before.distance.unwrap_or(0);
        self.distance = self.distance.map(|now| less(now, then)).transpose()?;
        Ok(self)
    }

    pub(super) fn total(&self) -> u64 {
        self.boundaries.values().sum()
    }

    /// Judges every number against the moves that were made.
    pub(super) fn judge(&self, report: &mut Report, world: &World, moves: &Moves) -> Result<()> {
        let levels = Levels::read(world);
        let expected = moves.by_boundary(&levels);
        for word in WORDS.into_iter().chain(["none"]) {
            let expected = expected.get(word).copied().unwrap_or(0);
            let counted = self.boundaries.get(word).copied().unwrap_or(0);
            if expected != 0 || counted != 0 {
                report.equal(format!("moves, boundary {word}"), expected, counted);
            }
        }
        let expected = moves.between_nodes(world)?;
        for (from, to) in pairs_of(world) {
            let expected = expected.get(&(from, to)).copied().unwrap_or(0);
            let counted = self.pairs.get(&(from, to)).copied().unwrap_or(0);
            if expected != 0 || counted != 0 {
                let what = format!("moves from node {from} to {to}");
                report.equal(what, expected, counted);
            }
        }
        let sum = expected.values().sum();
        report.equal("moves between nodes in all", sum, self.all_pairs);
        self.judge_distance(report, world, distance(world, &expected)?);
        self.judge_levels(report, &levels);
        Ok(())
    }

    /// Judges the sum of distances. It is exported where there are several nodes, and is `expected`
    /// there.
    fn judge_distance(&self, report: &mut Report, world: &World, expected: u64) {
        let text = |distance: Option<u64>| distance.map_or("none".to_owned(), |d| d.to_string());
        let expected = (world.nodes.len() > 1).then_some(expected);
        report.equal("sum of distances", text(expected), text(self.distance));
    }

    /// Judges that a boundary is exported where CPUs report its level, and only there.
    fn judge_levels(&self, report: &mut Report, levels: &Levels) {
        // The agent leaves out more clusters, such as a single one.
        for word in WORDS.into_iter().filter(|word| *word != "cluster") {
            let [expected, counted] = [levels.tell(word), self.boundaries.contains_key(word)];
            if expected || counted {
                report.equal(format!("boundary {word} is exported"), expected, counted);
            }
        }
    }

    /// Judges that the families agree with each other, where only the kernel knows the moves.
    pub(super) fn judge_sums(&self, report: &mut Report, world: &World) -> Result<()> {
        let sum = self.pairs.values().sum();
        report.equal("moves between nodes in all", sum, self.all_pairs);
        self.judge_distance(report, world, distance(world, &self.pairs)?);
        let at_least = self.boundaries.get("node").copied().unwrap_or(0);
        let package = self.boundaries.get("package").copied().unwrap_or(0);
        // Packages may hold several nodes, and nodes several packages.
        report.between(
            "moves between nodes by the boundary",
            at_least,
            at_least + package,
            self.all_pairs,
        );
        if world.nodes.len() > 1 {
            let seen = self.pairs.values().filter(|count| **count != 0).count();
            report.between(
                "pairs of nodes with moves",
                2,
                self.pairs.len() as u64,
                seen as u64,
            );
        }
        Ok(())
    }
}

/// Pairs of every node with every other.
fn pairs_of(world: &World) -> Vec<(u32, u32)> {
    let ids: Vec<u32> = world.nodes.iter().map(|node| node.id).collect();
    let pairs = ids
        .iter()
        .flat_map(|from| ids.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| from != to).collect()
}
