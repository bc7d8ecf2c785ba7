//! Evaluation by Prometheus itself: it accepts every expression, and those that rank and compare give the documented
//! results.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use super::model::{dashboards, text};
use super::queries::check;
use super::reference::series;
use super::shipped::{promtool, read};

const TESTS: &str = "dashboards/tests/dashboards.yaml";

/// Returns every expression in its final form, those of variables included.
fn expressions() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for dashboard in dashboards() {
        for query in dashboard.queries() {
            all.insert(dashboard.substituted(&query.expr));
        }
        for (_, selector, _) in dashboard.variable_queries() {
            all.insert(dashboard.substituted(selector));
        }
    }
    all
}

/// Returns the expressions that the page offers for the latency field, by workload.
fn offered() -> Vec<String> {
    let page = read("docs/dashboards.md");
    let table = page
        .split("| workload | expression |\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("a table of expressions by workload");
    let expressions = table.lines().filter_map(|line| line.split('`').nth(1));
    expressions.map(str::to_owned).collect()
}

#[test]
fn what_the_page_offers_exists_and_the_first_is_there_already() {
    let (known, offered) = (series(), offered());
    assert!(offered.len() >= 3, "{offered:?}");
    for expr in &offered {
        check("docs/dashboards.md", expr, &known);
    }
    let mut fields = dashboards().into_iter().flat_map(|dashboard| {
        let variables = dashboard.variables().iter();
        let latency = variables.filter(|v| v["name"] == "latency");
        latency
            .map(|v| text(v, "/query").to_owned())
            .collect::<Vec<_>>()
    });
    assert_eq!(fields.next().as_ref(), offered.first());
}

#[test]
fn prometheus_takes_every_expression() {
    let mut expressions = expressions();
    expressions.extend(offered());
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(|(number, expr)| json!({"record": format!("dashboards:expression_{number}"), "expr": expr}))
        .collect();
    assert!(rules.len() > 80, "{} expressions", rules.len());
    let folder = tempfile::tempdir().expect("a folder");
    // JSON is valid YAML.
    let file = folder.path().join("expressions.yaml");
    let text = json!({"groups": [{"name": "dashboards", "rules": rules}]}).to_string();
    fs::write(&file, text).expect("a file of rules");
    let file = file.to_str().expect("a path in UTF-8");
    if let Some(said) = promtool(&["check", "rules", file]) {
        let all = format!("{} rules found", rules.len());
        assert!(said.contains(&all), "{said}");
    }
}

#[test]
fn rankings_and_the_majority_give_what_they_say() {
    if let Some(said) = promtool(&["test", "rules", TESTS]) {
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn what_is_tested_is_what_is_shipped() {
    let (shipped, tests) = (expressions(), read(TESTS));
    let tested: Vec<&str> = tests
        .split("- expr: >-\n")
        .skip(1)
        .filter_map(|rest| rest.lines().next())
        .map(str::trim)
        .collect();
    assert_eq!(tested.len(), tests.matches("- expr:").count());
    assert!(tested.len() >= 4, "{tested:?}");
    for expr in tested {
        assert!(shipped.contains(expr), "no dashboard asks this: {expr}");
    }
}
