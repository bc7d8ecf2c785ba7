//! Dashboards: Grafana can import them anywhere, they query series that exist, and they say how to read them.

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
