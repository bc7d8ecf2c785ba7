//! One metric family of a scrape.

use bytes::BufMut;

use super::labels::{escape_value, put_label};
use super::name::Names;
use super::number::{put_bound_seconds, put_integer, put_seconds, put_value};
use super::{Encoder, OwnerLabels};
use crate::exposition::metric::{Kind, Metric, Scope, Value};

/// A family that is being written. It borrows the encoder, so that families cannot be mixed.
#[derive(Debug)]
pub struct Family<'a> {
    encoder: &'a mut Encoder,
    metric: &'static Metric,
    /// False if the family was written before: its samples are dropped.
    accepted: bool,
    /// True once HELP and TYPE are written. A family without samples writes nothing, because absent is not zero.
    started: bool,
}

impl<'a> Family<'a> {
    pub(super) fn new(encoder: &'a mut Encoder, metric: &'static Metric, accepted: bool) -> Self {
        Self {
            encoder,
            metric,
            accepted,
            started: false,
        }
    }

    /// Writes one series of a counter, gauge or info family.
    ///
    /// `owner` is given if the definition's scope is the owner; `values` are those of the definition's labels, in its
    /// order.
    pub fn sample(&mut self, owner: Option<&OwnerLabels>, values: &[&str], value: Value) {
        debug_assert!(
            self.metric.kind != Kind::Histogram,
            "{} is a histogram",
            self.metric.name
        );
        debug_assert!(
            self.metric.kind != Kind::Info || value == Value::Count(1),
            "{} is 1 by definition",
            self.metric.name
        );
        if !self.begin(owner, values) {
            return;
        }
        let Encoder { out, head, .. } = &mut *self.encoder;
        out.put_slice(head);
        if let Some(owner) = owner {
            out.put_slice(owner.as_str().as_bytes());
        }
        let mut comma = owner.is_some();
        for (name, value) in self.metric.labels.iter().zip(values) {
            if comma {
                out.put_u8(b',');
            }
            comma = true;
            out.put_slice(name.as_bytes());
            out.put_slice(b"=\"");
            escape_value(out, value);
            out.put_u8(b'"');
        }
        out.put_slice(if comma { b"} " } else { b" " });
        put_value(out, value);
        out.put_u8(b'\n');
        self.encoder.series += 1;
    }

    /// Writes one histogram.
    ///
    /// `counts` has one number for each bucket, not cumulative, and a last one for values above all of
    /// `upper_bounds_ns`; `sum_ns` is the sum of all observed values. Bounds and sum are in nanoseconds.
    pub fn histogram(
        &mut self,
        owner: Option<&OwnerLabels>,
        values: &[&str],
        upper_bounds_ns: &[u64],
        counts: &[u64],
        sum_ns: u64,
    ) {
        debug_assert!(
            self.metric.kind == Kind::Histogram,
            "{} is no histogram",
            self.metric.name
        );
        debug_assert_eq!(
            counts.len(),
            upper_bounds_ns.len() + 1,
            "buckets of {}",
            self.metric.name
        );
        debug_assert!(
            upper_bounds_ns.is_sorted_by(|a, b| a < b),
            "bounds of {} ascend",
            self.metric.name
        );
        if !self.begin(owner, values) {
            return;
        }
        let labels = &mut self.encoder.labels;
        labels.clear();
        if let Some(owner) = owner {
            labels.extend_from_slice(owner.as_str().as_bytes());
        }
        for (name, value) in self.metric.labels.iter().zip(values) {
            put_label(labels, name, value);
        }

        let names = Names::new(self.metric.name, self.metric.kind, self.encoder.format);
        let mut histogram = Histogram::new(self.encoder, &names);
        let mut total = 0_u64;
        for (bound, count) in upper_bounds_ns.iter().zip(counts) {
            total = total.wrapping_add(*count);
            histogram.bucket(total, |out| put_bound_seconds(out, *bound));
        }
        total = counts
            .iter()
            .skip(upper_bounds_ns.len())
            .fold(total, |total, count| total.wrapping_add(*count));
        histogram.end(total, |out| put_seconds(out, sum_ns));
    }

    /// Checks a sample against the definition, and writes the metadata before the first one. Returns false if the
    /// sample must not be written.
    fn begin(&mut self, owner: Option<&OwnerLabels>, values: &[&str]) -> bool {
        let Metric {
            name,
            kind,
            help,
            labels,
            scope,
            ..
        } = *self.metric;
        debug_assert_eq!(owner.is_some(), scope == Scope::Owner, "owner of {name}");
        debug_assert_eq!(values.len(), labels.len(), "label values of {name}");
        if self.accepted && !self.started {
            self.started = true;
            let names = Names::new(name, kind, self.encoder.format);
            self.encoder.metadata(&names, kind, help);
            self.encoder.head.clear();
            names.put_sample(&mut self.encoder.head, "");
            if owner.is_some() || !labels.is_empty() {
                self.encoder.head.push(b'{');
            }
        }
        self.accepted
    }
}

/// Writer of one histogram's lines, whose labels are in `Encoder::labels`.
pub(super) struct Histogram<'a> {
    encoder: &'a mut Encoder,
    names: &'a Names<'a>,
}

impl<'a> Histogram<'a> {
    pub(super) fn new(encoder: &'a mut Encoder, names: &'a Names<'a>) -> Self {
        encoder.head.clear();
        names.put_sample(&mut encoder.head, "_bucket");
        encoder.head.push(b'{');
        if !encoder.labels.is_empty() {
            encoder.head.extend_from_slice(&encoder.labels);
            encoder.head.push(b',');
        }
        encoder.head.extend_from_slice(b"le=\"");
        Self { encoder, names }
    }

    /// Writes one bucket with its cumulative count.
    pub(super) fn bucket(&mut self, cumulative: u64, bound: impl Fn(&mut bytes::BytesMut)) {
        let Encoder {
            out, head, series, ..
        } = &mut *self.encoder;
        out.put_slice(head);
        bound(out);
        out.put_slice(b"\"} ");
        put_integer(out, cumulative);
        out.put_u8(b'\n');
        *series += 1;
    }

    /// Writes the last bucket, the sum and the count.
    pub(super) fn end(mut self, count: u64, sum: impl Fn(&mut bytes::BytesMut)) {
        self.bucket(count, |out| out.put_slice(b"+Inf"));
        self.part("_sum", sum);
        self.part("_count", |out| put_integer(out, count));
    }

    fn part(&mut self, part: &str, value: impl Fn(&mut bytes::BytesMut)) {
        let Encoder {
            out,
            head,
            labels,
            series,
            ..
        } = &mut *self.encoder;
        head.clear();
        self.names.put_sample(head, part);
        if !labels.is_empty() {
            head.push(b'{');
            head.extend_from_slice(labels);
            head.push(b'}');
        }
        head.push(b' ');
        out.put_slice(head);
        value(out);
        out.put_u8(b'\n');
        *series += 1;
    }
}
