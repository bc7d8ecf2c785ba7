//! What a metric is: the definition from which the exposition and the reference page are made.

/// One metric family, defined once, beside the code that reads its values.
#[derive(Debug)]
pub struct Metric {
    /// Full name with the `stallscope_` prefix and base unit; counters end in `_total`.
    pub name: &'static str,
    /// How the value behaves over time.
    pub kind: Kind,
    /// One sentence for `# HELP` and the reference page.
    pub help: &'static str,
    /// Label names of this family besides those that say whose value it is, in the order its samples give values.
    pub labels: &'static [&'static str],
    /// Whether each series also carries the owner's labels `namespace, pod, container, cgroup`.
    pub scope: Scope,
    /// Where the value comes from: a kernel function, tracepoint, file or system call.
    pub source: &'static str,
}

/// The kinds of metric that both exposition formats know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows; falls only when the agent restarts.
    Counter,
    /// A value of the moment.
    Gauge,
    /// Cumulative buckets with sum and count; bounds in seconds.
    Histogram,
    /// The constant 1, whose labels are the information; the name ends in `_info`.
    Info,
}

/// Whose value a series is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The whole host, or the agent itself.
    Host,
    /// A container, service or cgroup.
    Owner,
}

/// A sample's value, kept in the unit it was counted in so that nothing is rounded before it is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// Nanoseconds, printed as seconds with all nine decimals that matter.
    Nanoseconds(u64),
    /// Anything else.
    Float(f64),
}
