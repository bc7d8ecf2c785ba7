//! CPU quotas, and the time that groups spend throttled because theirs ran out.
//!
//! The totals are the kernel's own, from `cpu.stat`; the lengths of single throttles are counted by
//! programs where the kernel can run them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use aya::Ebpf;
use stallscope_ebpf::{Host, WAIT_BOUNDS_NS, WAIT_BUCKETS, throttle_lost as reason};

use crate::{
    attribution::owners::Owners,
    exposition::{
        Encoder, OwnerLabels,
        metric::{Kind, Metric, Scope, Value},
    },
    host::cgroup::{Cgroup, CgroupId, CgroupPath, Controller, CpuLimit, CpuStat, CpuStats, Mode},
    ledger::{
        history::Quantity,
        rows::{Columns, Rows},
    },
    probe::{
        Alternative, Attach, Attached, Hook, Kernel, Probe,
        collector::{Collector, OwnerRows},
        durations::{self, LengthsMap},
        mapped_array::Mapped,
    },
};

/// See the module.
pub static PROBE: Probe = Probe {
    name: "cpu_throttling",
    summary: "CPU quotas and the time groups spend throttled",
    fields: &[],
    hooks: &[
        Hook {
            name: "totals",
            required: false,
            alternatives: &[Alternative {
                programs: &[Attach::File("cpu.stat")],
                fields: &[],
                unsupported: Some(no_quotas),
            }],
        },
        Hook {
            name: SINGLE,
            required: false,
            alternatives: &[
                Alternative {
                    programs: &[
                        Attach::Fexit("unthrottle_cfs_rq_exit", "unthrottle_cfs_rq"),
                        Attach::Fentry("unthrottle_cfs_rq", "unthrottle_cfs_rq"),
                    ],
                    fields: FIELDS,
                    unsupported: Some(no_quotas),
                },
                Alternative {
                    programs: &[
                        Attach::Kretprobe("unthrottle_cfs_rq_probed_exit", "unthrottle_cfs_rq"),
                        Attach::Kprobe("unthrottle_cfs_rq_probed", "unthrottle_cfs_rq"),
                    ],
                    fields: FIELDS,
                    unsupported: Some(no_quotas),
                },
            ],
        },
    ],
    metrics: &[
        &PERIODS,
        &THROTTLED_PERIODS,
        &THROTTLED_SECONDS,
        &LIMIT,
        &THROTTLE_SECONDS,
    ],
    map_sizes: |host: &Host| vec![("UNTHROTTLING", host.cpus)],
    prepare: None,
    open,
};

const SINGLE: &str = "single throttles";

/// Fields that the programs need.
const FIELDS: &[&str] = &[
    "cfs_rq_rq",
    "cfs_rq_tg",
    "cfs_rq_throttled",
    "cfs_rq_throttled_clock",
    "rq_clock",
    "tg_css",
    "css_cgroup",
    "cgroup_kn",
    "kernfs_id",
];

fn no_quotas(kernel: &Kernel) -> Option<String> {
    if !kernel.btf.has_quotas() {
        return Some("this kernel is built without CPU quotas (CONFIG_CFS_BANDWIDTH)".to_owned());
    }
    let file = kernel.hierarchy.mount().join("cgroup.controllers");
    let cpu = Controller::Cpu.name();
    (kernel.hierarchy.mode() == Mode::V2
        && fs::read_to_string(&file).is_ok_and(|all| !all.split_whitespace().any(|c| c == cpu)))
    .then(|| format!("{} does not list {cpu}", file.display()))
}

static PERIODS: Metric = Metric {
    name: "stallscope_cpu_cfs_periods_total",
    kind: Kind::Counter,
    help: "Quota periods in which a group with a CPU quota was runnable.",
    labels: &[],
    scope: Scope::Owner,
    source: "`cpu.stat`: nr_periods",
};

static THROTTLED_PERIODS: Metric = Metric {
    name: "stallscope_cpu_cfs_throttled_periods_total",
    kind: Kind::Counter,
    help: "Quota periods in which the quota ran out, on however many CPUs.",
    labels: &[],
    scope: Scope::Owner,
    source: "`cpu.stat`: nr_throttled",
};

static THROTTLED_SECONDS: Metric = Metric {
    name: "stallscope_cpu_cfs_throttled_seconds_total",
    kind: Kind::Counter,
    help: "Time for which a group was throttled, summed over CPUs, so that it may exceed the time that passed.",
    labels: &[],
    scope: Scope::Owner,
    source: "`cpu.stat`: throttled_usec (v2), throttled_time (v1)",
};

static LIMIT: Metric = Metric {
    name: "stallscope_cpu_limit_cores",
    kind: Kind::Gauge,
    help: "CPUs' worth of time that the quota allows: of nested cgroups the outermost with a quota counts, those side by side are summed.",
    labels: &[],
    scope: Scope::Owner,
    source: "`cpu.max` (v2), `cpu.cfs_quota_us` / `cpu.cfs_period_us` (v1)",
};

