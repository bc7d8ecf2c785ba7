//! A strict parser for both formats that accepts what the agent writes and nothing looser. It follows the formats'
//! descriptions, so that it does not share the encoder's mistakes.

use std::collections::{BTreeMap, BTreeSet};

use stallscope::exposition::Format;

/// One family with its samples.
#[derive(Debug, Default)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: String,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: String,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| label == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn number(&self) -> f64 {
        self.value.parse().unwrap()
    }
}

/// Parses a scrape. An error names the broken line.
pub fn parse(text: &str, format: Format) -> Result<Vec<Family>, String> {
    let mut body = text
        .strip_suffix('\n')
        .ok_or("the last line does not end")?;
    if format == Format::OpenMetrics {
        body = match body {
            "# EOF" => "",
            body => body.strip_suffix("\n# EOF").ok_or("no EOF")?,
        };
    }
    let mut families: Vec<Family> = Vec::new();
    for line in body.split('\n').filter(|_| !body.is_empty()) {
        parse_line(line, format, &mut families).map_err(|error| format!("{error}: {line:?}"))?;
    }
    let mut names = BTreeSet::new();
    let mut series = BTreeSet::new();
    for family in &families {
        if !names.insert(&family.name) {
            return Err(format!("the family {} is there twice", family.name));
        }
        if family.samples.is_empty() {
            return Err(format!("the family {} has no samples", family.name));
        }
        for sample in &family.samples {
            if !series.insert((&sample.name, sample.labels.iter().collect::<BTreeSet<_>>())) {
                return Err(format!(
                    "the series {} {:?} is there twice",
                    sample.name, sample.labels
                ));
            }
        }
        if family.kind == "histogram" {
            check_histogram(family)?;
        }
    }
    Ok(families)
}

fn parse_line(line: &str, format: Format, families: &mut Vec<Family>) -> Result<(), String> {
    if let Some(line) = line.strip_prefix("# ") {
        let (what, rest) = line.split_once(' ').ok_or("metadata without a name")?;
        let (name, text) = rest.split_once(' ').ok_or("metadata without text")?;
        if what == "HELP" {
            let help = unescape(text, format == Format::OpenMetrics)?;
            families.push(Family {
                name: name.to_owned(),
                help,
                ..Family::default()
            });
            return legal(name)
                .then_some(())
                .ok_or_else(|| "illegal family name".to_owned());
        }
        let family = families
            .last_mut()
            .filter(|f| f.name == name && f.samples.is_empty())
            .ok_or("out of order")?;
        return match what {
            "TYPE" if family.kind.is_empty() => {
                text.clone_into(&mut family.kind);
                Ok(())
            }
            "UNIT"
                if format == Format::OpenMetrics
                    && family.unit.is_none()
                    && name.ends_with(&format!("_{text}")) =>
            {
                family.unit = Some(text.to_owned());
                Ok(())
            }
            _ => Err("unknown or repeated metadata".to_owned()),
        };
    }
    let family = families
        .last_mut()
        .filter(|family| !family.kind.is_empty())
        .ok_or("a sample before its TYPE")?;
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let name = &line[..end];
    let endings: &[&str] = match (family.kind.as_str(), format) {
        ("histogram", _) => &["_bucket", "_sum", "_count"],
        ("counter", Format::OpenMetrics) => &["_total"],
        ("info", Format::OpenMetrics) => &["_info"],
        ("counter" | "gauge", _) => &[""],
        (kind, _) => return Err(format!("unknown type {kind}")),
    };
    if !endings
        .iter()
        .any(|ending| name == format!("{}{ending}", family.name))
    {
        return Err(format!("a sample of another family than {}", family.name));
    }
    let mut labels = Vec::new();
    let mut rest = &line[end..];
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without value")?;
            let (value, after) = take_value(after)?;
            if !legal(label)
                || label.contains(':')
                || labels.iter().any(|(other, _)| other == label)
            {
                return Err(format!("illegal or repeated label {label:?}"));
            }
            labels.push((label.to_owned(), unescape(value, true)?));
            rest = match after.strip_prefix(',') {
                Some(after) => after,
                None => after.strip_prefix('}').ok_or("labels do not end")?,
            };
            if !after.starts_with(',') {
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let number = value.strip_prefix('-').unwrap_or(value);
    if !matches!(number, "NaN" | "+Inf" | "Inf")
        && !number.starts_with(|first: char| first.is_ascii_digit())
    {
        return Err("the value is no number".to_owned());
    }
    value.parse::<f64>().map_err(|error| error.to_string())?;
    family.samples.push(Sample {
        name: name.to_owned(),
        labels,
        value: value.to_owned(),
    });
    Ok(())
}

/// Splits a text at the first quote that is not escaped.
fn take_value(text: &str) -> Result<(&str, &str), String> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    Err("a label value does not end".to_owned())
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => return Err(format!("unknown escape {other:?}")),
            },
            '"' if quotes => return Err("a quote that is not escaped".to_owned()),
            character => character,
        });
    }
    Ok(plain)
}

fn legal(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '_' | ':'))
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

/// Checks that buckets ascend in bound and count, and that the last is `+Inf` and equals the count.
fn check_histogram(family: &Family) -> Result<(), String> {
    let mut groups: BTreeMap<Vec<&(String, String)>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        groups
            .entry(
                sample
                    .labels
                    .iter()
                    .filter(|(name, _)| name != "le")
                    .collect(),
            )
            .or_default()
            .push(sample);
    }
    for (labels, samples) in groups {
        let parts = |part: &str| -> Vec<_> {
            samples
                .iter()
                .filter(|sample| sample.name == format!("{}{part}", family.name))
                .collect()
        };
        let (buckets, sums, counts) = (parts("_bucket"), parts("_sum"), parts("_count"));
        let number = |sample: &Sample| sample.label("le").unwrap().parse::<f64>().unwrap();
        let ascending =
            buckets.is_sorted_by(|a, b| number(a) < number(b) && a.number() <= b.number());
        let whole = counts.len() == 1
            && sums.len() == 1
            && buckets.last().is_some_and(|last| {
                last.label("le") == Some("+Inf") && last.value == counts[0].value
            });
        if !ascending || !whole {
            return Err(format!(
                "the histogram {} {labels:?} is broken",
                family.name
            ));
        }
    }
    Ok(())
}
