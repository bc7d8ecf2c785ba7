//! Check of the files that could not be read.

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    root::Kind,
};

/// Cap on the findings: a tree of bad files is one fault, not thousands.
const MOST: usize = 50;

/// Comes last, since it reports the files that the other checks could not read.
pub static UNREADABLE: Check = Check {
    name: "unreadable",
    group: Group::Audit,
    summary: "Files that are not what they should be, or may not be read",
    severities: &[Severity::Warning, Severity::Info],
    reads: "everything that the other checks read",
    run: unreadable,
};

#[expect(clippy::unnecessary_wraps, reason = "as the other checks")]
fn unreadable(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let found = node.root.failures().into_iter().take(MOST).map(|unread| {
        let denied = unread.kind == Kind::Denied;
        let severity = if denied { Severity::Info } else { Severity::Warning };
        let finding = Finding::of(severity, unread.to_string())
            .value(&unread.because)
            .read(&unread.path)
            .why("Checks that need this file were not made, or made without it: they are among those that are not known.");
        if denied {
            finding.mend(MendKind::Advice, "run it as root, or give it CAP_DAC_READ_SEARCH")
        } else {
            finding.mend(MendKind::Advice, format!("look at {}: it is not what the kernel or the kubelet writes", unread.path))
        }
    });
    Ok(found.collect())
}
