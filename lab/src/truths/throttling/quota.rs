//! A quota, its cost between two moments by the kernel, and the exported numbers.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{Group, Report, Scrape, World, histogram::Lengths, label, task::PATIENCE};

const PERIODS: &str = "stallscope_cpu_cfs_periods_total";
const THROTTLED_PERIODS: &str = "stallscope_cpu_cfs_throttled_periods_total";
const THROTTLED_SECONDS: &str = "stallscope_cpu_cfs_throttled_seconds_total";
const LIMIT: &str = "stallscope_cpu_limit_cores";
const LENGTHS: &str = "stallscope_cpu_throttle_seconds";

/// CPU time in each period, both in microseconds.
#[derive(Clone, Copy)]
pub(super) struct Quota {
    pub(super) micros: u64,
    pub(super) period: u64,
}

/// Numbers of `cpu.stat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stat {
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    /// Throttled time in nanoseconds: to the nanosecond on v1, to the microsecond on v2.
    pub(super) ns: u64,
}

impl Stat {
    fn of(group: &Group) -> Result<Self> {
        let number = |key| group.number("cpu.stat", key);
        Ok(Self {
            periods: number("nr_periods ")?,
            throttled_periods: number("nr_throttled ")?,
            ns: group.throttled()?,
        })
    }

    /// Reads once the quota's timer is idle; after that no number moves.
    fn settled(group: &Group) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Self::of(group)?;
        loop {
            sleep(Duration::from_millis(350));
            let now = Self::of(group)?;
            if now == last {
                return Ok(now);
            }
            ensure!(
                Instant::now() < deadline,
                "cpu.stat does not settle: {now:?}"
            );
            last = now;
        }
    }
}

/// The beginning of a measurement: nothing of the group runs.
pub(super) struct Span<'a> {
    world: &'a World,
    group: &'a Group,
    /// Limit in CPUs, as it is exported.
    limit: Option<f64>,
    before: Scrape,
    stat: Stat,
}

/// A measurement.
pub(super) struct Measured<'a> {
    /// Growth of `cpu.stat`.
    pub(super) truth: Stat,
    /// Single throttles; `None` where they are not seen.
    pub(super) lengths: Option<Lengths>,
    group: &'a Group,
    single: bool,
    limit: Option<f64>,
    before: Scrape,
    after: Scrape,
}

impl<'a> Span<'a> {
    /// Gives a new group a quota, and waits until the agent knows of it.
    pub(super) fn of(world: &'a World, group: &'a Group, quota: Quota) -> Result<Self> {
        group.limit_cpu(quota.micros, quota.period)?;
        // The timer runs for a few periods when a quota is set.
        let stat = Stat::settled(group)?;
        let labels = [label("cgroup", &group.label)];
        // The agent reads limits at a cgroup's first sight and then every ten seconds.
        let deadline = Instant::now() + PATIENCE;
        let before = loop {
            let scrape = world.scrape()?;
            if scrape.series(LIMIT, &labels).next().is_some() {
                break scrape;
            }
            ensure!(Instant::now() < deadline, "the agent does not see a quota");
            sleep(Duration::from_millis(500));
        };
        Ok(Self {
            world,
            group,
            limit: Some(quota.micros as f64 / quota.period as f64),
            before,
            stat,
        })
    }

    /// Begins the same for a group that has no quota of its own.
    pub(super) fn unlimited(world: &'a World, group: &'a Group) -> Result<Self> {
        Ok(Self {
            world,
            group,
            limit: None,
            before: world.scrape()?,
            stat: Stat::of(group)?,
        })
    }

