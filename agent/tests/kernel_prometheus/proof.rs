//! Comparison of all expressions with their results. It collects faults, so that one run shows them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;

use super::{
    asked::{self, Asked, Choices, Kind, of_dashboard, of_rules},
    columns::Columns,
    dashboards::{Dashboard, list, text},
    expression::names,
    grafana::{Selection, asks_for_one_of},
    needs::{LABELS, NEEDS, Need, QUIET, Quiet, needs, quiet},
    prometheus::{Prometheus, Series, When, now},
};

/// Expectations, results and faults so far.
pub struct Proof<'a> {
    prometheus: &'a Prometheus,
    choices: Choices,
    to: u64,
    /// Expressions of recording rules, by the name they record.
    recorded: BTreeMap<String, String>,
    /// Names of all existing series.
    there: BTreeSet<String>,
    /// Series and labels that this machine cannot have.
    absent: BTreeSet<&'static str>,
    absent_labels: BTreeSet<(&'static str, &'static str)>,
    faults: Vec<String>,
    asked: usize,
    gave: usize,
}

impl<'a> Proof<'a> {
    /// Starts with the series that exist now.
    pub fn new(prometheus: &'a Prometheus, choices: Choices) -> Self {
        Self {
            prometheus,
            choices,
            to: now(),
            recorded: asked::recorded(),
            there: prometheus
                .label_values("{__name__!=\"\"}", "__name__")
                .expect("names of series")
                .into_iter()
                .collect(),
            absent: BTreeSet::new(),
            absent_labels: BTreeSet::new(),
            faults: Vec::new(),
            asked: 0,
            gave: 0,
        }
    }

    fn gives(&mut self, place: &str, expr: &str, when: When) -> Vec<Series> {
        self.asked += 1;
        match self.prometheus.query(expr, when) {
            Ok(found) => found,
            Err(error) => {
                self.faults.push(format!("{place}: {error}: {expr}"));
                Vec::new()
            }
        }
    }

    fn holds(&mut self, expr: &str) -> bool {
        !self.gives("a need", expr, When::At(self.to)).is_empty()
    }

    /// Checks the lists of absent series and labels in both directions.
    pub fn needs(&mut self) {
        for need in &NEEDS {
            for series in need.series {
                if !self.is_met(series, need.what, need.here, series) {
                    self.absent.insert(series);
                }
            }
        }
        for need in &LABELS {
            let (label, series) = (need.label, need.series);
            let subject = format!("{label} of {series}");
            let selected = format!("{series}{{{label}!=\"\"}}");
            if !self.is_met(&subject, need.what, need.here, &selected) {
                self.absent_labels.insert((label, series));
            }
        }
        for Quiet { place, part, .. } in &QUIET {
            if self.unmet(part).is_empty() && !self.holds(part) {
                self.faults
                    .push(format!("{place}: its part gives nothing: {part}"));
            }
        }
    }

    /// Returns whether `here` holds. It must hold exactly where `selected` has a result.
    fn is_met(&mut self, subject: &str, what: &str, here: &str, selected: &str) -> bool {
        let holds = self.holds(here);
        let exists = self.holds(&format!("count({selected})"));
        if exists != holds {
            self.faults.push(format!(
                "{subject} needs {what}: that holds {holds}, it exists {exists}"
            ));
        }
        if !holds {
            println!("not here: {subject}, which needs {what}");
        }
        holds
    }

    /// Checks rules: Prometheus has evaluated each, and its recorded series exist.
    pub fn rules(&mut self) {
        let loaded = self.evaluated();
        let shipped = of_rules();
        assert_eq!(
            loaded.len(),
            shipped.len(),
            "rules are loaded as they are shipped"
        );
        for rule in &loaded {
            if rule["health"] != "ok" {
                self.faults
                    .push(format!("{}: {}", rule["name"], rule["lastError"]));
            }
        }
        for rule in &shipped {
            let found = self.gives(&rule.place(), &rule.expr, When::At(self.to));
            self.judge(rule, !found.is_empty(), &rule.expr);
            let results: Vec<&Series> = found.iter().collect();
            self.judge_labels(rule, &results);
            if rule.kind == Kind::Record && !found.is_empty() {
                let recorded = self.gives(&rule.place(), &rule.by, When::At(self.to));
                if recorded.is_empty() {
                    self.faults
                        .push(format!("{}: nothing is recorded", rule.place()));
                }
            }
        }
    }

    /// Returns the loaded rules, once Prometheus could evaluate all of them, or after some evaluations.
    ///
    /// When a group's timer comes early, Prometheus evaluates it twice for the same time and rejects what differs
    /// (`rules/manager.go`, `Group.Run`). The next evaluation clears that; a fault of a rule stays.
    fn evaluated(&self) -> Vec<Value> {
        let mut loaded = self.prometheus.rules();
        for _ in 0..20 {
            if loaded.iter().all(|rule| rule["health"] == "ok") {
                break;
            }
            sleep(Duration::from_millis(500));
            loaded = self.prometheus.rules();
        }
        loaded
    }

