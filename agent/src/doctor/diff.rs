//! Comparison of two audits: the differences, and which of them matter.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::text::printable::line;

/// Value that differs between two nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the fact, such as `memory.thp`, or `finding: <check>`.
    pub what: String,
    /// Value of the first node; none if it has nothing of the kind.
    pub first: Option<String>,
    /// Value of the second node; none if it has nothing of the kind.
    pub second: Option<String>,
    /// Reason for which it matters to the node's performance; none if it hardly does.
    pub matters: Option<&'static str>,
}

/// Prefixes of facts' names, and the reason for which a difference matters. The first prefix that fits decides; an
/// empty reason means that it hardly matters.
const MATTERS: [(&str, &str); 33] = [
    (
        "machine.cpu_models",
        "another core has other caches, frequencies and latencies",
    ),
    (
        "machine.hypervisor",
        "a hypervisor takes CPU time and hides the machine's shape",
    ),
    ("machine.smt", "two threads share a core on one of them"),
    ("machine.cpus", "shares and quotas are of another whole"),
    (
        "machine.packages",
        "another package is the farthest memory there is",
    ),
    (
        "machine.node_cpus",
        "another shape: other CPUs are near each other",
    ),
    (
        "machine.distances",
        "remote memory costs more on one of them",
    ),
    (
        "machine.node_memory_bytes",
        "a smaller node is full earlier and spills to others",
    ),
    (
        "machine.page_bytes",
        "page size changes memory use, huge pages and faults",
    ),
    ("machine.governors", "CPUs run at other frequencies"),
    (
        "kernel.release",
        "another kernel: scheduler and reclaim differ",
    ),
    ("kernel.preemption", "tasks lose their CPU at other moments"),
    (
        "kernel.command_line",
        "mitigations, isolation and hugepages are set there",
    ),
    (
        "kernel.bpf_jit",
        "BPF programs are interpreted on one of them",
    ),
    ("kernel.trampolines", "probes cost more on one of them"),
    (
        "memory.thp_defrag",
        "page faults compact memory on one of them",
    ),
    ("memory.thp_bytes", "huge pages are of another size"),
    ("memory.thp", "huge pages are handed out differently"),
    ("memory.swap_bytes", "one of them swaps"),
    (
        "memory.total_bytes",
        "reclaim begins earlier on the smaller one",
    ),
    ("memory.settings.max_map_count", ""),
    ("memory.settings.overcommit_memory", ""),
    ("memory.settings", "reclaim and placement of memory differ"),
    ("cgroups.mode", "limits work differently"),
    (
        "cgroups.runtime_driver",
        "limits may not reach the kernel on one of them",
    ),
    ("cgroups.pod_trees", "pods are in another tree"),
    (
        "kubernetes.cpu_cfs_quota",
        "limits are not enforced on one of them",
    ),
    (
        "kubernetes.cpu_manager_policy",
        "pods have CPUs of their own on one of them",
    ),
    (
        "kubernetes.topology_manager",
        "pods are placed by node on one of them",
    ),
    (
        "kubernetes.memory_manager",
        "memory is placed by node on one of them",
    ),
    ("kubernetes.reserved_cpus", "the system runs on other CPUs"),
    (
        "system.clocksource",
        "reading the time costs more on one of them",
    ),
    ("finding: ", "one of them has it, the other has not"),
];

/// Compares two reports in the format of `doctor --json`.
///
/// # Errors
/// When one of them is not such a report.
pub fn compare(first: &Value, second: &Value) -> Result<Vec<Difference>> {
    let (first, second) = (values(first, "first")?, values(second, "second")?);
    let mut names: Vec<&String> = first.keys().chain(second.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differ = names
        .into_iter()
        .filter(|name| first.get(*name) != second.get(*name));
    let mut differences: Vec<Difference> = differ
        .filter(|name| !nearly_equal(name, &first, &second))
        .map(|name| Difference {
            what: name.clone(),
            first: first.get(name).cloned(),
            second: second.get(name).cloned(),
            matters: matters(name),
        })
        .collect();
    // Differences that matter come first.
    differences.sort_by_key(|difference| (difference.matters.is_none(), difference.what.clone()));
    Ok(differences)
}

/// Returns whether two sizes of memory differ by less than a hundredth. Machines of one kind differ by what firmware
/// takes, which says nothing.
fn nearly_equal(
    name: &str,
    first: &BTreeMap<String, String>,
    second: &BTreeMap<String, String>,
) -> bool {
    let number = |values: &BTreeMap<String, String>| values.get(name)?.parse::<f64>().ok();
    let measured =
        name.contains("_bytes") && !name.contains("page_bytes") && !name.contains("thp_bytes");
    match (number(first), number(second)) {
        (Some(a), Some(b)) if measured => (a - b).abs() < a.max(b) * 0.01,
        _ => false,
    }
}

fn matters(name: &str) -> Option<&'static str> {
    let mut known = MATTERS
        .iter()
        .filter(|(prefix, _)| name.starts_with(prefix));
    known
        .next()
        .map(|(_, why)| *why)
        .filter(|why| !why.is_empty())
}

/// Returns facts and findings as one flat list.
fn values(report: &Value, which: &str) -> Result<BTreeMap<String, String>> {
    ensure!(
        report["facts"].is_object() && report["findings"].is_array(),
        "the {which} file is no report: expected what `stallscope doctor --json` prints, with `facts` and `findings`"
    );
    let mut values = BTreeMap::new();
    flatten("", &report["facts"], &mut values);
    // The facts already cover findings of severity info.
    let findings = report["findings"].as_array().into_iter().flatten();
    let serious = findings.filter(|finding| finding["severity"] != "info");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for finding in serious {
        let check = finding["check"].as_str().unwrap_or_default();
        let severity = finding["severity"].as_str().unwrap_or_default();
        *counts
            .entry(format!("finding: {check} ({severity})"))
            .or_default() += 1;
    }
    values.extend(
        counts
            .into_iter()
            .map(|(name, count)| (name, count.to_string())),
    );
    Ok(values)
}

fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let below = |key: &str| {
        if name.is_empty() {
            key.to_owned()
        } else {
            format!("{name}.{key}")
        }
    };
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                flatten(&below(key), value, into);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            into.insert(name.to_owned(), text.clone());
        }
        other => {
            into.insert(name.to_owned(), other.to_string());
        }
    }
}

/// Returns the text form of the differences.
#[must_use]
pub fn compared_text(differences: &[Difference]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, differences);
    out
}

fn write(out: &mut String, differences: &[Difference]) -> fmt::Result {
    if differences.is_empty() {
        return writeln!(out, "the two nodes do not differ in anything that was read");
    }
    let mut mattered = None;
    for difference in differences {
        let matters = difference.matters.is_some();
        if mattered != Some(matters) {
            let gap = if mattered.is_some() { "\n" } else { "" };
            let heading = if matters {
                "differences that matter"
            } else {
                "other differences"
            };
            writeln!(out, "{gap}{heading}")?;
            mattered = Some(matters);
        }
        let or_none = |value: &Option<String>| match value {
            Some(value) => line(value).into_owned(),
            None => "(none)".to_owned(),
        };
        writeln!(
            out,
            "  {}: {} | {}",
            line(&difference.what),
            or_none(&difference.first),
            or_none(&difference.second)
        )?;
        if let Some(why) = difference.matters {
            writeln!(out, "    {why}")?;
        }
    }
    Ok(())
}
