//! What some tasks waited between two moments at which they stand still.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use stallscope_ebpf::Cause;

use crate::{Group, Scrape, Task, Tasks as _, World, label};

const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";

/// The beginning: the tasks are stopped.
pub(super) struct Span<'a> {
    world: &'a World,
    groups: &'a [&'a Group],
    tasks: &'a [Task],
    before: Reading,
}

/// The kernel's numbers and the scrape at one moment.
struct Reading {
    run_delay: u64,
    on_cpu: u64,
    scrape: Scrape,
}

/// What grew between the two; all in nanoseconds.
pub(super) struct Measured {
    /// The kernel's wait.
    pub(super) run_delay: u64,
    /// The sum of the causes.
    pub(super) split: u64,
    /// The kernel's time on CPUs.
    pub(super) kernel_on_cpu: u64,
    /// Stallscope's.
    pub(super) on_cpu: u64,
    causes: BTreeMap<&'static str, u64>,
}

impl<'a> Span<'a> {
    /// Stops the tasks, which are all that ever run in the groups, and reads.
    pub(super) fn of(world: &'a World, groups: &'a [&'a Group], tasks: &'a [Task]) -> Result<Self> {
        Ok(Self {
            world,
            groups,
            tasks,
            before: Reading::now(world, tasks)?,
        })
    }

    /// Lets the tasks run while `work` lasts, stops them and reads again.
    pub(super) fn during(self, work: impl FnOnce()) -> Result<Measured> {
        self.tasks.resume_all();
        work();
        let after = Reading::now(self.world, self.tasks)?;
        let grown = |family: &str, more: &[String]| -> Result<u64> {
            let mut sum = 0;
            for group in self.groups {
                let labels = [&[label("cgroup", &group.label)], more].concat();
                let (then, now) = (
                    self.before.scrape.sum(family, &labels)?,
                    after.scrape.sum(family, &labels)?,
                );
                ensure!(now >= then, "{family} of {} fell", group.label);
                sum += now - then;
            }
            Ok(sum)
        };
        let mut causes = BTreeMap::new();
        for cause in Cause::ALL {
            causes.insert(
                cause.label(),
                grown(STALL, &[label("cause", cause.label())])?,
            );
        }
        let measured = Measured {
            run_delay: after.run_delay - self.before.run_delay,
            split: grown(STALL, &[])?,
            kernel_on_cpu: after.on_cpu - self.before.on_cpu,
            on_cpu: grown(CPU, &[])?,
            causes,
        };
        println!("    {measured}");
        Ok(measured)
    }
}

impl Reading {
    fn now(world: &World, tasks: &[Task]) -> Result<Self> {
        tasks.stop_all()?;
        Ok(Self {
            run_delay: tasks.run_delays()?,
            on_cpu: tasks.on_cpus()?,
            scrape: world.scrape()?,
        })
    }
}

impl Measured {
    /// A cause's part, in nanoseconds.
    pub(super) fn cause(&self, cause: &str) -> u64 {
        self.causes.get(cause).copied().unwrap_or(0)
    }

    /// A cause's part of the whole.
    pub(super) fn share(&self, cause: &str) -> f64 {
        self.cause(cause) as f64 / self.split.max(1) as f64
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} s of wait:", self.run_delay as f64 / 1e9)?;
        for cause in self.causes.keys().filter(|cause| self.share(cause) > 0.0) {
            write!(f, " {cause} {:.2} %", self.share(cause) * 100.0)?;
        }
        Ok(())
    }
}