static THROTTLE_SECONDS: Metric = Metric {
    name: "stallscope_cpu_throttle_seconds",
    kind: Kind::Histogram,
    help: "Length of single throttles, one for each CPU on which the group was throttled.",
    labels: &[],
    scope: Scope::Owner,
    source: "`unthrottle_cfs_rq`: `cfs_rq.throttled_clock` at its entry, `rq.clock` at its exit",
};

/// Period at which all limits are read, and with them the totals of cgroups that have one. The time that a cgroup is
/// throttled after a reading and before its removal is not known.
const LIMITS_EVERY: Duration = Duration::from_secs(10);

/// Ages at which the limit of a new cgroup is read again: a runtime sets it once the cgroup is there, and a container
/// that lives for seconds has to be seen with its limit.
const NEW_AGAIN: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Places in a row.
const LIMITED: usize = 0;
const TOTALS: usize = LIMITED + 1;
const LENGTHS: usize = TOTALS + 3;
const WIDTH: usize = LENGTHS + durations::WIDTH;

/// A cgroup that has, or had, a quota.
struct Group {
    cgroup: Cgroup,
    /// `None` once the cgroup has no quota, or is removed.
    limit: Option<CpuLimit>,
    /// Totals as last read.
    stat: CpuStat,
}

impl Group {
    fn read(&mut self, stats: &mut CpuStats, unreadable: &mut u64) {
        match stats.stat(&self.cgroup) {
            Ok(Some(stat)) => self.stat = stat,
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(cgroup = %self.cgroup.path, %error, "cannot read cpu.stat");
                *unreadable += 1;
            }
        }
    }

    fn add(&self, row: &mut [u64]) {
        let CpuStat {
            periods,
            throttled_periods,
            throttled_ns,
        } = self.stat;
        for (sum, part) in row
            .iter_mut()
            .zip([1, periods, throttled_periods, throttled_ns])
        {
            *sum += part;
        }
    }
}

struct Throttling {
    stats: CpuStats,
    totals: bool,
    groups: HashMap<CgroupId, Group>,
    /// Cgroups whose limit was read at least once.
    seen: HashSet<CgroupId>,
    /// New cgroups, with the times at which their limits are read again.
    again: Vec<(Instant, CgroupId)>,
    read: Option<Instant>,
    unreadable: u64,
    /// `None` where single throttles are not seen.
    lengths: Option<LengthsMap<u64>>,
    lost: Mapped<u64>,
    /// Counts of cgroups that were forgotten.
    retired: [u64; WIDTH],
}

fn open(
    ebpf: &mut Ebpf,
    kernel: &Kernel,
    attached: &Attached,
) -> anyhow::Result<Box<dyn Collector>> {
    let lengths = attached
        .has(SINGLE)
        .then(|| LengthsMap::open(ebpf, "LENGTHS"));
    Ok(Box::new(Throttling {
        stats: CpuStats::new(&kernel.hierarchy, CpuStats::DEFAULT_HELD),
        totals: attached.has("totals"),
        groups: HashMap::new(),
        seen: HashSet::new(),
        again: Vec::new(),
        read: None,
        unreadable: 0,
        lengths: lengths.transpose()?,
        lost: Mapped::open(ebpf, "LOST")?,
        retired: [0; WIDTH],
    }))
}

impl Throttling {
    /// Reads a cgroup's limit, and its totals if it has or had one.
    fn look(&mut self, id: CgroupId, path: &CgroupPath) {
        let cgroup = Cgroup {
            id,
            parent: None,
            path: path.clone(),
            trusted: 0,
        };
        let limit = match self.stats.quota(&cgroup) {
            Ok(limit) => limit,
            Err(error) => {
                tracing::debug!(cgroup = %path, %error, "cannot read the CPU limit");
                self.unreadable += 1;
                return;
            }
        };
        if limit.is_none() && !self.groups.contains_key(&id) {
            return;
        }
        let group = self.groups.entry(id).or_insert_with(|| Group {
            cgroup: cgroup.clone(),
            limit: None,
            stat: CpuStat::default(),
        });
        let had = group.limit.is_some();
        group.cgroup = cgroup;
        group.limit = limit;
        if had || limit.is_some() {
            group.read(&mut self.stats, &mut self.unreadable);
        }
    }

    /// Limits by owner, in the order of labels.
    fn limits<'a>(&self, owners: &OwnerRows<'a>) -> Vec<(&'a OwnerLabels, f64)> {
        let mut limited: Vec<_> = self
            .groups
            .iter()
            .filter_map(|(id, group)| {
                let cpus = group.limit?.cpus()?;
                let path: Vec<_> = group.cgroup.path.components().collect();
                Some(((owners.labels)(*id)?, path, cpus))
            })
            .collect();
        // Paths by name, so that those below another follow it.
        limited.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        outermost(&limited)
    }
}