    /// Waits until the quota has run out in so many periods.
    pub(super) fn until(&self, periods: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done = Stat::of(self.group)?.throttled_periods - self.stat.throttled_periods;
            if done >= periods {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the quota ran out in {done} periods only"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until no throttle goes on, and reads. The tasks are stopped.
    pub(super) fn end(self) -> Result<Measured<'a>> {
        let total = Stat::settled(self.group)?;
        let after = self.world.scrape()?;
        let labels = [label("cgroup", &self.group.label)];
        let then = Lengths::of(&self.before, LENGTHS, &labels)?;
        let now = Lengths::of(&after, LENGTHS, &labels)?;
        let (state, _) = self.world.hook("cpu_throttling", "single throttles")?;
        let truth = Stat {
            periods: total.periods - self.stat.periods,
            throttled_periods: total.throttled_periods - self.stat.throttled_periods,
            ns: total.ns - self.stat.ns,
        };
        println!("    {} of {:?}", self.group.label, truth);
        Ok(Measured {
            truth,
            lengths: now.map(|now| now.since(then.as_ref())).transpose()?,
            group: self.group,
            single: state == "attached",
            limit: self.limit,
            before: self.before,
            after,
        })
    }
}

impl Measured<'_> {
    fn labels(&self) -> [String; 1] {
        [label("cgroup", &self.group.label)]
    }

    /// Growth of a family of the group.
    pub(super) fn grown(&self, family: &str, more: &[String]) -> Result<u64> {
        let labels = [&self.labels()[..], more].concat();
        self.after.grown(&self.before, family, &labels)
    }

    /// Judges the totals, the limit and the single throttles against the kernel's numbers.
    pub(super) fn judge(&self, report: &mut Report, what: &str) {
        for (family, truth) in [
            (PERIODS, self.truth.periods),
            (THROTTLED_PERIODS, self.truth.throttled_periods),
            (THROTTLED_SECONDS, self.truth.ns),
        ] {
            let is = self.after.series(family, &self.labels()).next().is_some();
            let grown = self.grown(family, &[]).ok().filter(|_| is);
            same(report, format!("{what}: {family}"), Some(truth), grown);
        }
        let labels = self.labels();
        let limits = self.before.series(LIMIT, &labels);
        let limits: Vec<_> = limits.map(|(_, value)| value.parse().ok()).collect();
        report.check(
            format!("{what}: {LIMIT}"),
            format!("{:?}", self.limit),
            format!("{limits:?}"),
            limits == [self.limit],
        );
        if !self.single {
            report.leave_out("single throttles cannot be hooked on this kernel");
        }
        let Some(lengths) = &self.lengths else {
            same(
                report,
                format!("{what}: {LENGTHS}"),
                self.single.then_some(1),
                None,
            );
            return;
        };
        // v2 shows microseconds.
        let unit = if self.group.unified() { 1000 } else { 1 };
        report.equal(
            format!("{what}: throttled time by single throttles, in {unit} ns"),
            self.truth.ns / unit,
            lengths.sum / unit,
        );
        lengths.judge(report, format!("{what}: throttles"));
    }

    /// Judges the number of throttles. Each throttle is of one CPU. A group alone has at least one in each
    /// period in which its quota ran out, but a timer that is late counts several periods; inside another
    /// quota a throttle may outlast its period. Quota that others leave ends a throttle early, and then there
    /// is another one.
    pub(super) fn judge_number(&self, report: &mut Report, what: &str, cpus: u64, alone: bool) {
        if let Some(lengths) = &self.lengths {
            let periods = self.truth.throttled_periods;
            report.between(
                format!("{what}: number of throttles"),
                if alone { periods / 2 } else { periods.min(1) },
                periods * cpus * 2,
                lengths.count,
            );
        }
    }

    /// Judges a group without a quota, of which only the wait of its tasks is known.
    pub(super) fn judge_absent(&self, report: &mut Report, what: &str) {
        report.equal(
            format!("{what}: throttled time in cpu.stat"),
            0,
            self.truth.ns,
        );
        for family in [PERIODS, THROTTLED_PERIODS, THROTTLED_SECONDS, LIMIT] {
            let count = self.after.series(family, &self.labels()).count();
            report.equal(format!("{what}: series of {family}"), 0, count);
        }
        let count = self.lengths.as_ref().map_or(0, |lengths| lengths.count);
        report.equal(format!("{what}: single throttles"), 0, count);
    }
}

fn same(report: &mut Report, what: String, expected: Option<u64>, counted: Option<u64>) {
    let agrees = expected == counted;
    let text = |value: Option<u64>| value.map_or("absent".to_owned(), |value| value.to_string());
    report.check(what, text(expected), text(counted), agrees);
}
