//! Rules for metric definitions, each with a definition that breaks it.

use stallscope::exposition::metric::{Kind, Metric, Scope};
use stallscope::exposition::{lint, lint_all};

use super::{ALL, metric};

#[test]
fn the_definitions_here_are_sound() {
    assert_eq!(lint_all(&ALL), Vec::<String>::new());
}

#[track_caller]
fn has_fault(metric: &Metric, fault: &str) {
    let findings = lint(metric);
    assert_eq!(findings.len(), 1, "{findings:?} of {metric:?}");
    assert!(findings[0].contains(fault), "{findings:?} says {fault:?}");
}

#[test]
fn names_have_rules() {
    for (kind, name, fault) in [
        (Kind::Counter, "some_seconds_total", "stallscope_"),
        (Kind::Counter, "stallscope_Some_total", "snake case"),
        (Kind::Counter, "stallscope_some__total", "snake case"),
        (Kind::Counter, "stallscope_some_seconds", "_total"),
        (Kind::Gauge, "stallscope_some_total", "_total"),
        (Kind::Info, "stallscope_build", "_info"),
        (Kind::Gauge, "stallscope_build_info", "_info"),
        (Kind::Gauge, "stallscope_some_count", "histogram"),
        (Kind::Counter, "stallscope_some_ms_total", "base unit"),
        (Kind::Gauge, "stallscope_used_percent", "base unit"),
        (
            Kind::Counter,
            "stallscope_seconds_stalled_total",
            "at the end",
        ),
        (Kind::Histogram, "stallscope_some", "in seconds"),
    ] {
        has_fault(&metric(name, kind, &[], Scope::Owner), fault);
    }
}

#[test]
fn labels_have_rules() {
    for (label, fault) in [
        ("Cause", "snake case"),
        ("__cause", "snake case"),
        ("0cause", "snake case"),
        ("le", "reserved"),
        ("instance", "reserved"),
        ("pod", "owner"),
    ] {
        let labels = [label].to_vec().leak();
        has_fault(
            &metric("stallscope_some", Kind::Gauge, labels, Scope::Owner),
            fault,
        );
    }
    has_fault(
        &metric("stallscope_some", Kind::Gauge, &["a", "a"], Scope::Owner),
        "twice",
    );
    let host = metric("stallscope_some", Kind::Gauge, &["pod"], Scope::Host);
    assert_eq!(
        lint(&host),
        Vec::<String>::new(),
        "only an owner brings that label along"
    );
}

#[test]
fn texts_have_rules() {
    let good = || metric("stallscope_some", Kind::Gauge, &[], Scope::Host);
    has_fault(
        &Metric {
            help: "Says what it is",
            ..good()
        },
        "full stop",
    );
    has_fault(
        &Metric {
            help: "says what it is.",
            ..good()
        },
        "sentence",
    );
    has_fault(
        &Metric {
            help: "Says\nwhat it is.",
            ..good()
        },
        "line",
    );
    has_fault(
        &Metric {
            source: " ",
            ..good()
        },
        "source",
    );
}

#[test]
fn names_do_not_clash() {
    let counter = metric("stallscope_some_total", Kind::Counter, &[], Scope::Host);
    let gauge = metric("stallscope_some", Kind::Gauge, &[], Scope::Host);
    assert_eq!(lint_all(&[&counter, &gauge]).len(), 1);
}
