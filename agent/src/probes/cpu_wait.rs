//! Time on CPUs and wait for them, split by cause; and the time that the memory daemons take.

use aya::Ebpf;
use stallscope_ebpf::{
    CAUSES, Cause, DAEMONS, Daemon, DaemonCell, Host, Ring, SlotOwner, WAIT_BOUNDS_NS,
    WAIT_BUCKETS, WaitCell, daemon_cells, daemon_place,
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
        Alternative, Attach, Hook, Probe,
        cells::{self, Cells},
        collector::{Collector, LastReading, OwnerRows},
        mapped_array::Mapped,
    },
};

mod phantoms;

use phantoms::Phantoms;

/// See the module.
pub static PROBE: Probe = Probe {
    name: "cpu_wait",
    summary: "time on CPUs and on run queues, by cause",
    fields: &[
        "task_state",
        "task_flags",
        "task_pid",
        "task_prio",
        "task_comm",
        "task_cgroups",
        "task_cfs_rq",
        "task_pcount",
        "task_run_delay",
        "task_last_arrival",
        "task_last_queued",
        "cfs_rq_rq",
        "rq_clock",
        "rq_cpu",
        "css_set_subsys",
        "css_id",
        "css_serial_nr",
        "css_cgroup",
        "cgroup_kn",
        "kernfs_id",
    ],
    hooks: &[
        Hook {
            name: "switches",
            required: true,
            alternatives: &[Alternative::of(&[Attach::TpBtf(
                "sched_switch",
                "sched_switch",
            )])],
        },
        Hook {
            name: "waits moved to another CPU",
            required: true,
            alternatives: &[Alternative::of(&[Attach::TpBtf(
                "sched_migrate_task",
                "sched_migrate_task",
            )])],
        },
    ],
    metrics: &[
        &STALL_SECONDS,
        &RUN_QUEUE_WAIT_SECONDS,
        &CPU_SECONDS,
        &PREEMPTIONS,
        &DAEMON_WAKEUPS,
        &DAEMON_CPU_SECONDS,
        &DAEMON_WAIT_SECONDS,
        &HIDDEN_SWITCHES,
        &phantoms::PHANTOM_WAIT_SECONDS,
    ],
    map_sizes: |host: &Host| {
        let more = [
            ("OWNERS", host.slots),
            ("RINGS", host.cpus),
            ("TASKS", host.task_mask + 1),
            ("DAEMONS", daemon_cells(host.nodes)),
        ];
        [cells::map_sizes(host, 1), more.into()].concat()
    },
    prepare: None,
    open: |ebpf, kernel, _| {
        Ok(Box::new(CpuWait {
            cells: Cells::open(ebpf, &kernel.host)?,
            owners: Mapped::open(ebpf, "OWNERS")?,
            rings: Mapped::open(ebpf, "RINGS")?,
            daemons: Mapped::open(ebpf, "DAEMONS")?,
            phantoms: Phantoms::open(ebpf, kernel)?,
            nodes: NodeColumns::new(&kernel.cpu_nodes),
            highest: kernel.host.nodes,
        }))
    },
};

static STALL_SECONDS: Metric = Metric {
    name: "stallscope_stall_seconds_total",
    kind: Kind::Counter,
    help: "Time that runnable tasks spent waiting for a CPU, by what kept them from running; the causes sum to the kernel's run_delay, less what is in stallscope_phantom_wait_seconds_total.",
    labels: &["cause"],
    scope: Scope::Owner,
    source: "`sched_switch`, `sched_migrate_task`: `rq->clock`, `task_struct.sched_info`",
};

static RUN_QUEUE_WAIT_SECONDS: Metric = Metric {
    name: "stallscope_run_queue_wait_seconds",
    kind: Kind::Histogram,
    help: "Length of single stays on a run queue; a wait that moves to another CPU is one stay on each.",
    labels: &[],
    scope: Scope::Owner,
    source: "`sched_switch`, `sched_migrate_task`",
};

static CPU_SECONDS: Metric = Metric {
    name: "stallscope_cpu_seconds_total",
    kind: Kind::Counter,
    help: "Time on CPUs, by the NUMA node of the CPU; counted when a task leaves its CPU. Of CPUs whose node was not known when the agent started, node is (other).",
    labels: &["node"],
    scope: Scope::Owner,
    source: "`sched_switch`: `rq->clock`",
};

