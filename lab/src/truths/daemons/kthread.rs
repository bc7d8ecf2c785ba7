//! A kernel thread on CPUs that victims want, and the exported numbers of both.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    Group, Report, Task, World, label,
    split::{Measured, Span},
    task::{self, PATIENCE},
    trace::{Event, Trace},
};

const CPU: &str = "stallscope_daemon_cpu_seconds_total";
const WAIT: &str = "stallscope_daemon_wait_seconds_total";
const WAKEUPS: &str = "stallscope_daemon_wakeups_total";
const PREEMPTIONS: &str = "stallscope_preemptions_total";

/// A kernel thread.
pub(super) struct Kthread {
    pub(super) pid: libc::pid_t,
    name: String,
}

/// The kernel's numbers of it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// In nanoseconds.
    on_cpu: u64,
    /// In nanoseconds.
    waited: u64,
    /// Times it came onto a CPU.
    arrivals: u64,
    /// Times it went to sleep.
    slept: u64,
}

impl Kthread {
    /// Finds the kernel thread of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        let pid = task::kthread(name)?;
        Some(Self {
            pid,
            name: name.to_owned(),
        })
    }

    fn clock(&self) -> Result<Clock> {
        let path = format!("/proc/{}/schedstat", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let numbers: Option<Vec<u64>> = text.split_whitespace().map(|n| n.parse().ok()).collect();
        let Some(&[on_cpu, waited, arrivals]) = numbers.as_deref() else {
            bail!("{path} should hold three numbers: {text}");
        };
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let slept = text
            .lines()
            .find_map(|line| {
                line.strip_prefix("voluntary_ctxt_switches:")?
                    .trim()
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{path} does not say how often it slept"))?;
        Ok(Clock {
            on_cpu,
            waited,
            arrivals,
            slept,
        })
    }

    /// Waits until it does nothing.
    fn quiet(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.clock()?;
        loop {
            sleep(Duration::from_millis(700));
            let now = self.clock()?;
            // Some daemons look each half a second whether there is anything to do.
            if now.on_cpu - last.on_cpu < 2_000_000 && now.arrivals - last.arrivals <= 3 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} does not rest", self.name);
            last = now;
        }
    }

    /// Waits until it has used so much CPU time.
    pub(super) fn works(&self, time: Duration) -> Result<()> {
        let (start, begun) = (Instant::now(), self.clock()?.on_cpu);
        while u128::from(self.clock()?.on_cpu - begun) < time.as_nanos() {
            ensure!(start.elapsed() < PATIENCE, "{} does not work", self.name);
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Work of a daemon, and the victims' loss by it.
pub(super) struct Taken {
    /// The victims' wait.
    pub(super) wait: Measured,
    daemon: &'static str,
    victim: String,
    /// Least and most of the daemon's numbers between the scrapes, by the kernel.
    clocks: [Clock; 2],
    /// Switches from a victim that was still runnable to a daemon of the kind.
    switches: Vec<Event>,
    involuntary: u64,
    /// By node: least and most nanoseconds on CPUs of the others of its kind.
    others: Vec<(u32, (u64, u64))>,
}

/// The kernel's numbers of a daemon, and the time on CPUs of the others of its kind in nanoseconds.
struct Moment {
    clock: Clock,
    others: Vec<u64>,
}

impl Moment {
    fn now(kthread: &Kthread, siblings: &[(u32, Kthread)]) -> Result<Self> {
        let others = siblings
            .iter()
            .map(|(_, kthread)| Ok(kthread.clock()?.on_cpu));
        Ok(Self {
            clock: kthread.clock()?,
            others: others.collect::<Result<_>>()?,
        })
    }

    fn since(&self, then: &Self) -> Self {
        let others = self.others.iter().zip(&then.others);
        Self {
            clock: self.clock.since(then.clock),
            others: others.map(|(now, then)| now - then).collect(),
        }
    }
}

impl Taken {
    /// Lets a victim spin on each of the CPUs while `work` makes the daemon run there, and measures both.
    pub(super) fn by(
        world: &World,
        kthread: &Kthread,
        daemon: &'static str,
        cpus: &[usize],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let group = Group::new("victim")?;
        let tasks: Vec<Task> = cpus
            .iter()
            .map(|cpu| group.spin_on(*cpu))
            .collect::<Result<_>>()?;
        let siblings: Vec<(u32, Kthread)> = world
            .nodes
            .iter()
            .filter_map(|node| {
                let sibling = Kthread::find(&format!("{daemon}{}", node.id))?;
                (sibling.pid != kthread.pid).then_some((node.id, sibling))
            })
            .collect();
        // A task's time on a CPU is counted when it leaves the CPU.
        let quiet = || -> Result<()> {
            kthread.quiet()?;
            siblings.iter().try_for_each(|(_, sibling)| sibling.quiet())
        };
        quiet()?;
        let groups = [&group];
        // Some daemons look every half a second whether there is anything to do, and so during the scrapes
        // too.
        let outer = Moment::now(kthread, &siblings)?;
        let span = Span::of(world, &groups, &tasks)?;
        // The victims are stopped here, so that there is nobody to switch from.
        let trace = Trace::of(&["sched/sched_switch"], &filter(&tasks, daemon))?;
        let begun = involuntary(&tasks)?;
        let inner = Moment::now(kthread, &siblings)?;
        let (mut done, mut inner_end) = (Ok(()), None);
        let wait = span.during(|| {
            done = work().and_then(|()| quiet());
            inner_end = Some(Moment::now(kthread, &siblings));
        })?;
        done?;
        let least = inner_end.context("no end")??.since(&inner);
        let most = Moment::now(kthread, &siblings)?.since(&outer);
        Ok(Self {
            wait,
            daemon,
            victim: group.label.clone(),
            clocks: [least.clock, most.clock],
            switches: trace.end()?,
            involuntary: involuntary(&tasks)? - begun,
            others: siblings
                .iter()
                .zip(least.others.into_iter().zip(most.others))
                .map(|((node, _), limits)| (*node, limits))
                .collect(),
        })
    }

    /// Judges the exported numbers against the kernel's, by whose clock a kernel thread does not run while
    /// interrupts do. `node` is the label of the daemon.
    pub(super) fn judge(&self, report: &mut Report, node: &str) -> Result<()> {
        let [least, most] = self.clocks;
        let kind = label("daemon", self.daemon);
        let own = [kind.clone(), label("node", node)];
        let on_cpu = self.wait.grown(CPU, &own)?;
        println!(
            "    {}: {:.3} s on CPUs, {} switches, {} from victims",
            self.daemon,
            on_cpu as f64 / 1e9,
            most.arrivals,
            self.switches.len()
        );
        self.judge_preemptions(report)?;
        report.between(
            "its time on CPUs in ns, by its own clock",
            least.on_cpu - least.on_cpu / 100,
            most.on_cpu + most.on_cpu / 4,
            on_cpu,
        );
        report.between(
            "times it woke up",
            least.slept,
            most.slept,
            self.wait.grown(WAKEUPS, &own)?,
        );
        let waited = self.wait.grown(WAIT, &own)?;
        report.between("its own wait in ns", least.waited, most.waited, waited);
        // While they run, a victim wants each of its CPUs.
        report.between(
            "what the victims lost to it, in ns",
            least.on_cpu - least.on_cpu * 3 / 100,
            on_cpu,
            self.wait.cause(self.daemon),
        );
        self.judge_others(report, &kind)
    }

    fn judge_preemptions(&self, report: &mut Report) -> Result<()> {
        let victim = label("cgroup", &self.victim);
        let labels = [victim, label("daemon", self.daemon)];
        let count = self.wait.grown(PREEMPTIONS, &labels)?;
        let runnable = |event: &&Event| event.fields.contains("prev_state=R");
        let traced = self.switches.iter().filter(runnable).count() as u64;
        report.equal("preemptions of the victims", traced, count);
        let most = self.involuntary.min(self.clocks[1].arrivals);
        report.between("preemptions of all its switches and theirs", 0, most, count);
        if traced == 0 {
            report.leave_out(format!(
                "{} came after others than the victims only",
                self.daemon
            ));
        }
        Ok(())
    }

    /// Judges the others of its kind, at other nodes.
    fn judge_others(&self, report: &mut Report, kind: &str) -> Result<()> {
        for (node, (least, most)) in &self.others {
            let labels = [kind.to_owned(), label("node", &node.to_string())];
            let counted = self.wait.grown(CPU, &labels)?;
            report.between(
                format!("time of node {node}'s in ns"),
                least - least / 10,
                // Interrupts are a larger part of a millisecond, and a kernel may leave them out.
                most + (most / 4).max(1_000_000),
                counted,
            );
        }
        Ok(())
    }
}

impl Clock {
    fn since(self, then: Self) -> Self {
        Self {
            on_cpu: self.on_cpu - then.on_cpu,
            waited: self.waited - then.waited,
            arrivals: self.arrivals - then.arrivals,
            slept: self.slept - then.slept,
        }
    }
}

/// Filter for switches from these tasks to a daemon of the kind.
fn filter(tasks: &[Task], daemon: &str) -> String {
    let pids = tasks
        .iter()
        .map(|task| format!("prev_pid == {}", task.pid()));
    let pids: Vec<_> = pids.collect();
    format!("({}) && next_comm ~ \"{daemon}*\"", pids.join(" || "))
}

fn involuntary(tasks: &[Task]) -> Result<u64> {
    tasks
        .iter()
        .map(|task| task.status("nonvoluntary_ctxt_switches"))
        .sum()
}
