//! Table of the checks, generated from their definitions.

use std::fmt::Write as _;

use super::CHECKS;

/// Generates `docs/doctor/README.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Checks of `stallscope doctor`\n\n\
         <!-- Made from the checks in the code by `cargo xtask check --fix`. Do not edit. -->\n\n\
         What the audit is, and how to read it: [the node audit](../doctor.md). *Problem*: something does not work, or\n\
         costs every workload time. *Warning*: it costs time under some workloads, or cannot be measured. *Info*: good to\n\
         know.\n",
    );
    let mut group = None;
    for check in CHECKS {
        // Writing to a string cannot fail.
        if group != Some(check.group) {
            group = Some(check.group);
            let _ = write!(
                page,
                "\n## {}\n\n| check | finds | severity | reads |\n|---|---|---|---|\n",
                check.group.name()
            );
        }
        let severities: Vec<&str> = check.severities.iter().map(|each| each.name()).collect();
        let _ = writeln!(
            page,
            "| [`{0}`]({0}.md) | {1} | {2} | {3} |",
            check.name,
            check.summary,
            severities.join(", "),
            check.reads
        );
    }
    page
}
