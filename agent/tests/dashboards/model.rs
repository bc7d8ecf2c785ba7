//! The shipped dashboards, and the tests' access to their parts.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::shipped::{read, root};

/// A file of `dashboards/`.
pub struct Dashboard {
    pub file: String,
    pub json: Value,
}

/// One query of a panel.
pub struct Query {
    /// File, panel and letter, for messages.
    pub place: String,
    /// Expression as shipped, with Grafana's variables.
    pub expr: String,
    pub legend: Option<String>,
}

/// Reads all dashboards, sorted by file name.
pub fn dashboards() -> Vec<Dashboard> {
    let folder = root().join("dashboards");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .expect("a folder of dashboards")
        .map(|entry| entry.expect("an entry").file_name())
        .filter_map(|name| name.into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
        .into_iter()
        .map(|file| {
            let json = serde_json::from_str(&read(&format!("dashboards/{file}")))
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            Dashboard { file, json }
        })
        .collect()
}

/// Returns the text at a JSON pointer, empty without one.
pub fn text<'a>(json: &'a Value, pointer: &str) -> &'a str {
    json.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns the list at a JSON pointer, empty without one.
pub fn list<'a>(json: &'a Value, pointer: &str) -> &'a [Value] {
    json.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

impl Dashboard {
    /// Returns all panels: rows, and the panels of collapsed rows too.
    pub fn panels(&self) -> Vec<&Value> {
        let top = list(&self.json, "/panels").iter();
        top.flat_map(|panel| std::iter::once(panel).chain(list(panel, "/panels")))
            .collect()
    }

    pub fn variables(&self) -> &[Value] {
        list(&self.json, "/templating/list")
    }

    /// Returns the annotations, which mark moments on every panel.
    pub fn annotations(&self) -> &[Value] {
        list(&self.json, "/annotations/list")
    }

    pub fn place(&self, panel: &Value) -> String {
        format!("{}: panel {:?}", self.file, text(panel, "/title"))
    }

    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in list(panel, "/targets") {
                queries.push(Query {
                    place: format!("{}, {}", self.place(panel), text(target, "/refId")),
                    expr: text(target, "/expr").to_owned(),
                    legend: target["legendFormat"].as_str().map(str::to_owned),
                });
            }
        }
        queries.extend(self.annotations().iter().map(|annotation| Query {
            place: format!("{}: marks {:?}", self.file, text(annotation, "/name")),
            expr: text(annotation, "/expr").to_owned(),
            legend: Some(text(annotation, "/titleFormat").to_owned()),
        }));
        queries
    }

    /// Returns the name of each query variable, with the selector and label that it queries.
    pub fn variable_queries(&self) -> Vec<(&str, &str, &str)> {
        let queries = self.variables().iter().filter(|v| v["type"] == "query");
        queries
            .map(|variable| {
                let name = text(variable, "/name");
                let asked = text(variable, "/query/query")
                    .strip_prefix("label_values(")
                    .and_then(|rest| rest.strip_suffix(')'))
                    .and_then(|rest| rest.rsplit_once(", "));
                let (selector, label) =
                    asked.unwrap_or_else(|| panic!("{}: ${name} asks for no label", self.file));
                (name, selector, label)
            })
            .collect()
    }

    /// Substitutes an expression's variables as Grafana does: the initial content of text fields, a host where the user
    /// must choose one, else everything.
    pub fn substituted(&self, expr: &str) -> String {
        let mut expr = expr
            .replace("$__rate_interval", "5m")
            .replace("$__range", "10m");
        for variable in self.variables() {
            let name = text(variable, "/name");
            let chosen = match text(variable, "/type") {
                "textbox" => text(variable, "/query"),
                _ if variable["includeAll"] == true => text(variable, "/allValue"),
                _ if name == "host" => "n1:9750",
                _ => ".*",
            };
            expr = expr.replace(&format!("${{{name}:raw}}"), chosen);
            expr = expr.replace(&format!("${name}"), chosen);
        }
        assert!(references(&expr).is_empty(), "{}: {expr}", self.file);
        expr
    }
}

/// Returns the names of variables that a text refers to, as `$name`, `${name}` or `${name:format}`.
pub fn references(text: &str) -> BTreeSet<&str> {
    let after = text.split('$').skip(1);
    after
        .map(|rest| {
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            &rest[..end]
        })
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
        .collect()
}

#[test]
fn references_are_found_in_each_form() {
    let text = r#"$a{b="${c}", d=~"${e:raw}"}[$__range] "$1" ${__data.fields.f}"#;
    let found: Vec<&str> = references(text).into_iter().collect();
    assert_eq!(found, ["__data", "__range", "a", "c", "e"]);
}
