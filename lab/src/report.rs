//! Findings of a truth: each expected number beside the one that was counted.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// One comparison.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Check {
    /// Subject of the comparison.
    pub what: String,
    /// Expected value, by the kernel or by what was done; with the tolerance, if there is one.
    pub expected: String,
    /// Value that Stallscope exports.
    pub counted: String,
    /// True if they agree.
    pub agrees: bool,
}

/// Comparisons of one truth, and its parts that were left out here.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Comparisons, in the order they were made.
    pub checks: Vec<Check>,
    /// Parts that were left out on this machine, with the reasons.
    pub left_out: Vec<String>,
}

impl Report {
    /// Compares two values that have to be the same.
    pub fn equal<T: Display + PartialEq>(&mut self, what: impl Display, expected: T, counted: T) {
        let agrees = expected == counted;
        self.check(what, expected, counted, agrees);
    }

    /// Compares two amounts that may differ by a share of the expected one: 0.01 is one percent.
    pub fn within(&mut self, what: impl Display, expected: u64, counted: u64, share: f64) {
        let error = expected.abs_diff(counted) as f64;
        let agrees = error <= expected as f64 * share;
        let difference = percent(error / expected.max(1) as f64);
        self.check(
            what,
            format!("{expected} within {}", percent(share)),
            format!("{counted} ({difference} off)"),
            agrees,
        );
    }

    /// Compares an amount with its limits, both allowed.
    pub fn between(&mut self, what: impl Display, least: u64, most: u64, counted: u64) {
        let agrees = (least..=most).contains(&counted);
        self.check(what, format!("{least} to {most}"), counted, agrees);
    }

    /// Compares a share of a whole with its limits, all between 0 and 1.
    pub fn share(&mut self, what: impl Display, expected: std::ops::RangeInclusive<f64>, is: f64) {
        let limits = format!(
            "{} to {}",
            percent(*expected.start()),
            percent(*expected.end())
        );
        self.check(what, limits, percent(is), expected.contains(&is));
    }

    /// Adds a comparison whose outcome is `agrees`.
    pub fn check(
        &mut self,
        what: impl Display,
        expected: impl Display,
        counted: impl Display,
        agrees: bool,
    ) {
        let check = Check {
            what: what.to_string(),
            expected: expected.to_string(),
            counted: counted.to_string(),
            agrees,
        };
        let word = if agrees { "ok" } else { "WRONG" };
        println!(
            "    {word}: {}: expected {}, counted {}",
            check.what, check.expected, check.counted
        );
        self.checks.push(check);
    }

    /// Adds the reason why something cannot be shown on this machine.
    pub fn leave_out(&mut self, why: impl Display) {
        println!("    left out: {why}");
        let why = why.to_string();
        if !self.left_out.contains(&why) {
            self.left_out.push(why);
        }
    }

    /// Verdict on all comparisons.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.checks.iter().any(|check| !check.agrees) {
            Verdict::Failed
        } else if self.checks.is_empty() {
            Verdict::Skipped
        } else {
            Verdict::Passed
        }
    }
}

/// Formats a share of a whole, 0 to 1, in percent.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} %")
}

/// Verdict on a truth.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every comparison agreed.
    Passed,
    /// One did not, or the truth could not be brought about.
    Failed,
    /// Nothing could be compared here.
    Skipped,
}

/// Result of one truth, as it is printed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// The kernel's release.
    pub kernel: String,
    /// `arm64` or `amd64`.
    pub arch: String,
    /// The cgroup hierarchy that was followed: `v1` or `v2`.
    pub cgroup: String,
    /// Online CPUs.
    pub cpus: usize,
    /// The truth.
    pub test: String,
    /// Verdict.
    pub verdict: Verdict,
    /// Expected values, in the order of the comparisons.
    pub expected: Vec<String>,
    /// Counted values, in the same order.
    pub counted: Vec<String>,
    /// Subjects of the comparisons, in the same order.
    pub checks: Vec<String>,
    /// Comparisons that did not agree, what could not be brought about, or what was left out.
    pub detail: String,
    /// Duration, in seconds.
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::{Report, Verdict};

    #[test]
    fn one_wrong_number_fails_the_truth_and_none_is_no_pass() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Skipped);
        report.equal("moves", 97, 97);
        report.within("wait", 1_000_000, 1_000_100, 1e-4);
        report.between("switches", 1, 3, 3);
        report.share("own", 0.2..=0.4, 0.3);
        assert_eq!(report.verdict(), Verdict::Passed);
        report.within("wait", 1_000_000, 1_000_101, 1e-4);
        assert_eq!(report.verdict(), Verdict::Failed);
        let check = &report.checks[4];
        assert_eq!(check.expected, "1000000 within 0.01 %");
        assert_eq!(check.counted, "1000101 (0.0101 % off)");
    }

    #[test]
    fn nothing_expected_allows_nothing() {
        let mut report = Report::default();
        report.within("wait", 0, 1, 0.5);
        assert_eq!(report.verdict(), Verdict::Failed);
    }
}
