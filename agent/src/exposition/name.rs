//! Which name goes where: the two formats differ in what they call a family and what they call its samples.

use super::Format;
use crate::metric::Kind;

/// The names of one family in one format.
#[derive(Debug)]
pub(super) struct Names<'a> {
    /// On the HELP, TYPE and UNIT lines.
    pub(super) family: &'a str,
    /// What every sample's name starts with.
    sample: &'a str,
    /// What OpenMetrics adds to that.
    suffix: &'static str,
    /// Base unit, if the name says one.
    pub(super) unit: Option<&'static str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(name: &'a str, kind: Kind, format: Format) -> Self {
        let base = base(name, kind);
        // An info family has no unit in OpenMetrics, whatever its name says.
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

    /// Appends the name of a sample, `part` being a histogram's `_bucket`, `_sum` or `_count`.
    pub(super) fn put_sample(&self, out: &mut Vec<u8>, part: &str) {
        for piece in [self.sample, self.suffix, part] {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// The name without the ending that its kind demands: what OpenMetrics calls the family.
pub(super) fn base(name: &str, kind: Kind) -> &str {
    let ending = match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => return name,
    };
    name.strip_suffix(ending).unwrap_or(name)
}

/// The base unit at the end of a family's name.
pub(super) fn unit(base: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| {
        base.strip_suffix(unit)
            .is_some_and(|rest| rest.ends_with('_'))
    })
}
