//! Tasks moved between CPUs: how far, and between which NUMA nodes.

use std::{collections::HashMap, os::fd::AsFd as _};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, Map, MapData},
};
use stallscope_ebpf::{
    Boundary, CpuPlace, Host, MigrationCell, NODE_PAIRS, NodePair, distance_place,
};

use crate::{
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::cgroup::CgroupId,
    ledger::{
        history::Quantity,
        rows::{Columns, Rows},
    },
    probe::{
        Alternative, Attach, Hook, Kernel, Probe,
        cells::{self, Cells},
        collector::{Collector, LastReading, OwnerRows},
        mapped_array::Mapped,
    },
};

/// See the module.
pub static PROBE: Probe = Probe {
    name: "task_migrations",
    summary: "moves of tasks between CPUs, by the farthest boundary crossed",
    fields: &[
        "task_cpu",
        "task_cgroups",
        "css_set_subsys",
        "css_id",
        "css_serial_nr",
        "css_cgroup",
        "cgroup_kn",
        "kernfs_id",
    ],
    hooks: &[Hook {
        name: "migrations",
        required: true,
        alternatives: &[Alternative::of(&[Attach::TpBtf(
            "sched_migrate_task",
            "sched_migrate_task",
        )])],
    }],
    metrics: &[&MIGRATIONS, &BETWEEN_NODES, &DISTANCE],
    map_sizes: |host: &Host| {
        let more = [
            ("PLACES", host.cpus),
            ("DISTANCES", host.nodes * host.nodes),
            ("NODE_PAIRS", if host.nodes > 1 { NODE_PAIRS } else { 1 }),
            ("UNPAIRED", host.cpus),
        ];
        [cells::map_sizes(host, 1), more.into()].concat()
    },
    prepare: Some(prepare),
    open: |ebpf, kernel, _| Ok(Box::new(TaskMigrations::open(ebpf, kernel)?)),
};

static MIGRATIONS: Metric = Metric {
    name: "stallscope_task_migrations_total",
    kind: Kind::Counter,
    help: "Moves of tasks to another CPU, by the farthest boundary crossed; none is an SMT sibling or a CPU of which nothing is reported, and a boundary that the host does not report is absent.",
    labels: &["boundary"],
    scope: Scope::Owner,
    source: "`sched_migrate_task`; `/sys/devices/system/{cpu,node}`",
};

static BETWEEN_NODES: Metric = Metric {
    name: "stallscope_task_migrations_between_nodes_total",
    kind: Kind::Counter,
    help: "Moves of tasks to a CPU of another NUMA node, by the nodes; pairs between which nothing moved are left out.",
    labels: &["from", "to"],
    scope: Scope::Owner,
    source: "`sched_migrate_task`; `/sys/devices/system/node/node*/cpulist`",
};

static DISTANCE: Metric = Metric {
    name: "stallscope_task_migration_distance_total",
    kind: Kind::Counter,
    help: "Sum of the NUMA distances that tasks were moved across, where 10 is local; moves within a node add nothing.",
    labels: &[],
    scope: Scope::Owner,
    source: "`sched_migrate_task`; `/sys/devices/system/node/node*/distance`",
};

/// Fills the tables that the programs look up before the first of them runs: an empty table would say
/// that all CPUs are in one place.
fn prepare(ebpf: &mut Ebpf, kernel: &Kernel) -> anyhow::Result<()> {
    let map = ebpf.map_mut("PLACES").context("no map `PLACES`")?;
    let mut places = Array::<_, CpuPlace>::try_from(map)?;
    for cpu in 0..kernel.host.cpus {
        let place = kernel.places.get(cpu as usize);
        places.set(cpu, place.unwrap_or(&CpuPlace::UNKNOWN), 0)?;
    }
    let map = ebpf.map_mut("DISTANCES").context("no map `DISTANCES`")?;
    let mut distances = Array::<_, u32>::try_from(map)?;
    // The table holds zeros already, and with holes in the numbers of nodes there are many.
    let known = (0..).zip(&kernel.distances);
    for (place, distance) in known.filter(|(_, distance)| **distance != 0) {
        distances.set(place, distance, 0)?;
    }
    Ok(())
}

