//! Rules for metric definitions that no type can state.

use std::collections::HashMap;

use super::OwnerLabels;
use super::name;
use crate::exposition::metric::{Kind, Metric, Scope};

/// Words for units other than base units (or for a ratio, which has no unit).
const OTHER_UNITS: [&str; 36] = [
    "bits",
    "days",
    "gb",
    "gib",
    "gibibytes",
    "gigabytes",
    "hours",
    "jiffies",
    "kb",
    "kib",
    "kibibytes",
    "kilobytes",
    "mb",
    "mebibytes",
    "megabytes",
    "mib",
    "microseconds",
    "micros",
    "milliseconds",
    "millis",
    "minutes",
    "ms",
    "msec",
    "nanos",
    "nanoseconds",
    "ns",
    "nsec",
    "percent",
    "percentage",
    "tb",
    "ticks",
    "us",
    "usec",
    "usecs",
    "weeks",
    "years",
];

/// Labels that belong to the scraper or to the formats.
const RESERVED_LABELS: [&str; 4] = ["instance", "job", "le", "quantile"];

/// Labels that owners may have in addition to the default ones.
const OTHERS_OF_OWNERS: [&str; 4] = ["workload", "workload_type", "qos_class", "uid"];

/// Returns the problems of a definition; none if it is sound.
#[must_use]
pub fn lint(metric: &Metric) -> Vec<String> {
    let mut findings = Vec::new();
    let mut check = |sound: bool, finding: &str| {
        if !sound {
            findings.push(format!("{}: {finding}", metric.name));
        }
    };
    let Metric {
        name,
        kind,
        help,
        labels,
        scope,
        source,
    } = *metric;

    check(
        name.starts_with("stallscope_"),
        "the name does not start with stallscope_",
    );
    check(is_snake_case(name), "the name is not in lower snake case");
    check(
        name.ends_with("_total") == (kind == Kind::Counter),
        "_total is the ending of counters, of all of them and of nothing else",
    );
    check(
        name.ends_with("_info") == (kind == Kind::Info),
        "_info is the ending of info metrics, of all of them and of nothing else",
    );
    check(
        !["_bucket", "_sum", "_count", "_created"]
            .iter()
            .any(|ending| name.ends_with(ending)),
        "the ending is one that the formats give to parts of a histogram",
    );
    let base = name::base(name, kind);
    check(
        !base.split('_').any(|word| OTHER_UNITS.contains(&word)),
        "the unit is not a base unit",
    );
    check(
        name::unit(base).is_some()
            || !base
                .split('_')
                .any(|word| word == "seconds" || word == "bytes"),
        "the unit is not at the end of the name",
    );
    check(
        kind != Kind::Histogram || name.ends_with("_seconds"),
        "a histogram is in seconds",
    );

    check(
        help.ends_with('.'),
        "the help does not end with a full stop",
    );
    check(!help.contains('\n'), "the help is more than one line");
    check(
        help.starts_with(|first: char| !first.is_lowercase()),
        "the help does not start as a sentence does",
    );
    check(!source.trim().is_empty(), "the source is not stated");

    for (at, label) in labels.iter().enumerate() {
        check(
            is_snake_case(label),
            &format!("the label {label:?} is not in lower snake case"),
        );
        check(
            !labels[..at].contains(label),
            &format!("the label {label:?} is there twice"),
        );
        check(
            !RESERVED_LABELS.contains(label),
            &format!("the label {label:?} is reserved"),
        );
        check(
            scope == Scope::Host
                || !(OwnerLabels::NAMES.contains(label) || OTHERS_OF_OWNERS.contains(label)),
            &format!("the label {label:?} comes with the owner"),
        );
    }
    findings
}

/// Returns the problems of all definitions, including clashes between them.
#[must_use]
pub fn lint_all(metrics: &[&Metric]) -> Vec<String> {
    let mut findings: Vec<String> = metrics.iter().flat_map(|metric| lint(metric)).collect();
    let mut bases = HashMap::new();
    for metric in metrics {
        // By the name in OpenMetrics: a gauge `x` and a counter `x_total` are one name there.
        if let Some(other) = bases.insert(name::base(metric.name, metric.kind), metric.name) {
            findings.push(format!("{}: the name clashes with {other}", metric.name));
        }
    }
    findings
}

/// Returns whether a name has only letters, digits and single underscores, a letter first. The formats permit more,
/// except `__`.
fn is_snake_case(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
