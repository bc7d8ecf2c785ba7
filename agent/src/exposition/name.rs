//! Names of families and of samples: the two formats differ in both.

use super::Format;
use crate::exposition::metric::Kind;

/// The names of one family in one format.
#[derive(Debug)]
pub(super) struct Names<'a> {
    /// Name on the HELP, TYPE and UNIT lines.
    pub(super) family: &'a str,
    /// Prefix of every sample's name.
    sample: &'a str,
    /// Suffix that OpenMetrics adds to the prefix.
    suffix: &'static str,
    /// Base unit, if the name has one.
    pub(super) unit: Option<&'static str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(name: &'a str, kind: Kind, format: Format) -> Self {
        let base = base(name, kind);
        // An info family has no unit in OpenMetrics, whatever its name ends in.
        let unit = if kind == Kind::Info { None } else { unit(base) };
        match format {
            Format::Text => Self {
                family: name,
                sample: name,
                suffix: "",
                unit,
            },
            Format::OpenMetrics => {
                let suffix = match kind {
                    Kind::Counter => "_total",
                    Kind::Info => "_info",
                    Kind::Gauge | Kind::Histogram => "",
                };
                Self {
                    family: base,
                    sample: base,
                    suffix,
                    unit,
                }
            }
        }
    }

    /// Appends the name of a sample; `part` is a histogram's `_bucket`, `_sum` or `_count`, or empty.
    pub(super) fn put_sample(&self, out: &mut Vec<u8>, part: &str) {
        for piece in [self.sample, self.suffix, part] {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// Returns the name without the suffix of its kind: the family's name in OpenMetrics.
pub(super) fn base(name: &str, kind: Kind) -> &str {
    let ending = match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => return name,
    };
    name.strip_suffix(ending).unwrap_or(name)
}

/// Returns the base unit at the end of a family's name.
pub(super) fn unit(base: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| {
        base.strip_suffix(unit)
            .is_some_and(|rest| rest.ends_with('_'))
    })
}