/// Beyond this many nodes pairs are not exported: the rows would grow past 8 KB.
pub(crate) const MOST_PAIRED_NODES: usize = 32;

/// Nodes with CPUs, and the place of each pair of them in a row.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Nodes(Vec<u16>);

impl Nodes {
    fn new(places: &[CpuPlace]) -> Self {
        let mut nodes: Vec<_> = places
            .iter()
            .filter_map(|place| place.id(Boundary::Node))
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self(nodes)
    }

    fn pairs(&self) -> usize {
        if self.0.len() > MOST_PAIRED_NODES {
            0
        } else {
            self.0.len() * self.0.len().saturating_sub(1)
        }
    }

    fn place(&self, from: u16, to: u16) -> Option<usize> {
        let from = self.0.binary_search(&from).ok()?;
        let to = self.0.binary_search(&to).ok()?;
        let place = from * (self.0.len() - 1) + to - usize::from(to > from);
        (from != to && place < self.pairs()).then_some(place)
    }

    /// All pairs, in the order of their places.
    fn iter(&self) -> impl Iterator<Item = (u16, u16)> {
        let pairs = self
            .0
            .iter()
            .flat_map(|from| self.0.iter().map(move |to| (*from, *to)))
            .filter(|(from, to)| from != to);
        pairs.take(self.pairs())
    }

    /// Returns whether a distance is known between any two of the nodes, of which there are several.
    fn have_distances(&self, distances: &[u32], width: u32) -> bool {
        let mut pairs = self
            .0
            .iter()
            .flat_map(|from| self.0.iter().map(move |to| (*from, *to)));
        self.0.len() > 1
            && pairs.all(|(from, to)| {
                let place = distance_place(from, to, width) as usize;
                distances.get(place).is_some_and(|distance| *distance != 0)
            })
    }
}

/// Places in a row: these, then the pairs of nodes, then the boundaries, which wrap.
const TOTAL: usize = 0;
const CROSSED: usize = 1;
const PAIRS: usize = 2;

struct TaskMigrations {
    cells: Cells<MigrationCell>,
    unpaired: Mapped<u64>,
    pairs: Pairs,
    nodes: Nodes,
    /// Values of the `boundary` label on this host.
    boundaries: Vec<Boundary>,
    distances: bool,
}

/// The table of node pairs.
struct Pairs {
    map: BpfHashMap<MapData, NodePair, u64>,
    /// Cgroups that have entries, with the number of times in a row that nobody knew them.
    cgroups: HashMap<CgroupId, u32>,
    /// Sums of deleted entries.
    retired: Vec<u64>,
}

/// Number of ticks, of about a second, after which entries of a cgroup that nobody has known make room
/// for others.
const FORGET_AFTER: u32 = 60;

impl TaskMigrations {
    fn open(ebpf: &Ebpf, kernel: &Kernel) -> anyhow::Result<Self> {
        let nodes = Nodes::new(&kernel.places);
        let mut boundaries = vec![Boundary::None];
        boundaries.extend(&kernel.boundaries);
        Ok(Self {
            cells: Cells::open(ebpf, &kernel.host)?,
            unpaired: Mapped::open(ebpf, "UNPAIRED")?,
            pairs: Pairs::open(ebpf, nodes.pairs())?,
            distances: nodes.have_distances(&kernel.distances, kernel.host.nodes),
            nodes,
            boundaries,
        })
    }
}

/// Adds a cell to a row that has `pairs` pairs of nodes.
fn add(row: &mut [u64], cell: &MigrationCell, pairs: usize) {
    row[TOTAL] += cell.migrations;
    row[CROSSED] += cell.distance;
    let (_, counts) = row.split_at_mut(PAIRS + pairs);
    for (sum, part) in counts.iter_mut().zip(cell.boundaries) {
        *sum = sum.wrapping_add(u64::from(part));
    }
}