    /// Checks all expressions of a dashboard, for each selection.
    pub fn dashboard(&mut self, dashboard: &Dashboard) {
        let selections = self.choices.selections(dashboard);
        let mut by_panel: BTreeMap<String, Vec<Series>> = BTreeMap::new();
        for asked in of_dashboard(dashboard) {
            let mut all = Vec::new();
            for selection in &selections {
                let found = self.ask(&asked, selection);
                let by_name = selection.by_name && asks_for_one_of(&asked.expr, &BY_NAME);
                if by_name && found.is_empty() && !all.is_empty() {
                    let expr = selection.put_into(&asked.expr);
                    self.faults.push(format!(
                        "{}: nothing when chosen by name: {expr}",
                        asked.place()
                    ));
                }
                all.extend(found);
            }
            self.judge(&asked, !all.is_empty(), &asked.expr);
            self.judge_labels(&asked, &all.iter().collect::<Vec<_>>());
            by_panel.entry(asked.by.clone()).or_default().extend(all);
        }
        for panel in dashboard.panels() {
            self.judge_panel(dashboard, panel, by_panel.get(text(panel, "/title")));
        }
    }

    fn ask(&mut self, asked: &Asked, selection: &Selection) -> Vec<Series> {
        let expr = selection.put_into(&asked.expr);
        let (to, range, step) = (self.to, selection.range, selection.interval);
        let from = to - range;
        match asked.kind {
            Kind::Values => self.values(asked, &expr),
            Kind::Range => self.gives(&asked.place(), &expr, When::Over { from, to, step }),
            _ => self.gives(&asked.place(), &expr, When::At(to)),
        }
    }

    /// Returns the values of a variable as series of one label.
    fn values(&mut self, asked: &Asked, selector: &str) -> Vec<Series> {
        self.asked += 1;
        let label = &asked.used[0][0];
        match self.prometheus.label_values(selector, label) {
            Ok(values) => {
                let series = values.into_iter().map(|value| Series {
                    labels: vec![(label.clone(), value)],
                    values: vec![1.0],
                });
                series.collect()
            }
            Err(error) => {
                self.faults
                    .push(format!("{}: {error}: {selector}", asked.place()));
                Vec::new()
            }
        }
    }

    /// Checks that the series an expression reads exist, also where the expression has a fallback.
    fn judge_series(&mut self, asked: &Asked) {
        let absent = !self.unmet(&asked.expr).is_empty();
        for (name, _) in names(&asked.expr).series {
            if !self.there.contains(name) && !absent {
                self.faults
                    .push(format!("{}: there is no {name}", asked.place()));
            }
        }
    }

    /// Returns the needs of an expression that this machine does not meet.
    fn unmet(&self, expr: &str) -> Vec<&'static Need> {
        let mut needs = needs(expr, &self.recorded);
        needs.retain(|need| {
            need.series
                .iter()
                .any(|series| self.absent.contains(series))
        });
        needs
    }

    /// Checks that an expression has a result, or that a listed reason explains its absence.
    fn judge(&mut self, asked: &Asked, gives: bool, expr: &str) {
        let place = asked.place();
        self.gave += usize::from(gives);
        let unmet = self.unmet(expr);
        self.judge_series(asked);
        let fault = match (gives, unmet.first(), quiet(&place)) {
            (true, None, None) | (false, Some(_), _) | (false, None, Some(_)) => return,
            (true, None, Some(quiet)) if !quiet.never => return,
            (true, Some(need), _) => format!("gives something without {}", need.what),
            (true, None, Some(quiet)) => format!("gives something, which it should {}", quiet.when),
            (false, None, None) => "gives nothing".to_owned(),
        };
        self.faults.push(format!("{place}: {fault}: {expr}"));
    }

    /// Checks that labels in a legend or a text exist.
    fn judge_labels(&mut self, asked: &Asked, results: &[&Series]) {
        for labels in &asked.used {
            let has = |label: &String| results.iter().any(|series| series.label(label).is_some());
            let lacks = |label: &String| self.lacks(label, &asked.expr);
            if !results.is_empty() && !labels.iter().any(|label| has(label) || lacks(label)) {
                let labels = labels.join(" or ");
                self.faults
                    .push(format!("{}: nothing has the label {labels}", asked.place()));
            }
        }
    }

    /// Returns whether this machine has no values for a label of the series that an expression reads.
    fn lacks(&self, label: &str, expr: &str) -> bool {
        let read = names(expr).series;
        let lacking = |(name, series): &(&str, &str)| {
            *name == label && read.iter().any(|(read, _)| read == series)
        };
        self.absent_labels.iter().any(lacking)
    }

    /// Checks that a panel's columns, links and overrides use existing labels.
    fn judge_panel(&mut self, dashboard: &Dashboard, panel: &Value, results: Option<&Vec<Series>>) {
        let results: Vec<&Series> = results.into_iter().flatten().collect();
        if results.is_empty() {
            return;
        }
        let exprs: Vec<&str> = list(panel, "/targets")
            .iter()
            .map(|t| text(t, "/expr"))
            .collect();
        for fault in Columns::of(panel).faults(panel, &results) {
            if !exprs.iter().any(|expr| self.lacks(&fault, expr)) {
                self.faults
                    .push(format!("{}: nothing has {fault}", dashboard.place(panel)));
            }
        }
    }

    /// Panics with all faults.
    pub fn end(self) {
        let expressions = asked::everything().len();
        println!(
            "{expressions} expressions, {} gave something, asked {} times",
            self.gave, self.asked
        );
        assert!(expressions > 150, "{expressions} expressions");
        let faults = self.faults;
        assert!(
            faults.is_empty(),
            "{} faults:\n{}",
            faults.len(),
            faults.join("\n")
        );
    }
}

/// Variables that select the stalled containers.
const BY_NAME: [&str; 3] = ["namespace", "pod", "container"];
