//! The table at the end: a row a truth, a column a kernel.

use std::fmt::Write as _;

use super::outcome::{Outcome, Verdict};

/// The table in Markdown, with the reasons of what is not green below it.
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
        let cells: Vec<&str> = columns
            .iter()
            .map(|wanted| {
                let of = |o: &&Outcome| o.test == *row && column(o) == *wanted;
                outcomes.iter().rfind(of).map_or("", word)
            })
            .collect();
        let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
    }
    let mut notes: Vec<String> = Vec::new();
    for outcome in outcomes.iter().filter(|o| !o.detail.is_empty()) {
        let note = format!("{} ({})", outcome.detail, outcome.test);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "\n- {}", notes.join("\n- "));
    }
    text
}

fn column(outcome: &Outcome) -> String {
    let mut numbers = outcome.kernel.split(['.', '-', '+']);
    let series: Vec<&str> = numbers.by_ref().take(2).collect();
    let cpus = match outcome.cpus {
        super::CPUS => String::new(),
        cpus => format!(", {cpus} CPUs"),
    };
    format!(
        "{} {} {}{cpus}",
        outcome.arch,
        series.join("."),
        outcome.cgroup
    )
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
            of(&[first, second]),
            "| truth | arm64 6.12 v2 | arm64 6.12 v1 |\n|---|---|---|\n| hops | ok | **FAILED** |\n\n- wrong: moves (hops)\n"
        );
    }
}
