//! What is shipped for Prometheus is what Prometheus takes.

use std::{path::Path, process::Command};

fn promtool(args: &[&str]) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    match Command::new("promtool")
        .args(args)
        .current_dir(root)
        .output()
    {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(output.status.success(), "{text}");
            Some(text)
        }
        Err(error) => {
            println!("skipped: promtool cannot be run ({error}); the package `prometheus` has it");
            None
        }
    }
}

#[test]
fn promtool_takes_the_configuration_and_the_rules() {
    if let Some(text) = promtool(&["check", "config", "deploy/prometheus/prometheus.yaml"]) {
        assert!(text.contains("3 rules found"), "{text}");
    }
}

#[test]
fn the_rules_use_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("the file is there");
    let (rules, reference) = (read("dashboards/rules.yaml"), read("docs/metrics.md"));
    let metrics: Vec<&str> = rules
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("stallscope_") && word.ends_with("_total"))
        .collect();
    assert!(!metrics.is_empty());
    for metric in metrics {
        assert!(
            reference.contains(&format!("## `{metric}`")),
            "{metric} is no metric"
        );
    }
}
