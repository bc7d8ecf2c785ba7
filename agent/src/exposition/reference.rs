//! The reference page of metrics, generated from the definitions so that it cannot drift from them.

use std::fmt::Write as _;

use super::OwnerLabels;
use super::name;
use crate::exposition::metric::{Kind, Metric, Scope};

/// Formats the definitions as the markdown page `docs/metrics.md`, sorted by name.
#[must_use]
pub fn reference(metrics: &[&Metric]) -> String {
    let mut metrics = metrics.to_vec();
    metrics.sort_by_key(|metric| metric.name);

    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Made from the definitions in the code, and compared with them by a test. Do not edit. -->\n\n\
         A metric that this kernel or machine cannot provide is absent, not zero.\n\
         The labels `namespace`, `pod` and `container` are empty for what does not run under Kubernetes; what is in a\n\
         pod, but in no container that has a name, has an empty `container`. `cgroup` is the path of the pod's cgroup,\n\
         outside of pods that of the container's, service's or cgroup itself. Three sums have a name in parentheses\n\
         there: `(other)`, what has no series of its own because of a limit; `(unresolved)`, pods that no source has\n\
         named; `(removed)`, what has ended. `--labels` puts other labels in the place of these four.\n",
    );
    for metric in metrics {
        let owner: &[&str] = if metric.scope == Scope::Owner {
            &OwnerLabels::NAMES
        } else {
            &[]
        };
        let labels: Vec<_> = owner
            .iter()
            .chain(metric.labels)
            .map(|label| format!("`{label}`"))
            .collect();
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info (a gauge that is always 1)",
        };
        let unit =
            name::unit(name::base(metric.name, metric.kind)).map(|unit| format!(", in {unit}"));
        let labels = if labels.is_empty() {
            "none".to_owned()
        } else {
            labels.join(", ")
        };
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## `{}`\n\n{}\n\n- Type: {kind}{}\n- Labels: {labels}\n- Source: {}\n",
            metric.name,
            metric.help,
            unit.as_deref().unwrap_or_default(),
            metric.source,
        );
    }
    page
}
