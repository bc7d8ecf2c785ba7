//! Every expression for Prometheus: those of dashboards' panels, annotations and variables, and of rules.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{
    columns::{between, used_by_target},
    dashboards::{Dashboard, dashboards, list, text},
    grafana::{Chosen, Selection, all, untouched},
    shipped::{read, root},
};

/// One expression.
pub struct Asked {
    /// File of the expression, and the panel, variable or rule in it.
    pub file: String,
    pub by: String,
    /// Letter of a panel's query, else empty.
    pub letter: String,
    pub expr: String,
    pub kind: Kind,
    /// Labels of the result that are shown or linked. Any one label of an inner list is enough.
    pub used: Vec<Vec<String>>,
}

/// Kind of evaluation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// At the end of the displayed time.
    Instant,
    /// At every point of the displayed time.
    Range,
    /// For the values of the label in `used`.
    Values,
    /// By a recording rule, under the name in `by`.
    Record,
    Alert,
}

impl Asked {
    /// Describes the expression's place, for messages and lists.
    pub fn place(&self) -> String {
        let letter = if self.letter.is_empty() { "" } else { ", " };
        format!("{}: {}{letter}{}", self.file, self.by, self.letter)
    }
}

/// Returns all expressions of a dashboard.
pub fn of_dashboard(dashboard: &Dashboard) -> Vec<Asked> {
    let mut all = of_variables(dashboard);
    all.extend(
        list(&dashboard.json, "/annotations/list")
            .iter()
            .filter_map(|annotation| {
                let expr = [text(annotation, "/expr"), text(annotation, "/target/expr")];
                let expr = expr.into_iter().find(|expr| !expr.is_empty())?;
                Some(Asked {
                    file: dashboard.file.clone(),
                    by: format!("annotation {:?}", text(annotation, "/name")),
                    letter: String::new(),
                    expr: expr.to_owned(),
                    kind: Kind::Range,
                    used: used_by_target(annotation),
                })
            }),
    );
    for panel in dashboard.panels() {
        for target in list(panel, "/targets") {
            all.extend(kinds(target).into_iter().map(|kind| Asked {
                file: dashboard.file.clone(),
                by: text(panel, "/title").to_owned(),
                letter: text(target, "/refId").to_owned(),
                expr: text(target, "/expr").to_owned(),
                kind,
                used: used_by_target(target),
            }));
        }
    }
    all
}

fn of_variables(dashboard: &Dashboard) -> Vec<Asked> {
    let queries = dashboard.variable_queries().into_iter();
    let asked = queries.map(|(name, selector, label)| Asked {
        file: dashboard.file.clone(),
        by: format!("${name}"),
        letter: String::new(),
        expr: selector.to_owned(),
        kind: Kind::Values,
        used: vec![vec![label.to_owned()]],
    });
    asked.collect()
}

/// Returns the kinds of a panel's query. Grafana's default is a query over time.
fn kinds(target: &Value) -> Vec<Kind> {
    match (target["instant"] == true, target["range"] == true) {
        (true, false) => vec![Kind::Instant],
        (true, true) => vec![Kind::Instant, Kind::Range],
        (false, _) => vec![Kind::Range],
    }
}

/// Returns all expressions of the rule files.
pub fn of_rules() -> Vec<Asked> {
    let files = rule_files();
    let names = files.iter().filter_map(|path| path.file_name()?.to_str());
    names.flat_map(of_rule_file).collect()
}

/// Returns the shipped rule files.
pub fn rule_files() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("dashboards")).expect("a folder of rules");
    let files = files.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn of_rule_file(file: &str) -> Vec<Asked> {
    let yaml: Value = serde_saphyr::from_str(&read(&format!("dashboards/{file}")))
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    let groups = list(&yaml, "/groups").iter();
    let rules = groups.flat_map(|group| list(group, "/rules"));
    let asked = rules.map(|rule| {
        let alert = rule.get("alert").is_some();
        let (name, kind) = if alert {
            ("/alert", Kind::Alert)
        } else {
            ("/record", Kind::Record)
        };
        Asked {
            file: file.to_owned(),
            by: text(rule, name).to_owned(),
            letter: String::new(),
            expr: text(rule, "/expr").trim().to_owned(),
            kind,
            used: templated(rule),
        }
    });
    asked.collect()
}

