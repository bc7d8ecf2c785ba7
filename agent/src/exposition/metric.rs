//! Metric definitions, from which the agent makes the exposition and the reference page.

/// Definition of one metric family, next to the code that reads its values.
#[derive(Debug)]
pub struct Metric {
    /// Full name with the `stallscope_` prefix and base unit; counters end in `_total`.
    pub name: &'static str,
    /// Kind of the metric.
    pub kind: Kind,
    /// One sentence for `# HELP` and the reference page.
    pub help: &'static str,
    /// Label names of this family in addition to the owner's, in the order in which samples give their values.
    pub labels: &'static [&'static str],
    /// Scope of the values: with [`Scope::Owner`], each series also has the labels `namespace, pod, container, cgroup`.
    pub scope: Scope,
    /// Source of the value: a kernel function, tracepoint, file or system call.
    pub source: &'static str,
}

/// The kinds of metrics that both exposition formats have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A value that only increases, except that it restarts at 0 with the agent.
    Counter,
    /// A current value.
    Gauge,
    /// Cumulative buckets with sum and count; bounds in seconds.
    Histogram,
    /// The constant 1, whose labels are the information; the name ends in `_info`.
    Info,
}

/// Scope of a series' value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The whole host, or the agent itself.
    Host,
    /// A container, service or cgroup.
    Owner,
}

/// Value of a sample, in the unit in which it was counted, so that nothing is rounded before it is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// Nanoseconds, printed as seconds with up to nine decimals.
    Nanoseconds(u64),
    /// Any other number.
    Float(f64),
}
