//! The wait of some tasks between two moments at which they stand still.

use std::{collections::BTreeMap, process::Command, sync::LazyLock};

use anyhow::Result;
use stallscope_ebpf::Cause;

use crate::{Group, Report, Scrape, Task, Tasks as _, World, label, report::percent};

/// Run-queue wait of a cgroup by cause.
pub const STALL: &str = "stallscope_stall_seconds_total";
const CPU: &str = "stallscope_cpu_seconds_total";
/// Sleep that the kernel adds to `run_delay`.
pub const PHANTOM: &str = "stallscope_phantom_wait_seconds_total";

/// Tolerance, as a share of the kernel's number, where the tasks are stopped at both readings.
pub const EXACT: f64 = 1e-4;
/// Largest share that may remain without a cause.
const UNATTRIBUTED: f64 = 5e-3;

/// The beginning of a measurement: the tasks are stopped.
#[derive(Debug)]
pub struct Span<'a> {
    world: &'a World,
    groups: &'a [&'a Group],
    tasks: &'a [Task],
    before: Reading,
}

/// The kernel's numbers and the scrape at one moment.
#[derive(Debug)]
struct Reading {
    run_delay: u64,
    on_cpu: u64,
    scrape: Scrape,
}

/// Growth between the two readings, in nanoseconds.
#[derive(Debug)]
pub struct Measured {
    /// Wait by the kernel.
    pub run_delay: u64,
    /// Sleep in that wait, which the agent refused: it is in no cause.
    pub phantom: u64,
    /// Sum of the causes.
    pub split: u64,
    /// Time on CPUs by the kernel.
    pub kernel_on_cpu: u64,
    /// Time on CPUs by Stallscope.
    pub on_cpu: u64,
    causes: BTreeMap<&'static str, u64>,
    before: Scrape,
    after: Scrape,
}

impl<'a> Span<'a> {
    /// Stops the tasks, which are all that ever run in the groups, and reads.
    ///
    /// # Errors
    /// When a task does not stop or the agent does not answer.
    pub fn of(world: &'a World, groups: &'a [&'a Group], tasks: &'a [Task]) -> Result<Self> {
        Ok(Self {
            world,
            groups,
            tasks,
            before: Reading::now(world, tasks)?,
        })
    }

    /// Lets the tasks run while `work` lasts, stops them and reads again.
    ///
    /// # Errors
    /// When a task does not stop, the agent does not answer, or a counter fell.
    pub fn during(self, work: impl FnOnce()) -> Result<Measured> {
        self.tasks.resume_all();
        work();
        let after = Reading::now(self.world, self.tasks)?;
        let (before, after_scrape) = (&self.before.scrape, &after.scrape);
        let grown = |family: &str, more: &[String]| -> Result<u64> {
            let sums = self.groups.iter().map(|group| {
                let labels = [&[label("cgroup", &group.label)], more].concat();
                after_scrape.grown(before, family, &labels)
            });
            sums.sum()
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
            phantom: grown(PHANTOM, &[])?,
            split: grown(STALL, &[])?,
            kernel_on_cpu: after.on_cpu - self.before.on_cpu,
            on_cpu: grown(CPU, &[])?,
            causes,
            before: self.before.scrape,
            after: after.scrape,
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

/// True if `/proc/config.gz` says that the kernel accounts interrupt time apart from that of tasks.
static INTERRUPTS_APART: LazyLock<bool> = LazyLock::new(|| {
    let config = Command::new("zcat").arg("/proc/config.gz").output();
    config.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y")
    })
});

impl Measured {
    /// Growth of a family.
    ///
    /// # Errors
    /// When it fell or is no number.
    pub fn grown(&self, family: &str, labels: &[String]) -> Result<u64> {
        self.after.grown(&self.before, family, labels)
    }

    /// The wait for a cause, in nanoseconds.
    #[must_use]
    pub fn cause(&self, cause: &str) -> u64 {
        self.causes.get(cause).copied().unwrap_or(0)
    }

    /// Judges the sum of the causes against the kernel's wait, and the part that remained without a cause. Sleep
    /// that the kernel took for a wait is taken off its number, and the report says so.
    pub fn judge(&self, report: &mut Report, when: &str, tolerance: f64) {
        let without = match self.phantom {
            0 => String::new(),
            ns => format!(" without {ns} of sleep"),
        };
        report.within(
            format!("{when}wait in ns{without}"),
            self.run_delay.saturating_sub(self.phantom),
            self.split,
            tolerance,
        );
        report.share(
            format!("{when}unattributed"),
            0.0..=UNATTRIBUTED,
            self.share("unattributed"),
        );
        // The kernel's number excludes steal time and, with `CONFIG_IRQ_TIME_ACCOUNTING`, interrupts.
        let what = format!("{when}time on CPUs against the kernel's");
        let share = self.on_cpu as f64 / self.kernel_on_cpu.max(1) as f64;
        if *INTERRUPTS_APART {
            report.check(what, "99 % or more", percent(share), share >= 0.99);
            report.leave_out(
                "time on CPUs has no upper limit where the kernel accounts interrupts apart \
                 (CONFIG_IRQ_TIME_ACCOUNTING): an emulated CPU may spend more time in them than in a task",
            );
        } else {
            report.share(what, 0.99..=1.25, share);
        }
    }

    /// A cause's part of the whole.
    #[must_use]
    pub fn share(&self, cause: &str) -> f64 {
        self.cause(cause) as f64 / self.split.max(1) as f64
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |ns: u64| ns as f64 / 1e9;
        write!(f, "{:.3} s of wait", seconds(self.run_delay))?;
        if self.phantom != 0 {
            write!(f, ", {:.3} s of it sleep", seconds(self.phantom))?;
        }
        write!(f, ":")?;
        for cause in self.causes.keys().filter(|cause| self.share(cause) > 0.0) {
            write!(f, " {cause} {:.2} %", self.share(cause) * 100.0)?;
        }
        Ok(())
    }
}
