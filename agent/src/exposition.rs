//! Exposition: writes metrics as Prometheus text 0.0.4 and OpenMetrics 1.0.0.
//!
//! Hand-written, because a scrape of a busy host has some ten thousand lines: an owner's label text is formatted once
//! and then copied ([`OwnerLabels`]), and a value is printed from the integer in which it was counted. The agent's own
//! metrics are in a `prometheus::Registry`; [`Encoder::registry`] writes them too, so that one set of rules holds for
//! the whole scrape.

mod family;
mod labels;
mod lint;
pub mod metric;
mod name;
mod number;
mod reference;
mod registry;

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::{BufMut, BytesMut};

pub use self::family::Family;
pub use self::labels::OwnerLabels;
pub use self::lint::{lint, lint_all};
pub use self::reference::reference;
pub use self::registry::opts;

use self::name::Names;
use crate::exposition::metric::{Kind, Metric};

/// An exposition format.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Format {
    /// Prometheus text, version 0.0.4, which every scraper reads.
    Text,
    /// OpenMetrics 1.0.0, which Prometheus prefers.
    OpenMetrics,
}

impl Format {
    /// Returns the value of the `Content-Type` header for this format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes one scrape into a buffer.
///
/// ```
/// use bytes::BytesMut;
/// use stallscope::exposition::{Encoder, Format, OwnerLabels};
/// use stallscope::exposition::metric::{Kind, Metric, Scope, Value};
///
/// static WAITS: Metric = Metric {
///     name: "stallscope_example_waits_total",
///     kind: Kind::Counter,
///     help: "Waits seen.",
///     labels: &["cause"],
///     scope: Scope::Owner,
///     source: "none",
/// };
///
/// let owner = OwnerLabels::new("shop", "cart-0", "server", "/kubepods/cart");
/// let mut encoder = Encoder::new(Format::Text, BytesMut::new());
/// encoder.family(&WAITS).sample(Some(&owner), &["own"], Value::Count(7));
/// let text = encoder.finish();
/// assert!(text.ends_with(b"cgroup=\"/kubepods/cart\",cause=\"own\"} 7\n"));
/// ```
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    out: BytesMut,
    series: usize,
    /// Names of the families opened, as OpenMetrics has them; opening one twice would make the whole scrape unreadable.
    opened: HashSet<Cow<'static, str>>,
    /// Sample name of the open family up to and including its `{`.
    head: Vec<u8>,
    /// Label text of the histogram being written, which every bucket repeats.
    labels: Vec<u8>,
}

impl Encoder {
    /// Starts a scrape that is appended to `out`; pass the last scrape's buffer to save its allocation.
    #[must_use]
    pub fn new(format: Format, out: BytesMut) -> Self {
        Self {
            format,
            out,
            series: 0,
            opened: HashSet::new(),
            head: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Returns the format being written.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the number of series written so far. Each line counts, as it does for a scraper, so a histogram is many.
    #[must_use]
    pub fn series(&self) -> usize {
        self.series
    }

    /// Opens a family; nothing is written until its first sample.
    ///
    /// A family is opened once in a scrape: opening it again is a programming error. A release build drops the samples
    /// of the second opening, because a scraper would otherwise reject the whole scrape.
    pub fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        let accepted = self.open(Cow::Borrowed(metric.name), metric.kind);
        Family::new(self, metric, accepted)
    }

    /// Ends the scrape and returns its text.
    #[must_use]
    pub fn finish(mut self) -> BytesMut {
        if self.format == Format::OpenMetrics {
            self.out.put_slice(b"# EOF\n");
        }
        self.out
    }

    /// Notes that a family is being written. Returns false if its name is taken.
    fn open(&mut self, name: Cow<'static, str>, kind: Kind) -> bool {
        let key = match name {
            Cow::Borrowed(name) => Cow::Borrowed(name::base(name, kind)),
            Cow::Owned(name) => Cow::Owned(name::base(&name, kind).to_owned()),
        };
        let new = self.opened.insert(key.clone());
        debug_assert!(new, "the family {key} is opened twice in one scrape");
        new
    }

    /// Writes a family's HELP, TYPE and UNIT lines.
    fn metadata(&mut self, names: &Names<'_>, kind: Kind, help: &str) {
        let out = &mut self.out;
        let type_name = match (kind, self.format) {
            (Kind::Counter, _) => "counter",
            (Kind::Gauge, _) | (Kind::Info, Format::Text) => "gauge",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
        };
        let mut line = |what: &str, write: &dyn Fn(&mut BytesMut)| {
            out.put_slice(b"# ");
            out.put_slice(what.as_bytes());
            out.put_u8(b' ');
            out.put_slice(names.family.as_bytes());
            out.put_u8(b' ');
            write(out);
            out.put_u8(b'\n');
        };
        line("HELP", &|out| labels::escape_help(out, help, self.format));
        line("TYPE", &|out| out.put_slice(type_name.as_bytes()));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, names.unit) {
            line("UNIT", &|out| out.put_slice(unit.as_bytes()));
        }
    }
}
