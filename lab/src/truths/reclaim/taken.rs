//! One step of a worker: the kernel's record of it, and the exported numbers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use stallscope_ebpf::Reclaim;

use crate::{
    Group, Report, Scrape, Worker, World,
    histogram::Lengths,
    label,
    trace::{Event, Trace},
};

const LENGTHS: &str = "stallscope_reclaim_seconds";
const STALL: &str = "stallscope_task_stall_seconds_total";
const LOST: &str = "stallscope_lost_events_total";
/// Greatest difference between the two timings of a call, in nanoseconds. The trace and the agent take
/// them at slightly different moments, and an interrupt may come between them.
const APART: u64 = 500_000;
/// Events at the begin and the end of each cause.
const EVENTS: [(&str, &str, &str); 3] = [
    (
        "direct_reclaim",
        "vmscan/mm_vmscan_direct_reclaim_begin",
        "vmscan/mm_vmscan_direct_reclaim_end",
    ),
    (
        "memcg_reclaim",
        "vmscan/mm_vmscan_memcg_reclaim_begin",
        "vmscan/mm_vmscan_memcg_reclaim_end",
    ),
    (
        "compaction",
        "compaction/mm_compaction_begin",
        "compaction/mm_compaction_end",
    ),
];

/// Numbers of a step, by the kernel and by the exposition.
pub(super) struct Taken {
    label: String,
    before: Scrape,
    after: Scrape,
    /// Outermost calls by cause: number and nanoseconds.
    traced: BTreeMap<&'static str, (u64, u64)>,
    /// Time that passed, in nanoseconds, as are the fields that follow.
    passed: u64,
    on_cpu: u64,
    waited: u64,
    pressure: Option<u64>,
}

impl Taken {
    /// Lets the worker do a step, whose answer is its time in nanoseconds. Step 0 does nothing.
    pub(super) fn by(world: &World, group: &Group, worker: &mut Worker, step: u8) -> Result<Self> {
        worker.step(0)?;
        let names: Vec<&str> = EVENTS.iter().flat_map(|e| [e.1, e.2]).collect();
        let pid = worker.task().pid();
        let trace = Trace::of(&names, &format!("common_pid == {pid}"))?;
        worker.task().until('S')?;
        let before = world.scrape()?;
        let pressure = pressure(group)?;
        let (on_cpu, waited) = (worker.task().on_cpu()?, worker.task().run_delay()?);
        let passed = worker.step(step)?;
        worker.task().until('S')?;
        let on_cpu = worker.task().on_cpu()? - on_cpu;
        let waited = worker.task().run_delay()? - waited;
        let pressed = pressure_now(pressure, group)?;
        let after = world.scrape()?;
        Ok(Self {
            label: label("cgroup", &group.label),
            before,
            after,
            traced: outermost(&trace.end()?)?,
            passed,
            on_cpu,
            waited,
            pressure: pressed,
        })
    }

    fn exported(&self, cause: &str) -> Result<Lengths> {
        let labels = [self.label.clone(), label("cause", cause)];
        let then = Lengths::of(&self.before, LENGTHS, &labels)?;
        let now = Lengths::of(&self.after, LENGTHS, &labels)?;
        now.unwrap_or_default().since(then.as_ref())
    }

    /// Judges number and time of each cause against the trace. `least` holds the least number of some
    /// causes.
    pub(super) fn judge(
        &self,
        report: &mut Report,
        what: &str,
        least: &[(&str, u64)],
    ) -> Result<()> {
        println!(
            "    {what}: {:?} in {} ns, {} on CPUs, {} waiting for one, pressure {:?}",
            self.traced, self.passed, self.on_cpu, self.waited, self.pressure
        );
        for cause in Reclaim::ALL.map(Reclaim::label) {
            let (count, traced) = self.traced.get(cause).copied().unwrap_or((0, 0));
            let counted = self.exported(cause)?;
            report.equal(format!("{what}: {cause}: calls"), count, counted.count);
            let labels = [self.label.clone(), label("cause", cause)];
            let total = self.after.grown(&self.before, STALL, &labels)?;
            report.equal(
                format!("{what}: {cause}: {STALL} in ns"),
                counted.sum,
                total,
            );
            if count == 0 {
                continue;
            }
            counted.judge(report, format!("{what}: {cause}"));
            // The part of it that was a wait for a CPU is not counted.
            let slack = count * APART + traced / 100;
            report.between(
                format!("{what}: {cause}: time in ns by the trace"),
                traced.saturating_sub(self.waited + slack),
                traced + slack,
                total,
            );
            report.between(
                format!("{what}: {cause}: within the task's own time in ns"),
                1,
                self.passed,
                total,
            );
        }
        for (cause, least) in least {
            let count = self.traced.get(cause).map_or(0, |traced| traced.0);
            report.between(
                format!("{what}: {cause} was made to happen"),
                *least,
                u64::MAX,
                count,
            );
        }
        let lost = self
            .after
            .grown(&self.before, LOST, &[label("probe", "reclaim")])?;
        report.equal(format!("{what}: lost events"), 0, lost);
        Ok(())
    }

