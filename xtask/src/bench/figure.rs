//! Figures, their targets, and how they are printed.

use std::time::Duration;

use serde::Serialize;

use super::estimate::Estimate;

/// Targets: the most that a figure may be. Figures that are not listed have none.
const TARGETS: &[(&str, f64)] = &[
    ("sched_switch_ratio", 1.8),
    ("sched_switch_competitors_ratio", 1.8),
    ("mm_page_alloc_ratio", 1.5),
    ("sched_switch_toggled_ratio", 1.5),
    ("ping_pong_cpu_ratio", 1.08),
    ("rest_cpu", 0.1),
    ("rss_1000_cgroups", 30.0),
    ("map_memory_bound_128_cpus", 64.0),
    ("scrape_cpu_1000_cgroups", 15.0),
];

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    standard_error: Option<f64>,
    target: Option<f64>,
    met: Option<bool>,
}

/// All figures of a run. JSON is printed as they come, text at the end.
pub struct Figures {
    json: bool,
    header: Vec<String>,
    list: Vec<Figure>,
}

impl Figures {
    /// Creates an empty list.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            header: Vec::new(),
            list: Vec::new(),
        }
    }

    /// Adds a line about the circumstances of the run.
    pub fn note(&mut self, line: String) {
        if self.json {
            eprintln!("{line}");
        }
        self.header.push(line);
    }

    /// Adds an exact number.
    pub fn number(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add(name.into(), value, None, unit, None);
    }

    /// Adds an exact number with a target that depends on the machine.
    pub fn number_against(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        target: f64,
    ) {
        self.add(name.into(), value, None, unit, Some(target));
    }

    /// Adds an estimate.
    pub fn estimate(&mut self, name: impl Into<String>, estimate: Estimate, unit: &'static str) {
        let error = Some(estimate.error).filter(|error| error.is_finite());
        self.add(name.into(), estimate.value, error, unit, None);
    }

    fn add(
        &mut self,
        name: String,
        value: f64,
        standard_error: Option<f64>,
        unit: &'static str,
        target: Option<f64>,
    ) {
        let target = target.or_else(|| {
            let known = TARGETS.iter().find(|(known, _)| *known == name);
            known.map(|(_, target)| *target)
        });
        let figure = Figure {
            name,
            value,
            unit,
            standard_error,
            target,
            // A value that could not be computed (NaN) meets no target.
            met: target.map(|target| value <= target),
        };
        if self.json {
            match serde_json::to_string(&figure) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("{}: {error}", figure.name),
            }
        }
        self.list.push(figure);
    }

    /// Prints the table, unless the figures went out as JSON.
    pub fn finish(self, took: Duration) {
        let missed = self.list.iter().filter(|f| f.met == Some(false)).count();
        let judged = self.list.iter().filter(|f| f.met.is_some()).count();
        let summary = format!(
            "{} of {judged} targets met; measured in {} s",
            judged - missed,
            took.as_secs()
        );
        if self.json {
            eprintln!("{summary}");
            return;
        }
        println!();
        for line in &self.header {
            println!("{line}");
        }
        println!("\n{}\n{summary}", table(&self.list));
    }
}

impl Figure {
    fn row(&self) -> [String; 6] {
        [
            self.name.clone(),
            rounded(self.value),
            self.standard_error
                .map(|error| format!("±{}", rounded(error)))
                .unwrap_or_default(),
            self.unit.to_owned(),
            self.target
                .map(|t| format!("<= {}", rounded(t)))
                .unwrap_or_default(),
            match self.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            }
            .to_owned(),
        ]
    }
}

fn table(figures: &[Figure]) -> String {
    let heads = ["figure", "value", "error", "unit", "target", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heads)
        .chain(figures.iter().map(Figure::row))
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|[name, value, error, unit, target, met]| {
        let [w0, w1, w2, w3, w4, _] = widths;
        let line =
            format!("{name:<w0$}  {value:>w1$}  {error:>w2$}  {unit:<w3$}  {target:>w4$}  {met}");
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// Formats a value: integers and values of 100 and more without decimals, others with enough digits to compare with a
/// target.
fn rounded(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else if value.abs() >= 0.1 {
        format!("{value:.3}")
    } else {
        format!("{value:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_limits_and_what_is_not_a_number_misses_them() {
        let mut figures = Figures::new(false);
        figures.number("rest_cpu", 0.1, "%");
        figures.number("rest_cpu", 0.11, "%");
        figures.number("rest_cpu", f64::NAN, "%");
        figures.number("unlisted", 9.0, "%");
        figures.number_against("map_memory", 5.0, "MB", 16.0);
        let met: Vec<_> = figures.list.iter().map(|f| f.met).collect();
        assert_eq!(
            met,
            [Some(true), Some(false), Some(false), None, Some(true)]
        );
    }

    #[test]
    fn json_has_what_a_script_needs() {
        let mut figures = Figures::new(false);
        figures.number("sched_switch_ratio", 1.75, "ratio");
        let json = serde_json::to_value(&figures.list[0]).unwrap();
        assert_eq!(json["name"], "sched_switch_ratio");
        assert_eq!(json["target"], 1.8);
        assert_eq!(json["met"], true);
        assert_eq!(json["standard_error"], serde_json::Value::Null);
    }
}
