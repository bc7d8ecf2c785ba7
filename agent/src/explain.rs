//! Explanation of a container's lost time: the causes in a window, ranked, with their evidence and remedies.
//!
//! Pure: the same [`Case`] gives the same [`Report`]. The agent gathers the parts of the case.

mod baseline;
mod causes;
mod commands;
mod facts;
mod pod;
#[cfg(test)]
mod tests;
mod text;

use serde::{Deserialize, Serialize};

pub use crate::doctor::groups::Limit;
use crate::{
    api::{DaemonTime, Labels, NotMeasured},
    ledger::history::{Quantity, Sums},
    text::shell_command::ShellCommand,
};
pub use facts::{Facts, NodeFacts};
pub use pod::{Maker, PodFacts};

/// Share of the time that a container ran and lost, from which on the loss is much.
const MUCH: f64 = 0.2;

/// Facts about a container and a window.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Container, pod or cgroup to explain.
    pub subject: Subject,
    /// Start of the window, in Unix seconds.
    pub start: f64,
    /// End of the window, in Unix seconds.
    pub end: f64,
    /// Length of the recorded part of the window, in seconds.
    pub recorded_seconds: f64,
    /// Counts and times of the subject in the window.
    pub window: Sums,
    /// Counts and times of the subject in earlier windows of the same length, latest first.
    pub before: Vec<Sums>,
    /// Other users of CPUs in the window, largest first.
    pub others: Vec<Other>,
    /// Memory daemons that ran in the window.
    pub daemons: Vec<DaemonTime>,
    /// Current facts from the subject's cgroups.
    pub facts: Facts,
    /// Pod that the subject is, or to which it belongs.
    pub pod: Option<PodFacts>,
    /// Facts about the node.
    pub node: NodeFacts,
    /// Measurements that are not possible on this host.
    pub not_measured: Vec<NotMeasured>,
}

/// Another user of CPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Name of the pod, service or cgroup.
    pub name: String,
    /// Time on CPUs, in seconds.
    pub cpu_seconds: f64,
    /// True if it belongs to the host; a neighbour otherwise.
    pub of_host: bool,
}

/// Subject of an explanation.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Subject {
    /// Labels that select it.
    pub labels: Labels,
    /// Number of containers that the labels select.
    pub containers: usize,
    /// Paths from the mount of its existing cgroups, without those below another of them.
    pub cgroups: Vec<String>,
}

/// Explanation of a container's lost time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Subject of the explanation.
    pub subject: Subject,
    /// Start of the window, in Unix seconds.
    pub start: f64,
    /// End of the window, in Unix seconds.
    pub end: f64,
    /// Length of the window, in seconds.
    pub window_seconds: f64,
    /// Length of the recorded part of the window, in seconds.
    pub recorded_seconds: f64,
    /// Number of earlier windows of the same length, of which the baseline is the median.
    pub baseline_windows: usize,
    /// Time on CPUs, in seconds.
    pub cpu_seconds: f64,
    /// Lost time that the kernel measured, in seconds: the sum of the causes that are not estimates.
    pub lost_seconds: f64,
    /// True if any cause is unusual.
    pub unusual: bool,
    /// True if the loss is much, usual or not: at least a fifth of the time that the subject ran and lost.
    pub much: bool,
    /// Answer in one or two sentences.
    pub summary: String,
    /// Causes, the unusual ones first, each part by size.
    pub causes: Vec<CauseReport>,
    /// Measurements that are not possible on this host.
    pub not_measured: Vec<NotMeasured>,
}

/// Cause of lost time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CauseReport {
    /// Name, as in the metrics.
    pub cause: String,
    /// Description in a few words.
    pub title: String,
    /// Time lost to it, in seconds.
    pub seconds: f64,
    /// Share of the time of all listed causes, from 0 to 1.
    pub share: f64,
    /// Median of its time in the earlier windows, in seconds; none if nothing is recorded of them.
    pub baseline: Option<f64>,
    /// True if it exceeds this container's baseline by enough to matter.
    pub unusual: bool,
    /// True if it is estimated from counts rather than measured. The lost time excludes estimates.
    pub estimate: bool,
    /// Evidence for it.
    pub evidence: Vec<Evidence>,
    /// Remedies for it.
    pub remedy: Vec<Remedy>,
}