    /// Judges a cause against the kernel's own measure of the same stall, which includes the wait for a
    /// CPU.
    pub(super) fn judge_pressure(
        &self,
        report: &mut Report,
        what: &str,
        cause: &str,
    ) -> Result<()> {
        let Some(pressure) = self.pressure else {
            report.leave_out(
                "memory pressure is told of the machine only, in parts of its busy CPUs",
            );
            return Ok(());
        };
        let total = self.exported(cause)?.sum;
        // Pressure is also a wait for pages that were in memory a moment ago.
        report.share(
            format!("{what}: {cause} against memory pressure"),
            0.0..=1.02,
            total as f64 / pressure.max(1) as f64,
        );
        Ok(())
    }

    /// Judges a step that did not sleep and did nothing else: its time is that on CPUs, whoever
    /// competed.
    pub(super) fn judge_without_wait(&self, report: &mut Report, what: &str, cause: &str) {
        let traced = self.traced.get(cause).map_or(0, |traced| traced.1);
        let total = self.exported(cause).map_or(0, |lengths| lengths.sum);
        report.between(
            format!("{what}: {cause}: time in ns, by the time on CPUs"),
            self.on_cpu / 2,
            self.on_cpu * 21 / 20,
            total,
        );
        if total as f64 > traced as f64 * 0.95 {
            report.leave_out(format!("{cause} waited outside of its calls only"));
        }
    }
}

/// Number and time of the calls that are not inside another.
fn outermost(events: &[Event]) -> Result<BTreeMap<&'static str, (u64, u64)>> {
    let mut sums = BTreeMap::new();
    let mut stack: Vec<(&str, u64)> = Vec::new();
    for event in events {
        let is = |name: &str| name.ends_with(&format!("/{}", event.name));
        if let Some((cause, ..)) = EVENTS.iter().find(|(_, begin, _)| is(begin)) {
            stack.push((cause, event.ns));
        } else if let Some((cause, ..)) = EVENTS.iter().find(|(.., end)| is(end)) {
            let (begun, ns) = stack.pop().context("a call ends that did not begin")?;
            ensure!(begun == *cause, "{begun} ends as {cause}");
            if stack.is_empty() {
                let sum = sums.entry(*cause).or_insert((0, 0));
                *sum = (sum.0 + 1, sum.1 + event.ns - ns);
            }
        }
    }
    ensure!(stack.is_empty(), "a call did not end");
    Ok(sums)
}

/// Time for which some task of the group stalled for memory so far, in nanoseconds; `None` on v1.
fn pressure(group: &Group) -> Result<Option<u64>> {
    let Ok(text) = group.read("memory.pressure") else {
        return Ok(None);
    };
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let total = some.and_then(|line| line.rsplit_once("total=")?.1.parse::<u64>().ok());
    let micros = total.with_context(|| format!("this should tell pressure: {text}"))?;
    Ok(Some(micros * 1000))
}

fn pressure_now(then: Option<u64>, group: &Group) -> Result<Option<u64>> {
    let now = pressure(group)?;
    Ok(now.zip(then).map(|(now, then)| now - then))
}

#[cfg(test)]
mod tests {
    use super::outermost;
    use crate::trace::Event;

    fn event(ns: u64, name: &str) -> Event {
        Event {
            ns,
            name: name.to_owned(),
            fields: String::new(),
        }
    }

    #[test]
    fn a_call_inside_another_is_a_part_of_it() {
        let events = [
            event(10, "mm_vmscan_direct_reclaim_begin"),
            event(20, "mm_compaction_begin"),
            event(30, "mm_compaction_end"),
            event(50, "mm_vmscan_direct_reclaim_end"),
            event(60, "mm_compaction_begin"),
            event(67, "mm_compaction_end"),
        ];
        let sums = outermost(&events).unwrap();
        let expected = [("compaction", (1, 7)), ("direct_reclaim", (1, 40))];
        assert_eq!(sums.into_iter().collect::<Vec<_>>(), expected);
        assert!(outermost(&events[1..4]).is_err());
    }
}