static PREEMPTIONS: Metric = Metric {
    name: "stallscope_preemptions_total",
    kind: Kind::Counter,
    help: "Times a memory daemon took the CPU from a task that wanted to go on; the time lost to it is in stallscope_stall_seconds_total.",
    labels: &["daemon"],
    scope: Scope::Owner,
    source: "`sched_switch`: state of the task that leaves, name of the kernel thread that comes",
};

static DAEMON_WAKEUPS: Metric = Metric {
    name: "stallscope_daemon_wakeups_total",
    kind: Kind::Counter,
    help: "Times a memory daemon was put on a CPU after sleeping.",
    labels: &["daemon", "node"],
    scope: Scope::Host,
    source: "`sched_switch`: `task_struct.comm` of kernel threads",
};

static DAEMON_CPU_SECONDS: Metric = Metric {
    name: "stallscope_daemon_cpu_seconds_total",
    kind: Kind::Counter,
    help: "Time on CPUs of a memory daemon.",
    labels: &["daemon", "node"],
    scope: Scope::Host,
    source: "`sched_switch`: `rq->clock`",
};

static DAEMON_WAIT_SECONDS: Metric = Metric {
    name: "stallscope_daemon_wait_seconds_total",
    kind: Kind::Counter,
    help: "Time a memory daemon itself waited for a CPU.",
    labels: &["daemon", "node"],
    scope: Scope::Host,
    source: "`sched_switch`: `task_struct.sched_info.last_queued`",
};

static HIDDEN_SWITCHES: Metric = Metric {
    name: "stallscope_hidden_switches_total",
    kind: Kind::Counter,
    help: "Switches that the kernel did not show to the probe; the waits they ended were recovered from the tasks' own clocks.",
    labels: &[],
    scope: Scope::Host,
    source: "`sched_switch`: `task_struct.sched_info.last_arrival` against the switch before",
};

struct CpuWait {
    cells: Cells<WaitCell>,
    owners: Mapped<SlotOwner>,
    rings: Mapped<Ring>,
    daemons: Mapped<DaemonCell>,
    phantoms: Option<Phantoms>,
    nodes: NodeColumns,
    /// The highest node's number + 1.
    highest: u32,
}

/// Time on CPUs in a row: a place for each node with CPUs, and one for all CPUs whose node is not
/// known, if there are any.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct NodeColumns {
    labels: Vec<String>,
    of_cpu: Vec<usize>,
    /// True if the last place is of CPUs whose node is not known.
    unknown: bool,
}

impl NodeColumns {
    fn new(cpu_nodes: &[Option<u32>]) -> Self {
        let mut nodes: Vec<_> = cpu_nodes.iter().flatten().collect();
        nodes.sort_unstable();
        nodes.dedup();
        let place = |node: &Option<u32>| {
            let known = node
                .as_ref()
                .and_then(|node| nodes.binary_search(&node).ok());
            known.unwrap_or(nodes.len())
        };
        let of_cpu: Vec<_> = cpu_nodes.iter().map(place).collect();
        let unknown = of_cpu.contains(&nodes.len());
        let mut labels: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        labels.extend(unknown.then(|| "(other)".to_owned()));
        Self {
            labels,
            of_cpu,
            unknown,
        }
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    /// Labels with their times. An unknown node is left out if no time was spent on it.
    fn samples<'a>(&'a self, row: &'a [u64]) -> impl Iterator<Item = (&'a str, u64)> {
        let last = self.len() - usize::from(self.unknown);
        let all = self.labels.iter().zip(row).enumerate();
        all.filter(move |(place, (_, ns))| *place < last || **ns != 0)
            .map(|(_, (label, ns))| (label.as_str(), *ns))
    }
}

/// Places in a row, after the time on CPUs of each node.
const WAIT: usize = 0;
const PHANTOM: usize = WAIT + CAUSES;
const BUCKETS: usize = PHANTOM + 1;
const PREEMPTED: usize = BUCKETS + WAIT_BUCKETS;
const WIDTH: usize = PREEMPTED + DAEMONS;

impl CpuWait {
    fn cpus(&self) -> usize {
        self.cells.cpus()
    }
}

impl NodeColumns {
    fn add(&self, row: &mut [u64], cell: &WaitCell, cpu: usize) {
        let (nodes, rest) = row.split_at_mut(self.len());
        let node = self.of_cpu.get(cpu);
        if let Some(sum) = node.and_then(|place| nodes.get_mut(*place)) {
            *sum += cell.on_cpu_ns;
        }
        let parts = cell.wait_ns.into_iter().chain([0]).chain(
            cell.wait_buckets
                .into_iter()
                .chain(cell.preemptions)
                .map(u64::from),
        );
        for (sum, part) in rest.iter_mut().zip(parts) {
            *sum = sum.wrapping_add(part);
        }
    }
}

