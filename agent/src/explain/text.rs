//! Text form of a report.

use std::fmt::Write as _;

use super::{CauseReport, Remedy, Report};
use crate::{api, text::printable::line};

/// Formats three significant digits, with no more decimals than those need.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Formats a number of CPUs with its word.
pub(super) fn cpus(value: f64) -> String {
    let number = number(value);
    let word = if number == "1" { "CPU" } else { "CPUs" };
    format!("{number} {word}")
}

/// Formats a size in binary units.
pub(super) fn bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| size >> shift > 0);
    match unit {
        Some((shift, name)) => format!("{} {name}", number(size as f64 / (1_u64 << shift) as f64)),
        None => format!("{size} bytes"),
    }
}

/// Formats seconds with their unit: below one second as milliseconds.
fn seconds(value: f64) -> String {
    if value < 0.9995 {
        format!("{} ms", number(value * 1000.0))
    } else {
        format!("{} s", number(value))
    }
}

/// Returns the answer in one or two sentences.
pub(super) fn summary(report: &Report) -> String {
    let name = api::name(&report.subject.labels);
    let lost = format!(
        "{name} lost {} in {}, and ran for {} on CPUs",
        seconds(report.lost_seconds),
        seconds(report.window_seconds),
        seconds(report.cpu_seconds),
    );
    let first = report.causes.first();
    let most = |cause: &CauseReport| format!("most to {}: {}", cause.cause, sentence(&cause.title));
    match first {
        None => format!("Nothing unusual: {lost}."),
        Some(cause) if !report.unusual => {
            if report.much && report.baseline_windows > 0 {
                format!(
                    "Nothing unusual, but much: {lost}, as always; {}.",
                    most(cause)
                )
            } else if report.baseline_windows == 0 {
                format!("Nothing unusual: {lost}; nothing is recorded before to compare with.")
            } else {
                format!("Nothing unusual: {lost}, about as usual; {}.", most(cause))
            }
        }
        Some(cause) => {
            let usual = match cause.baseline {
                Some(usual) => format!("where {} is usual", seconds(usual)),
                None => "and nothing is recorded before to compare with".to_owned(),
            };
            let estimate = if cause.estimate { "an estimated " } else { "" };
            format!(
                "{lost}. {}: {estimate}{}, {usual}.",
                cause.title,
                seconds(cause.seconds),
            )
        }
    }
}

/// Returns a title with its first letter in lower case, for use within a sentence.
fn sentence(title: &str) -> String {
    let mut chars = title.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

impl Report {
    /// Returns the report as text for a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}\n", line(&self.summary));
        let _ = write!(
            out,
            "{} to {}",
            api::moment(self.start),
            api::moment(self.end)
        );
        if self.recorded_seconds < self.window_seconds {
            let _ = write!(
                out,
                ", of which {} are recorded",
                seconds(self.recorded_seconds)
            );
        }
        let _ = match self.baseline_windows {
            0 => writeln!(out, ", no window before"),
            1 => writeln!(out, ", compared with one window of this length before"),
            windows => writeln!(
                out,
                ", compared with {windows} windows of this length before"
            ),
        };
        let mut said = Vec::new();
        for cause in &self.causes {
            cause.write(&mut out, self.much, &mut said);
        }
        if !self.not_measured.is_empty() {
            out.push_str("\nNot measured here\n");
            for missing in &self.not_measured {
                let _ = writeln!(out, "  {}: {}", line(&missing.what), line(&missing.reason));
            }
        }
        out
    }
}

impl CauseReport {
    /// Writes a cause: in short if it is neither unusual nor a tenth of all, and without remedies
    /// that an earlier cause has.
    fn write<'a>(&'a self, out: &mut String, much: bool, said: &mut Vec<&'a Remedy>) {
        const WORTH_DETAILS: f64 = 0.1;
        let estimate = if self.estimate { "about " } else { "" };
        let usual = match self.baseline {
            Some(usual) => format!("usual {}", seconds(usual)),
            None => "usual unknown".to_owned(),
        };
        let mark = if self.unusual { "!" } else { " " };
        let _ = writeln!(
            out,
            "\n{mark} {:<15} {:>12} {:>4.0} %   {usual}\n  {}",
            line(&self.cause),
            format!("{estimate}{}", seconds(self.seconds)),
            self.share * 100.0,
            line(&self.title),
        );
        if !self.unusual && self.share < WORTH_DETAILS {
            return;
        }
        for evidence in &self.evidence {
            let _ = writeln!(out, "    - {}", line(&evidence.text));
        }
        // A usual, small loss is no reason to change something.
        for remedy in self.remedy.iter().filter(|_| self.unusual || much) {
            if said.contains(&remedy) {
                continue;
            }
            said.push(remedy);
            let _ = writeln!(out, "    > {}", line(&remedy.text));
            if let Some(command) = &remedy.command {
                // A command from an agent of another version counts as mere text.
                let _ = writeln!(out, "        {}", line(command.as_str()));
            }
        }
    }
}
