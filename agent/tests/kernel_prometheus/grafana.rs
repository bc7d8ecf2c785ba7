//! Expressions as Grafana sends them: its variables put in, escaped and joined as its Prometheus source does.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dashboards::{references, text};

/// Between two scrapes, in seconds; the setting of that name of the data source.
pub const SCRAPE: u64 = 1;

/// What a variable stands for.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// Put in as it is: "All", or the text of a box.
    Raw(String),
    /// The one value of a variable that can have but one.
    One(String),
    /// Values of a variable that can have several.
    Several(Vec<String>),
}

impl Chosen {
    /// What is put in for `${name:format}`.
    fn formatted(&self, format: &str) -> String {
        match (self, format) {
            (Self::Raw(text) | Self::One(text), "raw") | (Self::Raw(text), "") => text.clone(),
            (Self::One(value), "") => value.replace('\\', r"\\").replace('\'', r"\\'"),
            (Self::Several(values), "" | "regex") => alternatives(values),
            _ => panic!("no dashboard asked for the format `{format}` of {self:?} so far; add it"),
        }
    }
}

/// One of several values as a regular expression within quotes.
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

/// What is chosen on a page, and the time that it shows.
#[derive(Clone, Debug)]
pub struct Selection {
    /// By name of variable.
    pub chosen: BTreeMap<String, Chosen>,
    /// Whether values are chosen where "All" could be.
    pub by_name: bool,
    /// From the left of the page to its right, in seconds.
    pub range: u64,
    /// Between two points, in seconds.
    pub interval: u64,
}

impl Selection {
    /// The expression with everything put in. A `$1` of `label_replace` stays.
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

/// The name, the format and the rest of what follows a `$`.
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

/// What a variable stands for that nobody has touched, where it does not ask Prometheus.
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

/// Whether it can be "All", and what is put in for that.
pub fn all(variable: &Value) -> Option<Chosen> {
    let all = text(variable, "/allValue").to_owned();
    (variable["includeAll"] == true).then_some(Chosen::Raw(all))
}

/// Whether an expression asks for what is chosen under one of these names.
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
