//! Files for Prometheus, Kubernetes and systemd: those programs accept them, and their text is true.

#[path = "deploy/alerts.rs"]
mod alerts;
#[path = "deploy/documents.rs"]
mod documents;
mod shipped;
#[path = "deploy/systemd.rs"]
mod systemd;

use std::ffi::OsStr;
use std::path::PathBuf;

use shipped::{promtool, read, root};

/// Returns the files of a folder with that extension, sorted by name.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    found.sort();
    found
}

/// Returns the names in a text that have the prefix of our metrics, in the form of `docs/metrics.md`.
fn metrics(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.starts_with("stallscope_") && !word.ends_with('_'))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Panics unless the reference has each of these metrics.
fn assert_metrics_exist(names: &[&str]) {
    assert!(!names.is_empty());
    let reference = read("docs/metrics.md");
    for name in names {
        let counted = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let exists = [Some(*name), counted]
            .into_iter()
            .flatten()
            .any(|name| reference.contains(&format!("## `{name}`\n")));
        assert!(exists, "{name} is no metric");
    }
}

#[test]
fn promtool_takes_the_configuration_and_the_rules() {
    if let Some(text) = promtool(&["check", "config", "deploy/prometheus/prometheus.yaml"]) {
        for file in ["rules", "alerts"] {
            let rules = read(&format!("dashboards/{file}.yaml"))
                .lines()
                .filter(|line| {
                    line.trim_start().starts_with("- record:")
                        || line.trim_start().starts_with("- alert:")
                })
                .count();
            assert!(text.contains(&format!("{rules} rules found")), "{text}");
        }
    }
}

#[test]
fn the_rules_pass_their_tests() {
    let tests = files("dashboards/tests", "yaml");
    assert!(!tests.is_empty());
    for test in tests {
        let test = test.to_str().expect("a name in UTF-8").to_owned();
        if let Some(text) = promtool(&["test", "rules", &test]) {
            assert!(text.contains("SUCCESS"), "{text}");
        }
    }
}

#[test]
fn the_rules_use_metrics_that_exist() {
    assert_metrics_exist(&metrics(&read("dashboards/rules.yaml")));
}
