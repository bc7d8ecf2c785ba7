//! The truths: each makes a known number of known things happen and compares what is exported.

mod adds_up;
mod churn;
mod daemons;
mod doctor;
mod explain;
mod hooks;
mod map_memory;
mod migrations;
mod page_faults;
mod phantom;
mod reclaim;
mod throttling;

use std::{io::Write as _, time::Instant};

use anyhow::{Result, ensure};

use crate::{
    World,
    report::{Outcome, Report, Verdict},
};

/// One truth.
pub struct Truth {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// Its claim, in a line.
    pub about: &'static str,
    /// True if the cgroup hierarchy makes a difference, so that it runs with both.
    pub both_hierarchies: bool,
    /// Brings it about.
    pub run: fn(&mut World, &mut Report) -> Result<()>,
}

/// Every truth, in the order they run.
pub fn all() -> impl Iterator<Item = &'static Truth> {
    [
        hooks::TRUTHS,
        migrations::TRUTHS,
        page_faults::TRUTHS,
        throttling::TRUTHS,
        daemons::TRUTHS,
        reclaim::TRUTHS,
        adds_up::TRUTHS,
        phantom::TRUTHS,
        churn::TRUTHS,
        map_memory::TRUTHS,
        doctor::TRUTHS,
        explain::TRUTHS,
    ]
    .into_iter()
    .flatten()
}

/// Truths whose names contain one of these words; all if there are no words.
///
/// # Errors
/// When a word fits no truth.
pub fn chosen(words: &[String]) -> Result<Vec<&'static Truth>> {
    for word in words {
        ensure!(
            all().any(|truth| truth.name.contains(word.as_str())),
            "there is no truth `{word}`; there are: {}",
            all().map(|truth| truth.name).collect::<Vec<_>>().join(", ")
        );
    }
    let fits = |truth: &&Truth| words.is_empty() || words.iter().any(|w| truth.name.contains(w));
    Ok(all().filter(fits).collect())
}

/// Runs truths. True if none failed.
///
/// # Errors
/// When the results cannot be printed.
pub fn run(world: &mut World, truths: &[&Truth], json: bool) -> Result<bool> {
    let mut passed = true;
    let old = world.guest && world.cgroup == "v1";
    for truth in truths.iter().filter(|truth| truth.both_hierarchies || !old) {
        println!("== {}: {}", truth.name, truth.about);
        let start = Instant::now();
        let mut report = Report::default();
        let done = (truth.run)(world, &mut report);
        let outcome = judged(world, truth, report, done.err(), start);
        passed &= outcome.verdict != Verdict::Failed;
        println!(
            "== {}: {:?}, {:.0} s{}{}",
            outcome.test,
            outcome.verdict,
            outcome.seconds,
            if outcome.detail.is_empty() { "" } else { ": " },
            outcome.detail
        );
        if json {
            println!("{}", serde_json::to_string(&outcome)?);
        }
        std::io::stdout().flush()?;
    }
    Ok(passed)
}

fn judged(
    world: &World,
    truth: &Truth,
    report: Report,
    error: Option<anyhow::Error>,
    start: Instant,
) -> Outcome {
    let mut verdict = report.verdict();
    let mut detail: Vec<String> = Vec::new();
    if let Some(error) = error {
        verdict = Verdict::Failed;
        detail.push(format!("could not be brought about: {error:#}"));
    }
    let wrong = report.checks.iter().filter(|check| !check.agrees);
    detail.extend(wrong.map(|check| format!("wrong: {}", check.what)));
    detail.extend(report.left_out);
    let column = |of: fn(&crate::report::Check) -> &String| -> Vec<String> {
        report
            .checks
            .iter()
            .map(|check| of(check).clone())
            .collect()
    };
    Outcome {
        kernel: world.kernel.clone(),
        arch: match std::env::consts::ARCH {
            "aarch64" => "arm64",
            "x86_64" => "amd64",
            other => other,
        }
        .to_owned(),
        cgroup: world.cgroup.to_owned(),
        cpus: world.cpus().len(),
        test: truth.name.to_owned(),
        verdict,
        expected: column(|check| &check.expected),
        counted: column(|check| &check.counted),
        checks: column(|check| &check.what),
        detail: detail.join("; "),
        seconds: start.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::{all, chosen};

    #[test]
    fn names_are_unique_and_an_unknown_one_is_refused_with_the_list() {
        let mut names: Vec<_> = all().map(|truth| truth.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(chosen(&[]).unwrap().len(), count);
        let error = chosen(&["no-such".to_owned()]).err().unwrap().to_string();
        assert!(
            error.contains("no-such") && error.contains(names[0]),
            "{error}"
        );
    }
}
