//! Why a container lost time: the causes of a window, ranked, with their evidence and what to change.
//!
//! Pure: the same [`Case`] gives the same [`Report`]. What the case is made of is gathered by the agent.

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
    ShellCommand,
    api::{DaemonTime, Labels, NotMeasured},
    history::{Quantity, Sums},
};
pub use facts::{Facts, NodeFacts};
pub use pod::{Maker, PodFacts};

/// What part of the time that a container ran and lost is much to lose.
const MUCH: f64 = 0.2;

/// All that is known of a container and a window.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The container, pod or cgroup.
    pub subject: Subject,
    /// Where the window begins and ends, in Unix seconds.
    pub start: f64,
    /// See `start`.
    pub end: f64,
    /// How much of it is recorded, in seconds.
    pub recorded_seconds: f64,
    /// What it did in the window.
    pub window: Sums,
    /// What it did in windows of the same length before, the latest first.
    pub before: Vec<Sums>,
    /// Who else used CPUs in the window, those that used most first.
    pub others: Vec<Other>,
    /// The memory daemons that ran in the window.
    pub daemons: Vec<DaemonTime>,
    /// What its cgroups say at this moment.
    pub facts: Facts,
    /// The pod that it is or is in.
    pub pod: Option<PodFacts>,
    /// What the node says.
    pub node: NodeFacts,
    /// What cannot be measured here.
    pub not_measured: Vec<NotMeasured>,
}

/// Somebody else who used CPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Name of the pod, service or cgroup.
    pub name: String,
    /// Time on CPUs, in seconds.
    pub cpu_seconds: f64,
    /// Whether it is of the host rather than a neighbour.
    pub of_host: bool,
}

/// Who is explained.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Subject {
    /// The labels that choose it.
    pub labels: Labels,
    /// How many containers these choose.
    pub containers: usize,
    /// Its cgroups that exist at this moment, from the mount, without those below another of them.
    pub cgroups: Vec<String>,
}

/// Why a container lost time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Who.
    pub subject: Subject,
    /// Where the window begins, in Unix seconds.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
    /// Its length in seconds.
    pub window_seconds: f64,
    /// How much of it is recorded, in seconds.
    pub recorded_seconds: f64,
    /// How many windows of the same length the baseline is the median of.
    pub baseline_windows: usize,
    /// Time on CPUs.
    pub cpu_seconds: f64,
    /// Time lost as the kernel measured it: the sum of the causes that are no estimates.
    pub lost_seconds: f64,
    /// Whether any cause is unusual.
    pub unusual: bool,
    /// Whether it lost much, usual or not: at least a fifth of the time that it ran and lost.
    pub much: bool,
    /// The answer in one or two sentences.
    pub summary: String,
    /// The causes: the unusual ones first, each part by size.
    pub causes: Vec<CauseReport>,
    /// What this host does not let the agent measure.
    pub not_measured: Vec<NotMeasured>,
}

/// One cause of lost time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CauseReport {
    /// Its name, as in the metrics.
    pub cause: String,
    /// What it is, in a few words.
    pub title: String,
    /// Time lost to it.
    pub seconds: f64,
    /// Its part of the time of all causes listed, from 0 to 1.
    pub share: f64,
    /// The median of its time in the windows before; none where nothing is recorded of them.
    pub baseline: Option<f64>,
    /// Whether that is more than this container usually loses to it, and enough to matter.
    pub unusual: bool,
    /// Whether it is reckoned from counts rather than measured; it is then no part of the lost time.
    pub estimate: bool,
    /// What speaks for it.
    pub evidence: Vec<Evidence>,
    /// What to change.
    pub remedy: Vec<Remedy>,
}

/// Something that was counted or read.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Evidence {
    /// What it is, for programs.
    pub name: String,
    /// Its value, if it is a number.
    pub value: Option<f64>,
    /// The value's unit.
    pub unit: String,
    /// The same for people.
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

/// Something to change.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Remedy {
    /// What, and why it helps.
    pub text: String,
    /// How on this host; none where no command does it.
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
    /// Length of the window, in seconds.
    #[must_use]
    pub fn window_seconds(&self) -> f64 {
        self.end - self.start
    }

    /// Time on CPUs in the window, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.window)
    }

    /// A count or a time in seconds in the window.
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

/// A sum that is 0 and not -0 when there is nothing to add.
pub(crate) fn total(parts: impl IntoIterator<Item = f64>) -> f64 {
    parts.into_iter().fold(0.0, |sum, part| sum + part)
}

/// A quantity as seconds, or as a count.
fn amount(sums: &Sums, quantity: Quantity) -> f64 {
    let value = sums.get(&quantity).copied().unwrap_or(0) as f64;
    if quantity.is_time() {
        value / 1e6
    } else {
        value
    }
}

/// Time on CPUs of all nodes, in seconds.
pub(crate) fn cpu_seconds(sums: &Sums) -> f64 {
    let cpu = |(quantity, us): (&Quantity, &u64)| {
        matches!(quantity, Quantity::Cpu(_)).then_some(*us as f64 / 1e6)
    };
    total(sums.iter().filter_map(cpu))
}

/// Time lost by cause, in seconds; those without are left out.
pub(crate) fn lost_by_cause(sums: &Sums) -> std::collections::BTreeMap<String, f64> {
    let lost =
        |(quantity, us): (&Quantity, &u64)| Some((quantity.cause()?.to_owned(), *us as f64 / 1e6));
    sums.iter()
        .filter_map(lost)
        .filter(|(_, s)| *s > 0.0)
        .collect()
}
