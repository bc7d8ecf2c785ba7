//! Expressions as Grafana sends them, with variables substituted, escaped and joined as its Prometheus data source
//! does.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dashboards::{references, text};

/// Scrape interval in seconds, as in the data source's setting of that name.
pub const SCRAPE: u64 = 1;

/// Value of a variable.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// Text that is substituted unchanged: "All", or the text of a box.
    Raw(String),
    /// The one value of a single-choice variable.
    One(String),
    /// Values of a multiple-choice variable.
    Several(Vec<String>),
}

impl Chosen {
    /// Returns the text for `${name:format}`.
    fn formatted(&self, format: &str) -> String {
        match (self, format) {
            (Self::Raw(text) | Self::One(text), "raw") | (Self::Raw(text), "") => text.clone(),
            (Self::One(value), "") => value.replace('\\', r"\\").replace('\'', r"\\'"),
            (Self::Several(values), "" | "regex") => alternatives(values),
            _ => panic!("no dashboard asked for the format `{format}` of {self:?} so far; add it"),
        }
    }
}

/// Returns a quoted regular expression that matches any of the values.
fn alternatives(values: &[String]) -> String {
    let escaped: Vec<String> = values.iter().map(|value| escaped(value)).collect();
    match escaped.as_slice() {
        [one] => one.clone(),
        several => format!("({})", several.join("|")),
    }
}

fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str(r"\\\\"),
            '$' | '^' | '*' | '{' | '}' | '[' | ']' | '\'' | '+' | '?' | '.' | '(' | ')' | '|' => {
                escaped.push_str(r"\\");
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Chosen values and displayed time of a page.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Chosen values by variable name.
    pub chosen: BTreeMap<String, Chosen>,
    /// True if values are chosen where "All" is possible.
    pub by_name: bool,
    /// Displayed time, in seconds.
    pub range: u64,
    /// Time between two points, in seconds.
    pub interval: u64,
}

impl Selection {
    /// Substitutes all variables of an expression. A `$1` of `label_replace` stays.
    pub fn put_into(&self, expr: &str) -> String {
        let mut done = String::new();
        let mut rest = expr;
        while let Some((before, after)) = rest.split_once('$') {
            done.push_str(before);
            let (name, format, after_it) = reference(after);
            if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                done.push_str(&self.value(name, format));
                rest = after_it;
            } else {
                done.push('$');
                rest = after;
            }
        }
        done + rest
    }

    fn value(&self, name: &str, format: &str) -> String {
        let (range, interval) = (self.range, self.interval);
        match name {
            "__interval" => format!("{interval}s"),
            "__interval_ms" => format!("{}", interval * 1000),
            "__rate_interval" => format!("{}s", (interval + SCRAPE).max(4 * SCRAPE)),
            "__range" => format!("{range}s"),
            "__range_s" => range.to_string(),
            "__range_ms" => format!("{}", range * 1000),
            _ => self
                .chosen
                .get(name)
                .unwrap_or_else(|| panic!("nothing is chosen for ${name}"))
                .formatted(format),
        }
    }
}

/// Splits the text after a `$` into name, format and rest.
fn reference(after: &str) -> (&str, &str, &str) {
    if let Some((inside, rest)) = after.strip_prefix('{').and_then(|r| r.split_once('}')) {
        let (name, format) = inside.split_once(':').unwrap_or((inside, ""));
        return (name, format, rest);
    }
    let end = after
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(after.len());
    (&after[..end], "", &after[end..])
}

/// Returns the default of a variable that does not query Prometheus.
pub fn untouched(variable: &Value) -> Option<Chosen> {
    let query = text(variable, "/query");
    match text(variable, "/type") {
        "datasource" => Some(Chosen::Raw("prometheus".to_owned())),
        "textbox" | "constant" => Some(Chosen::One(query.to_owned())),
        "custom" | "interval" => {
            let current = text(variable, "/current/value");
            let first = query.split(',').next().unwrap_or_default().trim();
            let value = if current.is_empty() { first } else { current };
            Some(Chosen::One(value.to_owned()))
        }
        _ => None,
    }
}

/// Returns the text for "All", if the variable has that choice.
pub fn all(variable: &Value) -> Option<Chosen> {
    let all = text(variable, "/allValue").to_owned();
    (variable["includeAll"] == true).then_some(Chosen::Raw(all))
}

/// Returns whether an expression uses one of these variables.
pub fn asks_for_one_of(expr: &str, names: &[&str]) -> bool {
    let asked = references(expr);
    names.iter().any(|name| asked.contains(name))
}

#[test]
fn variables_are_put_in_as_grafana_does() {
    let several = |values: &[&str]| Chosen::Several(values.iter().map(|v| (*v).into()).collect());
    let chosen = [
        ("host", Chosen::One("10.0.0.1:9750".to_owned())),
        ("pod", several(&["a.b", "c"])),
        ("p", several(&["a+b\\"])),
        ("all", Chosen::Raw(".*".to_owned())),
    ];
    let selection = Selection {
        chosen: chosen
            .map(|(name, chosen)| (name.to_owned(), chosen))
            .into(),
        by_name: true,
        range: 60,
        interval: 1,
    };
    for (expr, expected) in [
        (r#"x{i="$host"}"#, r#"x{i="10.0.0.1:9750"}"#),
        (
            r#"x{p=~"$pod", q=~"${p}"}"#,
            r#"x{p=~"(a\\.b|c)", q=~"a\\+b\\\\"}"#,
        ),
        (r#"x{p=~"$all$p"}"#, r#"x{p=~".*a\\+b\\\\"}"#),
        (
            "rate(x[$__rate_interval])[$__range:$__interval]",
            "rate(x[4s])[60s:1s]",
        ),
        (
            r#"label_replace(x, "a", "$1", "b", "(.*)")"#,
            r#"label_replace(x, "a", "$1", "b", "(.*)")"#,
        ),
    ] {
        assert_eq!(selection.put_into(expr), expected);
    }
}
