//! Time on CPUs and time waiting for one, split by cause; and what the reclaim daemons took.

use stallscope_ebpf::{
    CAUSES, Cause, DAEMON_NODES, DAEMONS, Daemon, DaemonCell, Host, Ring, SlotOwner,
    WAIT_BOUNDS_NS, WAIT_BUCKETS, WaitCell,
};

use crate::{
    cgroup::CgroupId,
    collector::{Collector, Columns, OwnerRows, Rows},
    exposition::Encoder,
    mapped::Mapped,
    metric::{Kind, Metric, Scope, Value},
    probe::{Alternative, Attach, Hook, Probe},
};

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
    ],
    map_sizes: |host: &Host| {
        vec![
            ("CELLS", host.slots * host.cpus),
            ("RETIRED", host.cpus),
            ("OWNERS", host.slots),
            ("RINGS", host.cpus),
            ("TASKS", host.task_mask + 1),
            ("DAEMONS", (DAEMONS * DAEMON_NODES) as u32),
        ]
    },
    prepare: None,
    open: |ebpf, kernel, _| {
        Ok(Box::new(CpuWait {
            cells: Mapped::open(ebpf, "CELLS")?,
            retired: Mapped::open(ebpf, "RETIRED")?,
            owners: Mapped::open(ebpf, "OWNERS")?,
            rings: Mapped::open(ebpf, "RINGS")?,
            daemons: Mapped::open(ebpf, "DAEMONS")?,
            cpu_nodes: kernel.cpu_nodes.clone(),
            nodes: kernel.host.nodes as usize,
        }))
    },
};

static STALL_SECONDS: Metric = Metric {
    name: "stallscope_stall_seconds_total",
    kind: Kind::Counter,
    help: "Time that runnable tasks spent waiting for a CPU, by what kept them from running; the causes sum to the kernel's run_delay.",
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
    help: "Time on CPUs, by the NUMA node of the CPU; counted when a task leaves its CPU.",
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
    cells: Mapped<WaitCell>,
    retired: Mapped<WaitCell>,
    owners: Mapped<SlotOwner>,
    rings: Mapped<Ring>,
    daemons: Mapped<DaemonCell>,
    cpu_nodes: Vec<u32>,
    nodes: usize,
}

/// Places in a row, after the time on CPUs of each node.
const WAIT: usize = 0;
const BUCKETS: usize = WAIT + CAUSES;
const PREEMPTED: usize = BUCKETS + WAIT_BUCKETS;
const WIDTH: usize = PREEMPTED + DAEMONS;

impl CpuWait {
    fn cpus(&self) -> usize {
        self.rings.len()
    }

    fn add(&self, row: &mut [u64], cell: &WaitCell, cpu: usize) {
        let node = self.cpu_nodes.get(cpu).map_or(0, |node| *node as usize);
        let (nodes, rest) = row.split_at_mut(self.nodes);
        if let Some(sum) = nodes.get_mut(node) {
            *sum += cell.on_cpu_ns;
        }
        let parts = cell.wait_ns.into_iter().chain(
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
            width: self.nodes + WIDTH,
            wrapping: WAIT_BUCKETS + DAEMONS,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        // Retired cells first: what is retired meanwhile is short once instead of counted twice.
        for cpu in 0..self.cpus() {
            if let Some(cell) = self.retired.get(cpu) {
                self.add(rows.retired(), &cell, cpu);
            }
        }
        let cpus = self.cpus();
        for place in 0..self.cells.len() {
            let overflow = place < cpus;
            if !overflow && self.cells.first_word(place) == Some(0) {
                continue;
            }
            if let Some(cell) = self.cells.get(place)
                // Taken over while it was copied: the next reading has it whole.
                && self.cells.first_word(place) == Some(cell.cgroup)
                && (!overflow || cell.on_cpu_ns != 0 || cell.wait_ns != [0; CAUSES])
            {
                self.add(rows.row(CgroupId(cell.cgroup)), &cell, place % cpus);
            }
        }
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        let wait =
            |row: &[u64]| -> u64 { row[self.nodes + WAIT..self.nodes + BUCKETS].iter().sum() };
        let mut family = out.family(&STALL_SECONDS);
        for (labels, row) in &owners.rows {
            for cause in Cause::ALL {
                let ns = row[self.nodes + WAIT + cause as usize];
                family.sample(Some(labels), &[cause.label()], Value::Nanoseconds(ns));
            }
        }
        let mut family = out.family(&RUN_QUEUE_WAIT_SECONDS);
        for (labels, row) in &owners.rows {
            let buckets = &row[self.nodes + BUCKETS..self.nodes + PREEMPTED];
            family.histogram(Some(labels), &[], &WAIT_BOUNDS_NS, buckets, wait(row));
        }
        let nodes: Vec<String> = (0..self.nodes).map(|node| node.to_string()).collect();
        let mut family = out.family(&CPU_SECONDS);
        for (labels, row) in &owners.rows {
            for (node, ns) in nodes.iter().zip(*row) {
                family.sample(Some(labels), &[node], Value::Nanoseconds(*ns));
            }
        }
        let mut family = out.family(&PREEMPTIONS);
        for (labels, row) in &owners.rows {
            for daemon in Daemon::ALL {
                let count = row[self.nodes + PREEMPTED + daemon as usize];
                family.sample(Some(labels), &[daemon.label()], Value::Count(count));
            }
        }
        self.encode_daemons(out);
        let hidden = (0..self.cpus())
            .filter_map(|cpu| self.rings.get(cpu))
            .map(|ring| ring.hidden);
        out.family(&HIDDEN_SWITCHES)
            .sample(None, &[], Value::Count(hidden.sum()));
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
        vec![("task_table_collision", collisions)]
    }
}

impl CpuWait {
    fn encode_daemons(&self, out: &mut Encoder) {
        let mut cells = Vec::new();
        for daemon in Daemon::ALL {
            for node in 0..DAEMON_NODES {
                let place = daemon as usize * DAEMON_NODES + node;
                let Some(cell) = self.daemons.get(place) else {
                    continue;
                };
                if cell.on_cpu_ns != 0 || cell.wakeups != 0 {
                    // khugepaged serves the whole host.
                    let node = if daemon == Daemon::Khugepaged {
                        String::new()
                    } else {
                        node.to_string()
                    };
                    cells.push((daemon.label(), node, cell));
                }
            }
        }
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
