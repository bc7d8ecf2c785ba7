//! The agent's own metrics: they count the agent's own events, and so are in a `prometheus::Registry`.

use std::borrow::Cow;

use bytes::BufMut;
use prometheus::proto::{Histogram as Observed, MetricFamily, MetricType};

use super::Encoder;
use super::family::Histogram;
use super::labels::put_label;
use super::name::Names;
use super::number::{put_bound, put_float};
use crate::exposition::metric::{Kind, Metric};

/// Converts a definition to the options of the `prometheus` crate.
#[must_use]
pub fn opts(metric: &Metric) -> prometheus::Opts {
    prometheus::Opts::new(metric.name, metric.help)
}

impl Encoder {
    /// Writes all metrics of a registry. Kinds that a definition cannot have (summaries) are left out.
    pub fn registry(&mut self, registry: &prometheus::Registry) {
        for family in registry.gather() {
            self.registry_family(&family);
        }
    }

    fn registry_family(&mut self, family: &MetricFamily) {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => Kind::Counter,
            MetricType::GAUGE if name.ends_with("_info") => Kind::Info,
            MetricType::GAUGE => Kind::Gauge,
            MetricType::HISTOGRAM => Kind::Histogram,
            MetricType::SUMMARY | MetricType::UNTYPED => return,
        };
        if family.get_metric().is_empty() || !self.open(Cow::Owned(name.to_owned()), kind) {
            return;
        }
        let names = Names::new(name, kind, self.format);
        self.metadata(&names, kind, family.help());
        for metric in family.get_metric() {
            self.labels.clear();
            for label in metric.get_label() {
                put_label(&mut self.labels, label.name(), label.value());
            }
            match kind {
                Kind::Counter => self.registry_sample(&names, metric.get_counter().get_value()),
                Kind::Gauge | Kind::Info => {
                    self.registry_sample(&names, metric.get_gauge().get_value());
                }
                Kind::Histogram => self.registry_histogram(&names, metric.get_histogram()),
            }
        }
    }

    fn registry_histogram(&mut self, names: &Names<'_>, observed: &Observed) {
        let mut histogram = Histogram::new(self, names);
        // The crate leaves +Inf out unless it was named as a bound.
        for bucket in observed
            .get_bucket()
            .iter()
            .filter(|bucket| bucket.upper_bound().is_finite())
        {
            histogram.bucket(bucket.cumulative_count(), |out| {
                put_bound(out, bucket.upper_bound());
            });
        }
        histogram.end(observed.get_sample_count(), |out| {
            put_float(out, observed.get_sample_sum());
        });
    }

    fn registry_sample(&mut self, names: &Names<'_>, value: f64) {
        self.head.clear();
        names.put_sample(&mut self.head, "");
        self.out.put_slice(&self.head);
        if !self.labels.is_empty() {
            self.out.put_u8(b'{');
            self.out.put_slice(&self.labels);
            self.out.put_u8(b'}');
        }
        self.out.put_u8(b' ');
        put_float(&mut self.out, value);
        self.out.put_u8(b'\n');
        self.series += 1;
    }
}
