//! The boundaries between CPUs, read from sysfs once more and by other means than the agent's.

use std::{collections::BTreeMap, fs, path::Path};

use crate::World;

/// Words of the label `boundary`, the farthest first; `none` is the rest.
pub(super) const WORDS: [&str; 6] = ["package", "node", "die", "llc", "cluster", "core"];

/// Report of each CPU at each level: CPUs with the same report are together.
#[derive(Debug)]
pub(super) struct Levels(BTreeMap<usize, [Option<String>; WORDS.len()]>);

impl Levels {
    pub(super) fn read(world: &World) -> Self {
        let mut levels = BTreeMap::new();
        for node in &world.nodes {
            for cpu in &node.cpus {
                levels.insert(*cpu, place(*cpu, node.id));
            }
        }
        let mut levels = Self(levels);
        // Clusters of one core say nothing that cores do not.
        if levels.0.values().all(|place| place[4] == place[5]) {
            levels.0.values_mut().for_each(|place| place[4] = None);
        }
        levels
    }

    /// The farthest level at which both CPUs report something, and not the same.
    pub(super) fn boundary(&self, from: usize, to: usize) -> &'static str {
        let [Some(from), Some(to)] = [from, to].map(|cpu| self.0.get(&cpu)) else {
            return "none";
        };
        let mut levels = WORDS.iter().zip(from.iter().zip(to));
        let farthest = levels.find(|(_, (from, to))| from.is_some() && to.is_some() && from != to);
        farthest.map_or("none", |(word, _)| word)
    }

    /// Returns whether any CPU reports something at this level.
    pub(super) fn tell(&self, word: &str) -> bool {
        let level = WORDS.iter().position(|each| *each == word);
        level.is_some_and(|level| self.0.values().any(|place| place[level].is_some()))
    }
}

fn place(cpu: usize, node: u32) -> [Option<String>; WORDS.len()] {
    let folder = format!("/sys/devices/system/cpu/cpu{cpu}");
    let folder = Path::new(&folder);
    let topology = |file: &str| known(&folder.join("topology").join(file));
    let package = topology("physical_package_id");
    let die = topology("die_id").map(|die| format!("{package:?} {die}"));
    let cluster = topology("cluster_id").and(topology("cluster_cpus_list"));
    let core = topology("core_cpus_list").or_else(|| topology("thread_siblings_list"));
    [
        package,
        Some(node.to_string()),
        die,
        last_cache(&folder.join("cache")),
        cluster,
        core,
    ]
}

/// The content of a file, unless it stands for "not known".
fn known(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!["", "-1", "65535", "4294967295"].contains(&text.as_str())).then_some(text)
}

/// The CPUs that share the farthest cache for data, from the third level on.
fn last_cache(folder: &Path) -> Option<String> {
    let caches = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let read = |file: &str| known(&entry.path().join(file));
        let level: u32 = read("level")?.parse().ok()?;
        let data = read("type")? != "Instruction";
        (data && level >= 3).then_some((level, read("shared_cpu_list")?))
    });
    caches.max().map(|(level, cpus)| format!("{level} {cpus}"))
}