/// Returns the labels of the result that an alert's texts name, except those that a text leaves out where they are
/// empty.
fn templated(rule: &Value) -> Vec<Vec<String>> {
    let texts = rule["annotations"].as_object().into_iter().flatten();
    let texts = texts.filter_map(|(_, text)| text.as_str());
    let mut used: Vec<Vec<String>> = Vec::new();
    for action in texts.flat_map(|text| between(text, "{{", "}}")) {
        let labels: Vec<String> = labels_in(action);
        match action.split_whitespace().next() {
            Some("with" | "if") => {}
            Some("or") => used.push(labels),
            _ => used.extend(labels.into_iter().map(|label| vec![label])),
        }
    }
    used.sort();
    used.dedup();
    used
}

fn labels_in(action: &str) -> Vec<String> {
    let after = action.split("$labels.").skip(1);
    let names = after.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    names.collect()
}

/// Values to choose for a page's variables.
pub struct Choices {
    /// Addresses of agents. The first measures this host.
    pub hosts: Vec<String>,
    pub cluster: String,
    pub namespace: String,
    pub pods: Vec<String>,
    pub containers: Vec<String>,
    /// Displayed time, in seconds.
    pub range: u64,
}

impl Choices {
    fn of(&self, variable: &str) -> Vec<String> {
        match variable {
            "cluster" => vec![self.cluster.clone()],
            "host" => self.hosts.clone(),
            "namespace" => vec![self.namespace.clone()],
            "pod" => self.pods.clone(),
            "container" => self.containers.clone(),
            other => panic!("what ${other} can be has to be said in `Choices::of`"),
        }
    }

    /// Returns every way to fill in a page: "All" wherever possible, with each value of variables that can have only
    /// one, and the measuring host's pods by name.
    pub fn selections(&self, dashboard: &Dashboard) -> Vec<Selection> {
        let mut selections = self.combined(dashboard, false);
        selections.extend(self.combined(dashboard, true));
        selections
    }

    fn combined(&self, dashboard: &Dashboard, by_name: bool) -> Vec<Selection> {
        let mut ways: Vec<BTreeMap<String, Chosen>> = vec![BTreeMap::new()];
        for variable in dashboard.variables() {
            let name = text(variable, "/name");
            let ways_of_it = self.ways(variable, by_name);
            ways = ways
                .into_iter()
                .flat_map(|chosen| {
                    ways_of_it.iter().map(move |way| {
                        let mut chosen = chosen.clone();
                        chosen.insert(name.to_owned(), way.clone());
                        chosen
                    })
                })
                .collect();
        }
        let selection = |chosen| Selection {
            chosen,
            by_name,
            range: self.range,
            interval: 1,
        };
        ways.into_iter().map(selection).collect()
    }

    fn ways(&self, variable: &Value, by_name: bool) -> Vec<Chosen> {
        if let Some(chosen) = untouched(variable) {
            return vec![chosen];
        }
        let name = text(variable, "/name");
        let mut values = self.of(name);
        if by_name && name == "host" {
            values.truncate(1);
        }
        match all(variable) {
            Some(all) if !by_name => vec![all],
            Some(_) => vec![Chosen::Several(values)],
            None if variable["multi"] == true => vec![Chosen::Several(values)],
            None => values.into_iter().map(Chosen::One).collect(),
        }
    }
}

/// Returns all expressions, without those for the values of variables.
pub fn everything() -> Vec<Asked> {
    let mut all: Vec<Asked> = dashboards().iter().flat_map(of_dashboard).collect();
    all.extend(of_rules());
    all
}

/// Returns the expressions of recording rules, by the name they record.
pub fn recorded() -> BTreeMap<String, String> {
    let records = of_rules()
        .into_iter()
        .filter(|rule| rule.kind == Kind::Record);
    records.map(|rule| (rule.by, rule.expr)).collect()
}

#[test]
fn labels_of_texts_are_those_that_are_shown_in_any_case() {
    let rule = serde_json::json!({"annotations": {
        "summary": "{{ or $labels.pod $labels.cgroup }} on {{ $labels.node }}",
        "description": "{{ $value | humanize }}{{ with $labels.container }} in {{ . }}{{ end }}",
    }});
    assert_eq!(templated(&rule), [vec!["node"], vec!["pod", "cgroup"]]);
}