impl Collector for CpuWait {
    fn columns(&self) -> Columns {
        Columns {
            width: self.nodes.len() + WIDTH,
            wrapping: WAIT_BUCKETS + DAEMONS,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        self.cells
            .read(rows, |row, cell, cpu| self.nodes.add(row, cell, cpu));
        if let Some(phantoms) = &self.phantoms {
            phantoms.read(rows, self.nodes.len() + PHANTOM);
        }
    }

    fn forget(&mut self, gone: &[CgroupId], rows: &mut Rows) {
        if let Some(phantoms) = &mut self.phantoms {
            phantoms.forget(gone, rows);
        }
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        let nodes = self.nodes.len();
        let wait = |row: &[u64]| -> u64 { row[nodes + WAIT..nodes + PHANTOM].iter().sum() };
        let mut family = out.family(&STALL_SECONDS);
        for (labels, row) in &owners.rows {
            for cause in Cause::ALL {
                let ns = row[nodes + WAIT + cause as usize];
                family.sample(Some(labels), &[cause.label()], Value::Nanoseconds(ns));
            }
        }
        let mut family = out.family(&RUN_QUEUE_WAIT_SECONDS);
        for (labels, row) in &owners.rows {
            let buckets = &row[nodes + BUCKETS..nodes + PREEMPTED];
            family.histogram(Some(labels), &[], &WAIT_BOUNDS_NS, buckets, wait(row));
        }
        let mut family = out.family(&CPU_SECONDS);
        for (labels, row) in &owners.rows {
            for (node, ns) in self.nodes.samples(row) {
                family.sample(Some(labels), &[node], Value::Nanoseconds(ns));
            }
        }
        let mut family = out.family(&PREEMPTIONS);
        for (labels, row) in &owners.rows {
            for daemon in Daemon::ALL {
                let count = row[nodes + PREEMPTED + daemon as usize];
                family.sample(Some(labels), &[daemon.label()], Value::Count(count));
            }
        }
        if self.phantoms.is_some() {
            Phantoms::encode(owners, nodes + PHANTOM, out);
        }
        self.encode_daemons(out);
        let hidden = (0..self.cpus())
            .filter_map(|cpu| self.rings.get(cpu))
            .map(|ring| ring.hidden);
        out.family(&HIDDEN_SWITCHES)
            .sample(None, &[], Value::Count(hidden.sum()));
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        let nodes = self.nodes.len();
        let cpu = self.nodes.labels.iter().enumerate();
        let cpu = cpu.map(|(place, node)| (Quantity::Cpu(node.parse().ok()), place));
        let wait = |cause| (Quantity::wait(cause), nodes + WAIT + cause as usize);
        cpu.chain(Cause::ALL.map(wait)).collect()
    }

    fn recorded_of_host(&self) -> Vec<(Quantity, u64)> {
        let quantity = |daemon, node: u32| Quantity::daemon(daemon, node as u16);
        let cells = self.daemon_cells();
        cells
            .map(|(daemon, node, cell)| (quantity(daemon, node), cell.on_cpu_ns))
            .collect()
    }

    fn grow(&mut self, larger: &Ebpf, host: &Host) -> anyhow::Result<LastReading> {
        let cells = Cells::open(larger, host)?;
        let mut owners = Mapped::open(larger, "OWNERS")?;
        // Questions and answers go along, so that nobody becomes a neighbour for a moment.
        for slot in 0..self.owners.len() {
            for word in 0..size_of::<SlotOwner>() / size_of::<u64>() {
                owners.set_word(slot, word, self.owners.word(slot, word).unwrap_or(0));
            }
        }
        self.owners = owners;
        let last = std::mem::replace(&mut self.cells, cells);
        let nodes = self.nodes.clone();
        Ok(Box::new(move |rows| {
            last.read_slots(rows, |row, cell, cpu| nodes.add(row, cell, cpu));
        }))
    }

    fn answer(&mut self, group: &dyn Fn(CgroupId) -> Option<u32>) {
        for slot in 0..self.owners.len() {
            let asked = self.owners.first_word(slot).unwrap_or(0);
            if asked == 0 {
                continue;
            }
            if let Some(group) = group(CgroupId(asked)) {
                let answer = asked << 32 | u64::from(group);
                self.owners.set_word(slot, 1, answer);
            }
        }
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        let collisions = (0..self.cpus())
            .filter_map(|cpu| self.rings.get(cpu))
            .map(|ring| ring.collisions)
            .sum();
        let homeless = daemon_cells(self.highest) - 1;
        let homeless = self.daemons.first_word(homeless as usize).unwrap_or(0);
        let mut lost = vec![
            ("task_table_collision", collisions),
            ("daemon_of_new_node", homeless),
        ];
        lost.extend(self.phantoms.as_ref().map(Phantoms::lost));
        lost
    }
}

impl CpuWait {
    /// The memory daemons that have run, by node.
    fn daemon_cells(&self) -> impl Iterator<Item = (Daemon, u32, DaemonCell)> {
        let nodes = 0..self.highest;
        let all = Daemon::ALL
            .into_iter()
            .flat_map(move |daemon| nodes.clone().map(move |node| (daemon, node)));
        all.filter_map(|(daemon, node)| {
            let place = daemon_place(daemon, node, self.highest)?;
            let cell = self.daemons.get(place as usize)?;
            (cell.on_cpu_ns != 0 || cell.wakeups != 0).then_some((daemon, node, cell))
        })
    }

