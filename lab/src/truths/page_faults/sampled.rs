//! The samples of NUMA balancing by the kernel, and by Stallscope.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::counts::Both;
use crate::{Group, Report, Setting, World, label};

/// Setting of NUMA balancing: 0 while the kernel samples nothing.
pub(in crate::truths) const BALANCING: &str = "/proc/sys/kernel/numa_balancing";
/// Reason why nothing is sampled where that file is absent.
pub(in crate::truths) const NOT_BALANCED: &str =
    "not held because this kernel is built without NUMA balancing, as every PREEMPT_RT is";

const FAMILY: &str = "stallscope_numa_hinting_faults_total";

/// The kernel's own counts of all hinting faults of the machine.
fn kernel() -> Result<Both> {
    let text = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    let of = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.with_context(|| format!("/proc/vmstat has no number {key}"))
    };
    let all = of("numa_hint_faults ")?;
    let local = of("numa_hint_faults_local ")?;
    Ok(Both {
        local,
        remote: all.saturating_sub(local),
    })
}

/// Numbers at one moment. The kernel's are read before and after the scrape, between which it may
/// count on.
pub(super) struct Moment {
    before: Both,
    after: Both,
    all: Both,
    group: Both,
}

impl Moment {
    /// Reads while nothing new is sampled: the agent's own memory is sampled too, and a scrape
    /// would change what it shows.
    pub(super) fn now(world: &World, group: &Group) -> Result<Self> {
        let _still = Setting::put(BALANCING, "0")?;
        // This scrape touches the agent's memory that was to be sampled, so that it is sampled now.
        world.scrape()?;
        let before = kernel()?;
        let scrape = world.scrape()?;
        let after = kernel()?;
        let read = |labels: &[String]| {
            let both = Both::read(&scrape, FAMILY, labels)?;
            both.with_context(|| format!("{FAMILY} has no series of {labels:?}"))
        };
        Ok(Self {
            before,
            after,
            all: read(&[])?,
            group: read(&[label("cgroup", &group.label)])?,
        })
    }

    /// Judges the growth since `then`, of all cgroups and of the group.
    pub(super) fn judge(&self, report: &mut Report, then: &Self) -> Result<Sampled> {
        let least = self.before.since(then.after).unwrap_or_default();
        let most = self.after.since(then.before)?;
        let all = self.all.since(then.all)?;
        for (what, least, most, counted) in [
            ("local", least.local, most.local, all.local),
            ("remote", least.remote, most.remote, all.remote),
        ] {
            // A fault that interrupts the program while it counts another is not counted.
            let least = least - least / 200;
            let what = format!("{what} faults of all cgroups, by numa_hint_faults");
            report.between(what, least, most, counted);
        }
        Ok(Sampled {
            group: self.group.since(then.group)?,
            kernel: most,
        })
    }
}

/// Samples between two moments.
pub(super) struct Sampled {
    /// Samples of the group, by Stallscope.
    pub(super) group: Both,
    /// Samples of the whole machine, by the kernel.
    pub(super) kernel: Both,
}

/// Makes the kernel sample as fast as it can, until the settings are dropped.
pub(super) fn fast() -> Result<Vec<Setting>> {
    let newer = "/sys/kernel/debug/sched/numa_balancing/";
    let older = "/proc/sys/kernel/numa_balancing_";
    let folder = if Path::new(newer).exists() {
        newer
    } else {
        older
    };
    let mut settings = vec![Setting::put(BALANCING, "1")?];
    for (name, value) in [
        ("scan_delay_ms", "10"),
        ("scan_period_min_ms", "100"),
        ("scan_period_max_ms", "200"),
    ] {
        settings.push(Setting::put(format!("{folder}{name}"), value)?);
    }
    Ok(settings)
}