/// Count, reading or remark that is evidence of a cause.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Evidence {
    /// Name, for programs.
    pub name: String,
    /// Value, if it is a number.
    pub value: Option<f64>,
    /// Unit of the value.
    pub unit: String,
    /// Sentence that states the evidence, for people.
    pub text: String,
}

impl Evidence {
    fn number(name: &str, value: f64, unit: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value: Some(value),
            unit: unit.to_owned(),
            text: text.into(),
        }
    }

    fn text(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value: None,
            unit: String::new(),
            text: text.into(),
        }
    }
}

/// Change that reduces a cause.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Remedy {
    /// The change, and the reason for which it helps.
    pub text: String,
    /// Command that makes it on this host; none if no command does.
    pub command: Option<ShellCommand>,
}

impl Remedy {
    fn advice(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            command: None,
        }
    }

    fn run(text: impl Into<String>, command: ShellCommand) -> Self {
        Self {
            text: text.into(),
            command: Some(command),
        }
    }
}

impl Case {
    /// Returns the length of the window, in seconds.
    #[must_use]
    pub fn window_seconds(&self) -> f64 {
        self.end - self.start
    }

    /// Returns the time on CPUs in the window, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.window)
    }

    /// Returns the subject's count, or time in seconds, in the window.
    fn of(&self, quantity: Quantity) -> f64 {
        amount(&self.window, quantity)
    }

    /// Finds the causes and ranks them.
    #[must_use]
    pub fn explain(&self) -> Report {
        let mut causes = causes::found(self);
        let all = total(causes.iter().map(|cause| cause.seconds));
        for cause in &mut causes {
            cause.share = if all > 0.0 { cause.seconds / all } else { 0.0 };
        }
        causes.sort_by(|a, b| {
            let excess = |cause: &CauseReport| match cause.baseline {
                Some(baseline) if cause.unusual => cause.seconds - baseline,
                _ => cause.seconds,
            };
            b.unusual
                .cmp(&a.unusual)
                .then(excess(b).total_cmp(&excess(a)))
                .then(a.cause.cmp(&b.cause))
        });
        let measured = causes.iter().filter(|cause| !cause.estimate);
        let mut report = Report {
            subject: self.subject.clone(),
            start: self.start,
            end: self.end,
            window_seconds: self.window_seconds(),
            recorded_seconds: self.recorded_seconds,
            baseline_windows: self.before.len(),
            cpu_seconds: self.cpu_seconds(),
            lost_seconds: total(measured.map(|cause| cause.seconds)),
            unusual: causes.iter().any(|cause| cause.unusual),
            much: false,
            summary: String::new(),
            causes,
            not_measured: self.not_measured.clone(),
        };
        report.much = report.lost_seconds >= MUCH * (report.lost_seconds + report.cpu_seconds)
            && report.lost_seconds > 0.0;
        report.summary = text::summary(&report);
        report
    }
}

/// Sums numbers; 0 and not -0 if there are none.
pub(crate) fn total(parts: impl IntoIterator<Item = f64>) -> f64 {
    parts.into_iter().fold(0.0, |sum, part| sum + part)
}

/// Returns a quantity as seconds, or as a count.
fn amount(sums: &Sums, quantity: Quantity) -> f64 {
    let value = sums.get(&quantity).copied().unwrap_or(0) as f64;
    if quantity.is_time() {
        value / 1e6
    } else {
        value
    }
}

/// Returns the time on CPUs of all nodes, in seconds.
pub(crate) fn cpu_seconds(sums: &Sums) -> f64 {
    let cpu = |(quantity, us): (&Quantity, &u64)| {
        matches!(quantity, Quantity::Cpu(_)).then_some(*us as f64 / 1e6)
    };
    total(sums.iter().filter_map(cpu))
}

/// Returns the lost time by cause, in seconds, without causes of no time.
pub(crate) fn lost_by_cause(sums: &Sums) -> std::collections::BTreeMap<String, f64> {
    let lost =
        |(quantity, us): (&Quantity, &u64)| Some((quantity.cause()?.to_owned(), *us as f64 / 1e6));
    sums.iter()
        .filter_map(lost)
        .filter(|(_, s)| *s > 0.0)
        .collect()
}
