//! Queries: their series exist and have the labels that they select by.

use std::collections::{BTreeMap, BTreeSet};

use super::expression::names;
use super::model::dashboards;
use super::reference::{OF_TARGETS, series};

/// Panics unless the series exist and have the labels. Returns all labels that the result can have.
pub fn check(
    place: &str,
    expr: &str,
    known: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<String> {
    let names = names(expr);
    assert!(!names.series.is_empty(), "{place}: asks for no series");
    let mut all: BTreeSet<String> = OF_TARGETS.iter().map(|l| (*l).to_owned()).collect();
    for (name, selected) in &names.series {
        let labels = known
            .get(*name)
            .unwrap_or_else(|| panic!("{place}: {name} is neither known nor recorded"));
        // A rule keeps only the labels of its level.
        let of_target = |label: &str| OF_TARGETS.contains(&label) && !name.contains(':');
        for label in selected {
            let has = labels.contains(*label) || of_target(label);
            assert!(has, "{place}: {name} has no label {label}");
        }
        all.extend(labels.iter().cloned());
    }
    for label in &names.grouped {
        let has = all.contains(*label) || names.quoted.contains(label);
        assert!(has, "{place}: nothing has the label {label}");
    }
    all
}

#[test]
fn queries_ask_for_series_and_labels_that_exist() {
    let known = series();
    for dashboard in dashboards() {
        for query in dashboard.queries() {
            assert!(!query.expr.is_empty(), "{}", query.place);
            check(&query.place, &dashboard.substituted(&query.expr), &known);
        }
    }
}

#[test]
fn variables_ask_for_labels_that_exist() {
    let known = series();
    for dashboard in dashboards() {
        for (name, selector, label) in dashboard.variable_queries() {
            let place = format!("{}: ${name}", dashboard.file);
            let labels = check(&place, &dashboard.substituted(selector), &known);
            assert!(labels.contains(label), "{place}: nothing has {label}");
        }
    }
}

#[test]
fn legends_name_labels_that_are_left() {
    let known = series();
    for dashboard in dashboards() {
        for query in dashboard.queries() {
            let names = names(&query.expr);
            let legend = query.legend.as_deref().unwrap_or_default();
            let labels = legend
                .split("{{")
                .skip(1)
                .filter_map(|rest| rest.split("}}").next());
            for label in labels {
                let recorded = names.series.iter().any(|(name, _)| {
                    let labels = known.get(*name);
                    name.contains(':') && labels.is_some_and(|labels| labels.contains(label))
                });
                let left = names.grouped.contains(label) || recorded;
                assert!(left, "{}: {label} is summed away", query.place);
            }
        }
    }
}

/// Returns the fleet page's query for nodes whose value of a fact is not the most frequent one of their cluster.
fn differing(family: &str, label: &str) -> String {
    let of = r#"cluster=~"$cluster""#;
    let count = format!(r#"count by (cluster, {label}) ({family}{{{of}, {label}!=""}})"#);
    let group = family
        .trim_start_matches("stallscope_node_")
        .trim_end_matches("_info");
    format!(
        "group by (cluster, instance, node, fact, value) (label_replace(label_replace(\
         {family}{{{of}, instance=~\"$host\", {label}!=\"\"}} unless on (cluster, {label}) \
         ({count} == on (cluster) group_left () max by (cluster) ({count})), \
         \"fact\", \"{group} {label}\", \"\", \"\"), \"value\", \"$1\", \"{label}\", \"(.*)\"))"
    )
}

#[test]
fn every_fact_is_held_against_the_majority() {
    let fleet = dashboards()
        .into_iter()
        .find(|dashboard| dashboard.file == "fleet.json")
        .expect("the fleet's page");
    let asked: BTreeSet<String> = fleet
        .queries()
        .into_iter()
        .map(|query| query.expr)
        .filter(|expr| expr.contains(" unless on "))
        .collect();
    let known = series();
    let facts = known
        .iter()
        .filter(|(family, _)| family.starts_with("stallscope_node_"));
    let wanted: BTreeSet<String> = facts
        .flat_map(|(family, labels)| labels.iter().map(|label| differing(family, label)))
        .collect();
    assert!(wanted.len() > 20);
    assert_eq!(asked, wanted);
}
