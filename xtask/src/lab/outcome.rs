//! Outcome of a truth, as the lab's program prints it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::kernels::Kernel;

/// Verdict on a truth.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every comparison agreed.
    Passed,
    /// A comparison did not agree, or the stall could not be brought about.
    Failed,
    /// This machine allows no comparison.
    Skipped,
}

/// Stand-in for the name of a truth while a machine boots.
pub const BOOT: &str = "(boot)";

/// Outcome of one truth, one JSON object per line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// Release of the kernel.
    pub kernel: String,
    /// Architecture: `arm64` or `amd64`.
    pub arch: String,
    /// Cgroup hierarchy: `v1` or `v2`.
    pub cgroup: String,
    /// Number of the machine's CPUs.
    pub cpus: u32,
    /// Name of the truth.
    pub test: String,
    /// Verdict on the truth.
    pub verdict: Verdict,
    /// Expected values, comparison by comparison.
    pub expected: Vec<String>,
    /// Counted values.
    pub counted: Vec<String>,
    /// Descriptions of the comparisons.
    pub checks: Vec<String>,
    /// Reason of a failure, or what was left out.
    pub detail: String,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// Parses a line; none if it is not an outcome.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix("{\"kernel\"").map(|_| line)?).ok()
    }

    /// Returns the kernel's series with its variant, in the form that the lab's options take: 6.12, 6.12-64k, 6.12-rt.
    pub fn series(&self) -> String {
        let words: Vec<&str> = self.kernel.split(['.', '-', '+']).collect();
        let series = words[..words.len().min(2)].join(".");
        match words.iter().find(|word| ["64k", "rt"].contains(word)) {
            Some(variant) => format!("{series}-{variant}"),
            None => series,
        }
    }

    /// Returns whether this replaces an older outcome of the same machine: one of the same truth, or a lost boot.
    pub fn replaces(&self, old: &Self) -> bool {
        let machine = |o: &Self| (o.arch.clone(), o.series(), o.cgroup.clone(), o.cpus);
        machine(self) == machine(old) && (self.test == old.test || old.test == BOOT)
    }

    /// Returns whether the truth failed.
    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Failed
    }

    /// Creates the outcome of the truth that ran when its machine was lost.
    pub fn lost(kernel: &Kernel, machine: (&str, u32), test: &str, why: &str) -> Self {
        let (cgroup, cpus) = machine;
        Self {
            kernel: kernel.label(),
            arch: kernel.arch.debian().to_owned(),
            cgroup: cgroup.to_owned(),
            cpus,
            test: test.to_owned(),
            verdict: Verdict::Failed,
            expected: Vec::new(),
            counted: Vec::new(),
            checks: Vec::new(),
            detail: why.to_owned(),
            seconds: 0.0,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on {} {}, cgroup {}: {}",
            self.test, self.arch, self.kernel, self.cgroup, self.detail
        )
    }
}

/// Returns the name of the truth that begins with this line.
pub fn begun(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("== ")?.split_once(": ")?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Verdict, begun};

    #[test]
    fn results_are_told_from_what_is_for_the_reader() {
        let line = r#"{"kernel":"6.12.1","arch":"arm64","cgroup":"v2","cpus":8,"test":"t","verdict":"failed","expected":["1"],"counted":["2"],"checks":["c"],"detail":"wrong: c","seconds":1.5}"#;
        let outcome = Outcome::parse(line).unwrap();
        assert_eq!(outcome.verdict, Verdict::Failed);
        assert_eq!(
            outcome.to_string(),
            "t on arm64 6.12.1, cgroup v2: wrong: c"
        );
        assert_eq!(Outcome::parse("    ok: moves"), None);
        for (release, series) in [
            ("6.12.118+deb13-arm64-16k", "6.12"),
            ("6.12.118-64k", "6.12-64k"),
            ("6.12.118+deb13-rt-amd64", "6.12-rt"),
            ("6.12-rt", "6.12-rt"),
        ] {
            let of = Outcome {
                kernel: release.to_owned(),
                ..outcome.clone()
            };
            assert_eq!(of.series(), series);
        }
        let mut lost = outcome.clone();
        "(boot)".clone_into(&mut lost.test);
        "6.12".clone_into(&mut lost.kernel);
        assert!(outcome.replaces(&outcome) && outcome.replaces(&lost));
        "v1".clone_into(&mut lost.cgroup);
        assert!(!outcome.replaces(&lost) && !lost.replaces(&outcome));
        assert_eq!(begun("== hops: each pair"), Some("hops"));
        assert_eq!(begun("    ok: moves: expected 1"), None);
    }
}
