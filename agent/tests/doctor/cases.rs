//! Cases of every check: a node with its finding for each severity, and a node without.

use std::collections::BTreeSet;

use stallscope::doctor::{CHECKS, Finding, Report, Severity};

use crate::fixture::{NODES, audited, change, node, text};

/// One case of `checks.cases`.
struct Case {
    check: String,
    /// A severity, or `clean`.
    state: String,
    node: String,
    changes: String,
}

fn cases() -> Vec<Case> {
    let text = text("checks.cases");
    let cases = text.split("\n## ").skip(1).map(|case| {
        let (head, changes) = case.split_once('\n').unwrap_or((case, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        let [check, state, "on", node] = words[..] else {
            panic!("`CHECK SEVERITY on NODE` was expected: {head}");
        };
        Case {
            check: check.to_owned(),
            state: state.to_owned(),
            node: node.to_owned(),
            changes: changes.to_owned(),
        }
    });
    cases.collect()
}

fn of<'a>(report: &'a Report, check: &str) -> Vec<&'a Finding> {
    let findings = report.findings.iter();
    findings.filter(|finding| finding.check == check).collect()
}

fn judge(case: &Case, report: &Report) -> Result<(), String> {
    let found = of(report, &case.check);
    let made = report.checks.iter().find(|made| made.check == case.check);
    let made = made.ok_or("there is no such check")?;
    if case.state == "clean" {
        return if made.state == "clean" {
            Ok(())
        } else {
            Err(format!("{made:?}: {found:#?}"))
        };
    }
    let wanted = |finding: &&&Finding| finding.severity.name() == case.state;
    let Some(finding) = found.iter().find(wanted) else {
        return Err(format!("{made:?}: {found:#?}"));
    };
    whole(finding)
}

/// Checks that a finding is complete.
fn whole(finding: &Finding) -> Result<(), String> {
    let said = [&finding.title, &finding.value, &finding.why, &finding.link];
    let empty =
        said.iter().any(|text| text.trim().is_empty()) || finding.read.iter().any(String::is_empty);
    if empty || finding.read.is_empty() || finding.mend.is_empty() {
        return Err(format!("something is left out: {finding:#?}"));
    }
    Ok(())
}

#[test]
fn every_case_is_found_or_clean_as_it_says() {
    let mut wrong = Vec::new();
    for name in NODES {
        let dir = node(name);
        for case in cases().iter().filter(|case| case.node == name) {
            let changes = change(dir.path(), &case.changes);
            if let Err(error) = judge(case, &audited(dir.path())) {
                wrong.push(format!("{} {} on {name}: {error}", case.check, case.state));
            }
            changes.undo();
        }
        assert_eq!(audited(dir.path()).exit_code(), 0, "{name} is as it was");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_check_has_a_case_for_each_severity_and_one_without() {
    let proven: BTreeSet<(String, String)> = cases()
        .into_iter()
        .map(|case| (case.check, case.state))
        .collect();
    // Root may read everything: `command.rs` audits as another user.
    let elsewhere = [("unreadable", Severity::Info)];
    for check in CHECKS {
        let has = |state: &str| proven.contains(&(check.name.to_owned(), state.to_owned()));
        assert!(has("clean"), "{} has no case without a finding", check.name);
        for severity in check.severities {
            let proven = has(severity.name()) || elsewhere.contains(&(check.name, *severity));
            assert!(proven, "{} has no case of a {severity}", check.name);
        }
    }
    for (check, state) in &proven {
        let known = CHECKS.iter().find(|known| known.name == check);
        let known = known.unwrap_or_else(|| panic!("there is no check {check}"));
        let possible = known
            .severities
            .iter()
            .any(|severity| severity.name() == state);
        assert!(
            state == "clean" || possible,
            "{check} does not say it finds a {state}"
        );
    }
}

#[test]
fn names_are_unique_and_groups_are_in_one_piece() {
    let names: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
    assert!(CHECKS.is_sorted_by_key(|check| check.group));
    for check in CHECKS {
        assert!(
            check.severities.is_sorted_by(|a, b| a > b),
            "{}",
            check.name
        );
    }
}
