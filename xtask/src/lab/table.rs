//! Table of outcomes: one row per truth, one column per kernel and number of CPUs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use time::OffsetDateTime;

use super::outcome::{Outcome, Verdict};

/// Writes a table to a file, if one is given, with its date and the command that made it.
pub fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let date = OffsetDateTime::now_utc().date();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = format!("`cargo xtask {}` on {date}:\n\n{text}", words.join(" "));
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Formats the table in Markdown, with the reasons of everything that did not pass below it.
pub fn of(outcomes: &[Outcome]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<&str> = Vec::new();
    for outcome in outcomes {
        let column = column(outcome);
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !rows.contains(&outcome.test.as_str()) {
            rows.push(&outcome.test);
        }
    }
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ = writeln!(text, "| truth | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for row in &rows {
        let cells: Vec<String> = columns
            .iter()
            .map(|wanted| {
                let of = |o: &&Outcome| o.test == *row && column(o) == *wanted;
                cell(outcomes.iter().filter(of))
            })
            .collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
    }
    let notes = notes(outcomes);
    if !notes.is_empty() {
        let _ = writeln!(text, "\n- {}", notes.join("\n- "));
    }
    let releases: BTreeSet<String> = outcomes
        .iter()
        .map(|o| format!("{} {}", o.arch, o.kernel))
        .collect();
    let releases: Vec<String> = releases.into_iter().collect();
    let _ = writeln!(text, "\nKernels: {}.", releases.join(", "));
    text
}

/// Returns each reason of an outcome that did not pass once, with its truths.
fn notes(outcomes: &[Outcome]) -> Vec<String> {
    let mut reasons: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for outcome in outcomes.iter().filter(|o| !o.detail.is_empty()) {
        for reason in outcome.detail.split("; ") {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, truths)) => _ = truths.insert(&outcome.test),
                None => reasons.push((reason, BTreeSet::from([outcome.test.as_str()]))),
            }
        }
    }
    let note = |(reason, truths): (&str, BTreeSet<&str>)| {
        let truths: Vec<&str> = truths.into_iter().collect();
        format!("{reason} ({})", truths.join(", "))
    };
    reasons.into_iter().map(note).collect()
}

/// Formats the outcomes of a truth on a machine, by cgroup hierarchy if they differ.
fn cell<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let mut words: BTreeMap<&str, &str> = BTreeMap::new();
    for outcome in outcomes {
        words.insert(&outcome.cgroup, word(outcome));
    }
    let different: BTreeSet<&&str> = words.values().collect();
    match different.first() {
        None => String::new(),
        Some(word) if different.len() == 1 => (**word).to_owned(),
        Some(_) => {
            let each: Vec<String> = words
                .iter()
                .map(|(cgroup, word)| format!("{cgroup} {word}"))
                .collect();
            each.join(", ")
        }
    }
}

fn column(outcome: &Outcome) -> String {
    let cpus = match outcome.cpus {
        super::CPUS => String::new(),
        cpus => format!(", {cpus} CPUs"),
    };
    format!("{} {}{cpus}", outcome.arch, outcome.series())
}

fn word(outcome: &Outcome) -> &'static str {
    match (outcome.verdict, outcome.detail.is_empty()) {
        (Verdict::Passed, true) => "ok",
        (Verdict::Passed, false) => "ok, in part",
        (Verdict::Failed, _) => "**FAILED**",
        (Verdict::Skipped, _) => "not here",
    }
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::lab::outcome::Outcome;

    #[test]
    fn a_row_for_each_truth_and_a_column_for_each_machine() {
        let line = r#"{"kernel":"6.12.107+deb13-arm64-16k","arch":"arm64","cgroup":"v2","cpus":8,"test":"hops","verdict":"passed","expected":[],"counted":[],"checks":[],"detail":"","seconds":1}"#;
        let first = Outcome::parse(line).unwrap();
        let mut second = first.clone();
        second.cgroup = "v1".into();
        second.verdict = super::Verdict::Failed;
        second.detail = "wrong: moves".into();
        assert_eq!(
            of(&[first.clone(), second.clone()]),
            "| truth | arm64 6.12 |\n|---|---|\n| hops | v1 **FAILED**, v2 ok |\n\n- wrong: moves (hops)\n\nKernels: arm64 6.12.107+deb13-arm64-16k.\n"
        );
        second.verdict = super::Verdict::Passed;
        second.detail.clear();
        assert!(of(&[first, second]).contains("| hops | ok |\n"));
    }
}