impl Pairs {
    fn open(ebpf: &Ebpf, pairs: usize) -> anyhow::Result<Self> {
        let Some(Map::HashMap(data)) = ebpf.map("NODE_PAIRS") else {
            anyhow::bail!("the object has no hash `NODE_PAIRS`");
        };
        // A descriptor of our own: the map stays with the programs, so that its memory is accounted.
        let data = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        Ok(Self {
            map: Map::HashMap(data).try_into()?,
            cgroups: HashMap::new(),
            retired: vec![0; pairs],
        })
    }

    fn read(&mut self, nodes: &Nodes, rows: &mut Rows) {
        for (sum, part) in rows.retired()[PAIRS..].iter_mut().zip(&self.retired) {
            *sum += part;
        }
        let mut cgroups = HashMap::new();
        for (pair, count) in self.map.iter().flatten() {
            let id = CgroupId(pair.cgroup);
            if let Some(place) = nodes.place(pair.from, pair.to) {
                rows.row(id)[PAIRS + place] += count;
                let unknown = self.cgroups.get(&id).copied().unwrap_or(0);
                cgroups.insert(id, unknown);
            }
        }
        self.cgroups = cgroups;
    }

    /// Deletes the entries of a cgroup. It has ended, so nothing is added to them meanwhile.
    fn retire(&mut self, gone: &[CgroupId], nodes: &Nodes) {
        let entries: Vec<_> = self
            .map
            .iter()
            .flatten()
            .filter(|(pair, _)| gone.contains(&CgroupId(pair.cgroup)))
            .collect();
        for (pair, count) in entries {
            if let Err(error) = self.map.remove(&pair) {
                tracing::debug!(%error, "cannot delete a node pair");
            } else if let Some(place) = nodes.place(pair.from, pair.to) {
                self.retired[place] += count;
            }
        }
    }
}

impl Collector for TaskMigrations {
    fn columns(&self) -> Columns {
        let wrapping = Boundary::ALL.len();
        Columns {
            width: PAIRS + self.nodes.pairs() + wrapping,
            wrapping,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        let pairs = self.nodes.pairs();
        self.cells.read(rows, |row, cell, _| add(row, cell, pairs));
        if self.nodes.pairs() != 0 {
            self.pairs.read(&self.nodes, rows);
        }
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        let pairs = PAIRS..PAIRS + self.nodes.pairs();
        let mut words = vec![(Quantity::Migrations, TOTAL)];
        words.extend(pairs.map(|pair| (Quantity::NodeMigrations, pair)));
        if self.distances {
            words.push((Quantity::MigrationDistance, CROSSED));
        }
        words
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        let counts = PAIRS + self.nodes.pairs();
        let mut family = out.family(&MIGRATIONS);
        for (labels, row) in &owners.rows {
            for boundary in &self.boundaries {
                let count = row[counts + *boundary as usize];
                family.sample(Some(labels), &[boundary.as_str()], Value::Count(count));
            }
        }
        let mut family = out.family(&BETWEEN_NODES);
        let pairs: Vec<_> = self
            .nodes
            .iter()
            .map(|(from, to)| [from.to_string(), to.to_string()])
            .collect();
        for (labels, row) in &owners.rows {
            for ([from, to], count) in pairs.iter().zip(&row[PAIRS..]) {
                if *count != 0 {
                    family.sample(Some(labels), &[from, to], Value::Count(*count));
                }
            }
        }
        if self.distances {
            let mut family = out.family(&DISTANCE);
            for (labels, row) in &owners.rows {
                family.sample(Some(labels), &[], Value::Count(row[CROSSED]));
            }
        }
    }

    fn grow(&mut self, larger: &Ebpf, host: &Host) -> anyhow::Result<LastReading> {
        let last = std::mem::replace(&mut self.cells, Cells::open(larger, host)?);
        let pairs = self.nodes.pairs();
        Ok(Box::new(move |rows| {
            last.read_slots(rows, |row, cell, _| add(row, cell, pairs));
        }))
    }

    fn answer(&mut self, group: &dyn Fn(CgroupId) -> Option<u32>) {
        let mut gone = Vec::new();
        for (id, unknown) in &mut self.pairs.cgroups {
            *unknown = if id.0 == 0 || group(*id).is_some() {
                0
            } else {
                *unknown + 1
            };
            if *unknown == FORGET_AFTER {
                gone.push(*id);
            }
        }
        if !gone.is_empty() {
            self.pairs.retire(&gone, &self.nodes);
        }
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        if self.nodes.pairs() == 0 {
            return Vec::new();
        }
        let unpaired = (0..self.unpaired.len()).filter_map(|cpu| self.unpaired.get(cpu));
        vec![("node_pair_table_full", unpaired.sum())]
    }
}

#[cfg(test)]
mod tests {
    use stallscope_ebpf::MAX_NODES;

