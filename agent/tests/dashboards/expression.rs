//! Names in an expression. Prometheus itself checks the syntax.

use std::collections::BTreeSet;

/// Prefixes of the series that workloads export by themselves.
const OF_WORKLOADS: [&str; 3] = ["flink_", "tikv_", "envoy_"];

/// Names in an expression.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Names<'a> {
    /// Series of ours and of workloads, with the labels of their selectors.
    pub series: Vec<(&'a str, Vec<&'a str>)>,
    /// Labels of `by`, `on`, `group_left` and the like.
    pub grouped: BTreeSet<&'a str>,
    /// Labels of `by` only, among them all labels after the outermost aggregation.
    pub by: BTreeSet<&'a str>,
    /// Strings in quotes, among them the labels that `label_replace` makes.
    pub quoted: BTreeSet<&'a str>,
}

/// Parses the names in an expression with its variables substituted.
pub fn names(expr: &str) -> Names<'_> {
    let mut names = Names::default();
    let mut rest = expr;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let (text, after) = quoted(rest);
            names.quoted.insert(text);
            rest = after;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let (name, after) = word(rest);
            rest = named(&mut names, name, after);
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    names
}

fn named<'a>(names: &mut Names<'a>, name: &'a str, after: &'a str) -> &'a str {
    match name {
        "by" | "on" | "ignoring" | "without" | "group_left" | "group_right" => {
            let Some((inside, rest)) = after
                .trim_start()
                .strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
            else {
                return after;
            };
            let labels = inside.split(',').map(str::trim).filter(|l| !l.is_empty());
            for label in labels {
                names.grouped.insert(label);
                if name == "by" {
                    names.by.insert(label);
                }
            }
            rest
        }
        _ if is_series(name) => {
            let (labels, rest) = matchers(after);
            names.series.push((name, labels));
            rest
        }
        _ => after,
    }
}

/// Returns whether a word names a series of ours, one recorded from them, or one of a workload.
fn is_series(name: &str) -> bool {
    name.starts_with("stallscope_")
        || name.contains(":stallscope_")
        || OF_WORKLOADS.iter().any(|of| name.starts_with(of))
}

/// Parses the labels in the braces at the start of a text. Returns them and the rest.
fn matchers(text: &str) -> (Vec<&str>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else {
        return (Vec::new(), text);
    };
    let mut labels = Vec::new();
    while let Some(c) = rest.chars().next() {
        if c == '}' {
            return (labels, &rest[1..]);
        } else if c == '"' {
            rest = quoted(rest).1;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let (label, after) = word(rest);
            labels.push(label);
            rest = after;
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    panic!("braces that do not close: {text}");
}

fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Parses the quoted string at the start of a text. Returns it and the rest.
fn quoted(text: &str) -> (&str, &str) {
    text[1..]
        .split_once('"')
        .unwrap_or_else(|| panic!("quotes that do not close: {text}"))
}

#[test]
fn names_are_found_and_texts_are_not_taken_for_them() {
    let names = names(
        r#"topk(3, sum by (a, b) (rate(stallscope_x_total{c=~"stallscope_no{d}", e!=""}[5m]))
           * on (a) group_left (f) x:stallscope_y:z) or label_replace(up{g="1"}, "h", "$1", "a", "(.*)")
           or flink_jobmanager_job_uptime{i="j"} / 1e3"#,
    );
    assert_eq!(
        names.series,
        [
            ("stallscope_x_total", vec!["c", "e"]),
            ("x:stallscope_y:z", vec![]),
            ("flink_jobmanager_job_uptime", vec!["i"])
        ]
    );
    assert_eq!(names.grouped, BTreeSet::from(["a", "b", "f"]));
    assert_eq!(names.by, BTreeSet::from(["a", "b"]));
    assert!(names.quoted.contains("h") && !names.quoted.contains("e"));
}