/// Sums the limits of each owner, leaving out those below another of the same owner.
fn outermost<O: Copy + PartialEq>(sorted: &[(O, Vec<&[u8]>, f64)]) -> Vec<(O, f64)> {
    let mut sums: Vec<(O, f64)> = Vec::new();
    let mut above: &[&[u8]] = &[];
    for (owner, path, cpus) in sorted {
        match sums.last_mut() {
            Some((last, _)) if last == owner && path.starts_with(above) => continue,
            Some((last, sum)) if last == owner => *sum += cpus,
            _ => sums.push((*owner, *cpus)),
        }
        above = path;
    }
    sums
}

impl Collector for Throttling {
    fn columns(&self) -> Columns {
        Columns {
            width: WIDTH,
            wrapping: 0,
        }
    }

    fn read(&mut self, rows: &mut Rows) {
        rows.retired().copy_from_slice(&self.retired);
        for (id, group) in &mut self.groups {
            if group.limit.is_some() {
                group.read(&mut self.stats, &mut self.unreadable);
            }
            group.add(rows.row(*id));
        }
        for (id, counted) in self.lengths.iter().flat_map(LengthsMap::iter) {
            durations::add(&mut rows.row(CgroupId(id))[LENGTHS..], &counted);
        }
    }

    fn encode(&self, owners: &OwnerRows<'_>, out: &mut Encoder) {
        let mut total = |metric, at: usize, value: fn(u64) -> Value| {
            let mut family = out.family(metric);
            for (labels, row) in owners.rows.iter().filter(|(_, row)| row[LIMITED] != 0) {
                family.sample(Some(labels), &[], value(row[at]));
            }
        };
        total(&PERIODS, TOTALS, Value::Count);
        total(&THROTTLED_PERIODS, TOTALS + 1, Value::Count);
        total(&THROTTLED_SECONDS, TOTALS + 2, Value::Nanoseconds);
        let mut family = out.family(&LIMIT);
        for (labels, cpus) in self.limits(owners) {
            family.sample(Some(labels), &[], Value::Float(cpus));
        }
        if self.lengths.is_some() {
            let mut family = out.family(&THROTTLE_SECONDS);
            for (labels, row) in &owners.rows {
                let (counts, sum) = row[LENGTHS..].split_at(WAIT_BUCKETS);
                family.histogram(Some(labels), &[], &WAIT_BOUNDS_NS, counts, sum[0]);
            }
        }
    }

    fn recorded(&self) -> Vec<(Quantity, usize)> {
        vec![
            (Quantity::Periods, TOTALS),
            (Quantity::ThrottledPeriods, TOTALS + 1),
        ]
    }

    fn watch(&mut self, owners: &Owners, now: Instant) {
        if !self.totals {
            return;
        }
        let all = self
            .read
            .is_none_or(|then| now.saturating_duration_since(then) >= LIMITS_EVERY);
        let first = self.read.is_none();
        if all {
            self.read = Some(now);
        }
        let before = if all {
            std::mem::take(&mut self.seen)
        } else {
            HashSet::new()
        };
        let due: HashSet<_> = self
            .again
            .extract_if(.., |(due, _)| now >= *due)
            .map(|(_, id)| id)
            .collect();
        for (id, path) in owners.cgroups() {
            let unread = self.seen.insert(id);
            if unread || due.contains(&id) {
                self.look(id, path);
            }
            if unread && !first && !before.contains(&id) {
                self.again.extend(NEW_AGAIN.map(|after| (now + after, id)));
            }
        }
        for id in before.difference(&self.seen) {
            if let Some(group) = self.groups.get_mut(id) {
                group.limit = None;
                self.stats.forget(*id);
            }
        }
    }

    fn forget(&mut self, gone: &[CgroupId], rows: &mut Rows) {
        for id in gone.iter().filter(|id| rows.has(**id)) {
            if let Some(group) = self.groups.remove(id) {
                group.add(&mut self.retired);
            }
            if let Some(last) = self.lengths.as_mut().and_then(|l| l.remove(&id.0)) {
                durations::add(&mut self.retired[LENGTHS..], &last);
            }
            self.stats.forget(*id);
        }
        rows.remove(gone);
    }

    fn lost(&self) -> Vec<(&'static str, u64)> {
        let mut lost = vec![("cpu_files_unreadable", self.unreadable)];
        if self.lengths.is_some() {
            let counts = reason::REASONS.into_iter().enumerate();
            lost.extend(counts.map(|(i, reason)| (reason, self.lost.get(i).unwrap_or(0))));
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nested_limits_the_outermost_counts() {
        let path =
            |text: &'static str| -> Vec<&[u8]> { text.split('/').map(str::as_bytes).collect() };
        let limited = [
            ("a", path("a"), 4.0),
            ("a", path("a/x"), 1.0),
            ("a", path("a/x/y"), 0.5),
            ("a", path("ab"), 2.0),
            ("b", path("a/x"), 1.5),
            ("b", path("b/x"), 1.0),
            ("b", path("b/y"), 1.0),
        ];
        assert_eq!(outermost(&limited), [("a", 6.0), ("b", 3.5)]);
        assert!(outermost::<&str>(&[]).is_empty());
    }
}
