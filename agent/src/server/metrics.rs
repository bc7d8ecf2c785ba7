//! Metrics of the server itself.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Registry};

use crate::exposition::metric::{Kind, Metric, Scope};
use crate::exposition::opts;

static REQUESTS: Metric = Metric {
    name: "stallscope_http_requests_total",
    kind: Kind::Counter,
    help: "HTTP requests answered; paths that the agent does not serve are counted as one, `other`.",
    labels: &["path", "code"],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

static REFUSED: Metric = Metric {
    name: "stallscope_http_connections_refused_total",
    kind: Kind::Counter,
    help: "Connections closed because of a request beyond the limit: of its peer, or of all.",
    labels: &["reason"],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

static EVICTED: Metric = Metric {
    name: "stallscope_http_connections_evicted_total",
    kind: Kind::Counter,
    help: "Connections closed to make room: those that waited longest for a request, or were slow to read an answer.",
    labels: &["reason"],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

static UNREAD: Metric = Metric {
    name: "stallscope_http_unread_bytes",
    kind: Kind::Gauge,
    help: "Memory of answers that clients have yet to read.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

static COLLECT: Metric = Metric {
    name: "stallscope_collect_duration_seconds",
    kind: Kind::Histogram,
    help: "Time taken to read and encode one scrape; scrapes that came meanwhile share it.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

static SIZE: Metric = Metric {
    name: "stallscope_scrape_size_bytes",
    kind: Kind::Gauge,
    help: "Size of the scrape before this one.",
    labels: &[],
    scope: Scope::Host,
    source: "the agent's HTTP server",
};

/// Definitions of the server's own metrics.
pub static METRICS: [&Metric; 6] = [&REQUESTS, &REFUSED, &EVICTED, &UNREAD, &COLLECT, &SIZE];

/// Handles to the server's own metrics; clones share their values.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) requests: IntCounterVec,
    refused: IntCounterVec,
    evicted: IntCounterVec,
    pub(super) unread: IntGauge,
    pub(super) collect: Histogram,
    pub(super) size: IntGauge,
}

impl Own {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
        ];
        let own = Self {
            requests: IntCounterVec::new(opts(&REQUESTS), REQUESTS.labels)?,
            refused: IntCounterVec::new(opts(&REFUSED), REFUSED.labels)?,
            evicted: IntCounterVec::new(opts(&EVICTED), EVICTED.labels)?,
            unread: IntGauge::with_opts(opts(&UNREAD))?,
            collect: Histogram::with_opts(HistogramOpts::from(opts(&COLLECT)).buckets(buckets))?,
            size: IntGauge::with_opts(opts(&SIZE))?,
        };
        registry.register(Box::new(own.requests.clone()))?;
        registry.register(Box::new(own.refused.clone()))?;
        registry.register(Box::new(own.evicted.clone()))?;
        registry.register(Box::new(own.unread.clone()))?;
        registry.register(Box::new(own.collect.clone()))?;
        registry.register(Box::new(own.size.clone()))?;
        // Counters exist from the start, so that the first refusal shows as an increase.
        for reason in ["peer", "all"] {
            own.refused.with_label_values(&[reason]);
        }
        for reason in ["waiting", "slow"] {
            own.evicted.with_label_values(&[reason]);
        }
        Ok(own)
    }

    /// Counts a connection closed for a request beyond the limit of its `peer`, or of `all`.
    pub(super) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Counts a connection closed because it was `waiting` or `slow`.
    pub(super) fn evicted(&self, reason: &str) {
        self.evicted.with_label_values(&[reason]).inc();
    }
}