    fn encode_daemons(&self, out: &mut Encoder) {
        let cells = self.daemon_cells().map(|(daemon, node, cell)| {
            // khugepaged serves the whole host.
            let node = if daemon == Daemon::Khugepaged {
                String::new()
            } else {
                node.to_string()
            };
            (daemon.label(), node, cell)
        });
        let cells: Vec<_> = cells.collect();
        let mut family = out.family(&DAEMON_WAKEUPS);
        for (daemon, node, cell) in &cells {
            family.sample(None, &[daemon, node], Value::Count(cell.wakeups));
        }
        let mut family = out.family(&DAEMON_CPU_SECONDS);
        for (daemon, node, cell) in &cells {
            family.sample(None, &[daemon, node], Value::Nanoseconds(cell.on_cpu_ns));
        }
        let mut family = out.family(&DAEMON_WAIT_SECONDS);
        for (daemon, node, cell) in &cells {
            family.sample(None, &[daemon, node], Value::Nanoseconds(cell.wait_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use stallscope_ebpf::{MAX_CPUS, MAX_NODES};

    use super::*;

    #[test]
    fn time_goes_to_the_node_of_its_cpu_whatever_the_nodes_numbers() {
        let nodes = NodeColumns::new(&[Some(1023), Some(0), Some(64), Some(0)]);
        assert_eq!(nodes.labels, ["0", "64", "1023"]);
        assert_eq!(nodes.of_cpu, [2, 0, 1, 0]);
        // A known node is exported without time, too; nodes between them do not exist.
        let samples: Vec<_> = nodes.samples(&[5, 0, 7, 9, 9]).collect();
        assert_eq!(samples, [("0", 5), ("64", 0), ("1023", 7)]);
    }

    #[test]
    fn time_on_a_cpu_of_unknown_node_is_no_known_nodes() {
        let nodes = NodeColumns::new(&[Some(0), None, Some(1), None]);
        assert_eq!(nodes.of_cpu, [0, 2, 1, 2]);
        let samples: Vec<_> = nodes.samples(&[0, 6, 5]).collect();
        assert_eq!(samples, [("0", 0), ("1", 6), ("(other)", 5)]);
        let samples: Vec<_> = nodes.samples(&[0, 6, 0]).collect();
        assert_eq!(samples, [("0", 0), ("1", 6)]);
        let none: Vec<_> = NodeColumns::new(&[None])
            .samples(&[3])
            .map(|s| s.1)
            .collect();
        assert_eq!(none, [3]);
    }

    #[test]
    fn one_cpu_has_one_node_and_the_largest_host_has_all() {
        let one = NodeColumns::new(&[Some(0)]);
        assert_eq!((one.len(), &one.of_cpu[..]), (1, &[0][..]));
        let all: Vec<_> = (0..MAX_CPUS).map(|cpu| Some(cpu % MAX_NODES)).collect();
        let all = NodeColumns::new(&all);
        assert_eq!((all.len(), all.unknown), (1024, false));
        let last = all.of_cpu[MAX_CPUS as usize - 1];
        assert_eq!((last, all.labels[last].as_str()), (1023, "1023"));
    }
}
