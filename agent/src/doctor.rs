//! The node audit: pure functions from a node's files to findings.
//!
//! [`Root`] is the only access to the node's files, [`Node`] holds what several checks need, and [`CHECKS`] lists the
//! checks. No code here writes to the node or asks it anything else. Facts that only a trial on the running host can
//! tell come as [`Live`].

mod check;
mod checks;
mod cpu_model;
mod diff;
mod evidence;
mod facts;
pub(crate) mod groups;
mod kernel;
mod kubelet;
mod live;
mod metrics;
mod node;
mod periodic;
mod reference;
pub(crate) mod root;
mod runtime;
mod text;

use serde::Serialize;

pub use check::{Check, Finding, Group, Mend, MendKind, Severity, Unmade};
pub use checks::CHECKS;
pub use diff::{Difference, compare, compared_text};
pub use evidence::write as write_evidence;
pub use facts::Facts;
pub use live::Live;
pub use metrics::{METRICS, samples};
pub use node::Node;
pub use periodic::Repeated;
pub use reference::reference;
pub use root::Root;

/// Directory of the checks' pages, in the repository.
const PAGES: &str = "docs/doctor";

/// Result of an audit.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the agent.
    pub version: &'static str,
    /// Verdict by the most severe finding: `clean`, `warnings` or `problems`.
    pub verdict: &'static str,
    /// Facts about the node and its settings.
    pub facts: Facts,
    /// Findings, by check.
    pub findings: Vec<Finding>,
    /// Outcome of each check.
    pub checks: Vec<Made>,
}

/// Outcome of a check.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Made {
    /// Name of the check.
    pub check: &'static str,
    /// Subject of the check.
    pub group: Group,
    /// `clean`, `found`, `not_here` or `unknown`.
    pub state: &'static str,
    /// Reason for which the check was not made, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

impl Report {
    /// Returns the number of findings of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let mut findings = self.findings.iter();
        findings.by_ref().filter(|f| f.severity == severity).count()
    }

    /// Returns 0 for a clean node, 1 for warnings, 2 for problems.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Problem) => 2,
            Some(Severity::Warning) => 1,
            _ => 0,
        }
    }
}

/// Makes every check.
#[must_use]
pub fn audit(node: &Node) -> Report {
    let facts = Facts::of(node);
    let mut findings = Vec::new();
    let mut checks = Vec::new();
    for check in CHECKS {
        let (state, because) = match (check.run)(node) {
            Ok(found) if found.is_empty() => ("clean", None),
            Ok(found) => {
                findings.extend(found.into_iter().map(|finding| Finding {
                    check: check.name,
                    group: check.group,
                    link: format!("{PAGES}/{}.md", check.name),
                    ..finding
                }));
                ("found", None)
            }
            Err(Unmade::NotHere(why)) => ("not_here", Some(why)),
            Err(Unmade::Unknown(why)) => ("unknown", Some(why)),
        };
        checks.push(Made {
            check: check.name,
            group: check.group,
            state,
            because,
        });
    }
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        verdict: "clean",
        facts,
        findings,
        checks,
    };
    report.verdict = ["clean", "warnings", "problems"][usize::from(report.exit_code())];
    report
}
