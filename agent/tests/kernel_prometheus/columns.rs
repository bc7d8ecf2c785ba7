//! Labels of results in a panel: legends, columns, matrices, links.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    dashboards::{list, text},
    prometheus::Series,
};

/// Returns the labels that the legend of a query, or the texts of an annotation, name.
pub fn used_by_target(target: &Value) -> Vec<Vec<String>> {
    let mut used = BTreeSet::new();
    for pointer in ["/legendFormat", "/titleFormat", "/textFormat"] {
        let names = between(text(target, pointer), "{{", "}}");
        used.extend(names.into_iter().map(|name| name.trim().to_owned()));
    }
    let tags = text(target, "/tagKeys").split(',').map(str::trim);
    used.extend(tags.filter(|tag| !tag.is_empty()).map(str::to_owned));
    if text(target, "/format") == "heatmap" {
        used.insert("le".to_owned());
    }
    used.into_iter().map(|label| vec![label]).collect()
}

/// Returns the parts of a text between the two marks.
pub fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let after = text.split(open).skip(1);
    after
        .filter_map(|rest| Some(rest.split_once(close)?.0))
        .collect()
}

/// Returns whether a column is a label. Every table also has columns for its values and times.
fn is_label(column: &str) -> bool {
    !column.starts_with("Value") && column != "Time" && !column.is_empty()
}

/// Labels that a panel needs among its results, and how it treats the others.
pub struct Columns {
    /// Labels that are shown, ordered, hidden or linked.
    pub used: BTreeSet<String>,
    /// True if a label outside of `used` would become an unwanted column.
    pub complete: bool,
}

impl Columns {
    /// Reads the columns of one panel.
    pub fn of(panel: &Value) -> Self {
        let mut used = BTreeSet::new();
        let (mut organized, mut reshaped) = (false, false);
        for step in list(panel, "/transformations") {
            match text(step, "/id") {
                "organize" => {
                    organized = true;
                    used.extend(organized_columns(step));
                }
                "groupingToMatrix" => {
                    reshaped = true;
                    used.extend(["rowField", "columnField"].map(|key| option(step, key)));
                }
                "sortBy" => used.extend(
                    list(step, "/options/sort")
                        .iter()
                        .map(|s| text(s, "/field").to_owned()),
                ),
                "joinByField" => used.extend([option(step, "byField")]),
                "merge" | "filterByValue" | "limit" => {}
                other => panic!(
                    "{}: what `{other}` does with labels has to be said here",
                    text(panel, "/title")
                ),
            }
        }
        let links = panel.to_string();
        for name in ["${__data.fields.", "${__field.labels."] {
            let found = between(&links, name, "}").into_iter();
            used.extend(found.map(|field| field.trim_matches('"').to_owned()));
        }
        used.retain(|column| is_label(column));
        let complete = organized && !reshaped;
        Self { used, complete }
    }

    /// Lists the faults in the labels of all of a panel's results.
    pub fn faults(&self, panel: &Value, results: &[&Series]) -> Vec<String> {
        let labels = results.iter().flat_map(|series| &series.labels);
        let labels: BTreeSet<&str> = labels.map(|(name, _)| name.as_str()).collect();
        let missing = self
            .used
            .iter()
            .filter(|name| !labels.contains(name.as_str()));
        let mut faults: Vec<String> = missing.cloned().collect();
        if text(panel, "/type") == "table" {
            let named = overridden(panel).filter(|name| {
                is_label(name) && !labels.contains(name.as_str()) && !renamed(panel).contains(name)
            });
            faults.extend(named);
        }
        if self.complete {
            let stray = labels.iter().filter(|name| !self.used.contains(**name));
            faults.extend(stray.map(|name| format!("{name} (a column that is not asked for)")));
        }
        faults.sort();
        faults.dedup();
        faults
    }
}

fn option(step: &Value, key: &str) -> String {
    text(&step["options"], &format!("/{key}")).to_owned()
}

fn organized_columns(step: &Value) -> Vec<String> {
    let keys = ["excludeByName", "indexByName", "renameByName"];
    let maps = keys
        .into_iter()
        .filter_map(|key| step["options"][key].as_object());
    maps.flat_map(|map| map.keys().cloned()).collect()
}

/// Returns the columns whose look is overridden by name.
fn overridden(panel: &Value) -> impl Iterator<Item = String> {
    let overrides = list(panel, "/fieldConfig/overrides").iter();
    let by_name = overrides.filter(|field| text(field, "/matcher/id") == "byName");
    by_name.map(|field| text(field, "/matcher/options").to_owned())
}

/// Returns the names that the panel gives to columns.
fn renamed(panel: &Value) -> BTreeSet<String> {
    let steps = list(panel, "/transformations").iter();
    let maps = steps.filter_map(|step| step["options"]["renameByName"].as_object());
    let names = maps.flat_map(|map| map.values());
    names
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect()
}

#[test]
fn what_is_shown_is_found_and_what_is_not_there_is_told() {
    let panel = serde_json::json!({"type": "table", "title": "t", "fieldConfig": {"overrides": [
        {"matcher": {"id": "byName", "options": "Lost"}},
        {"matcher": {"id": "byName", "options": "where"},
         "properties": [{"url": "/d/x?var-host=${__data.fields.instance}"}]},
    ]}, "transformations": [{"id": "organize", "options": {
        "excludeByName": {"Time": true}, "indexByName": {"pod": 0, "Value": 1}, "renameByName": {"Value": "Lost"},
    }}]});
    let label = |name: &str| (name.to_owned(), "x".to_owned());
    let series = Series {
        labels: vec![label("pod"), label("job")],
        values: vec![1.0],
    };
    let columns = Columns::of(&panel);
    assert_eq!(
        columns.faults(&panel, &[&series]),
        ["instance", "job (a column that is not asked for)", "where"]
    );
    assert_eq!(
        used_by_target(&serde_json::json!({"legendFormat": "{{a}} of {{ b }}", "tagKeys": "c, d"})),
        ["a", "b", "c", "d"].map(|label| vec![label])
    );
}