    use super::*;

    fn places(nodes: &[u16]) -> Vec<CpuPlace> {
        let place = |node: &u16| CpuPlace {
            node: *node,
            ..CpuPlace::UNKNOWN
        };
        nodes.iter().map(place).collect()
    }

    #[test]
    fn each_pair_of_nodes_has_its_place() {
        for count in 0..=MOST_PAIRED_NODES as u16 {
            // Numbers with holes, CPUs in any order, and one that is offline.
            let mut given: Vec<_> = (0..count).rev().map(|node| node * 7 + 3).collect();
            given.push(CpuPlace::UNREPORTED);
            given.extend(given.clone());
            let nodes = Nodes::new(&places(&given));
            assert_eq!(nodes.0.len(), usize::from(count));
            let pairs: Vec<_> = nodes.iter().collect();
            assert_eq!(pairs.len(), nodes.pairs());
            for (place, (from, to)) in pairs.into_iter().enumerate() {
                assert_ne!(from, to);
                assert_eq!(nodes.place(from, to), Some(place));
            }
        }
    }

    #[test]
    fn a_node_without_cpus_or_to_itself_is_no_pair() {
        let nodes = Nodes::new(&places(&[0, 2, 0, 2]));
        assert_eq!(nodes.pairs(), 2);
        assert_eq!(nodes.place(0, 0), None);
        assert_eq!(nodes.place(0, 1), None);
        assert_eq!(nodes.place(2, 0), Some(1));
    }

    #[test]
    fn numbers_of_nodes_at_their_limits_have_places() {
        let ids = [0, 1, 63, 64, 1022, 1023];
        let mut given = places(&ids);
        given.push(CpuPlace::UNKNOWN);
        let nodes = Nodes::new(&given);
        assert_eq!(nodes.0, ids, "an unreported node is none");
        assert_eq!(nodes.pairs(), 30);
        assert_eq!(nodes.place(0, 1), Some(0));
        assert_eq!(nodes.place(1023, 1022), Some(29));
        for stranger in [2, 1021, 1024, CpuPlace::UNREPORTED] {
            assert_eq!(nodes.place(0, stranger), None);
            assert_eq!(nodes.place(stranger, 0), None);
        }
        let width = MAX_NODES;
        let mut distances = vec![0; (width * width) as usize];
        for from in ids {
            for to in ids {
                distances[distance_place(from, to, width) as usize] = 10;
            }
        }
        assert!(nodes.have_distances(&distances, width));
        *distances.last_mut().unwrap() = 0;
        assert!(!nodes.have_distances(&distances, width), "1023 to itself");
    }

    #[test]
    fn pairs_of_too_many_nodes_are_left_out() {
        let most: Vec<_> = (0..=MOST_PAIRED_NODES as u16).collect();
        let nodes = Nodes::new(&places(&most));
        assert_eq!((nodes.pairs(), nodes.iter().count()), (0, 0));
        assert_eq!(nodes.place(0, 1), None);
    }

    #[test]
    fn distances_count_where_all_are_told_and_there_are_several_nodes() {
        let two = Nodes::new(&places(&[0, 1]));
        assert!(two.have_distances(&[10, 21, 21, 10], 2));
        assert!(!two.have_distances(&[10, 21, 0, 10], 2));
        assert!(!two.have_distances(&[], 2));
        assert!(!Nodes::new(&places(&[0, 0])).have_distances(&[10], 1));
        // A node without CPUs need not have any.
        let holes = Nodes::new(&places(&[0, 2]));
        assert!(holes.have_distances(&[10, 0, 21, 0, 0, 0, 21, 0, 10], 3));
    }
}
