//! Everything that is asked of Prometheus: by panels, annotations and variables of dashboards, and by rules.

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
    /// The file, and what asks within it.
    pub file: String,
    pub by: String,
    /// The letter of a panel's query, else empty.
    pub letter: String,
    pub expr: String,
    pub kind: Kind,
    /// Labels of the result that are shown, or lead on; of those in one list any will do.
    pub used: Vec<Vec<String>>,
}

/// How it is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// At the end of the time shown.
    Instant,
    /// At every point of the time shown.
    Range,
    /// For the values of the label in `used`.
    Values,
    /// By Prometheus itself, under the name in `by`.
    Record,
    Alert,
}

impl Asked {
    /// For messages and lists.
    pub fn place(&self) -> String {
        let letter = if self.letter.is_empty() { "" } else { ", " };
        format!("{}: {}{letter}{}", self.file, self.by, self.letter)
    }
}

/// All of a dashboard.
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

/// Grafana's default is a query over time.
fn kinds(target: &Value) -> Vec<Kind> {
    match (target["instant"] == true, target["range"] == true) {
        (true, false) => vec![Kind::Instant],
        (true, true) => vec![Kind::Instant, Kind::Range],
        (false, _) => vec![Kind::Range],
    }
}

/// All of the files of rules.
pub fn of_rules() -> Vec<Asked> {
    let files = rule_files();
    let names = files.iter().filter_map(|path| path.file_name()?.to_str());
    names.flat_map(of_rule_file).collect()
}

/// The files of rules, as they are shipped.
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

/// Labels of the result that an alert's texts name, but for those that are left out where they are empty.
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

/// Who can be chosen.
pub struct Choices {
    /// Addresses of agents; the first measures this host.
    pub hosts: Vec<String>,
    pub cluster: String,
    pub namespace: String,
    pub pods: Vec<String>,
    pub containers: Vec<String>,
    /// The time shown, in seconds.
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

    /// Every way to fill in a page that is looked at: "All" wherever that can be, with each value of what can have but one,
    /// and the measuring host's pods by name.
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

/// Everything, without the values of variables.
pub fn everything() -> Vec<Asked> {
    let mut all: Vec<Asked> = dashboards().iter().flat_map(of_dashboard).collect();
    all.extend(of_rules());
    all
}

/// Expressions of recording rules, by what they record.
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
