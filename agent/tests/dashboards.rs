//! Dashboards are what Grafana imports anywhere, ask for what exists, and say how they are read.

#[path = "dashboards/expression.rs"]
mod expression;
#[path = "dashboards/layout.rs"]
mod layout;
#[path = "dashboards/model.rs"]
mod model;
#[path = "dashboards/prometheus.rs"]
mod prometheus;
#[path = "dashboards/queries.rs"]
mod queries;
#[path = "dashboards/reading.rs"]
mod reading;
#[path = "dashboards/reference.rs"]
mod reference;
mod shipped;
