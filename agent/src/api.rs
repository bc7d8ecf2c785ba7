//! The JSON API: requests, answers, and reasons for refusals (docs/api.md).

mod window;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::ledger::history::{Quantity, Stretch};
#[doc(hidden)]
pub use window::fuzz;
pub use window::{Now, Window, moment};

/// A request for a part of the history.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// End of the window: Unix seconds, RFC 3339, or an age such as `-5m`. The default is the present.
    pub at: Option<String>,
    /// Length of the window, such as `60s`.
    pub window: Option<String>,
    /// Labels that the chosen containers have.
    pub labels: Vec<(String, String)>,
    /// True to choose the container that lost most.
    pub worst: bool,
}

impl Request {
    /// Parses a query's parameters: one that is no parameter of the API is a label.
    ///
    /// # Errors
    /// When a parameter is given twice, or makes no sense.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Refusal> {
        let mut request = Self::default();
        for (name, value) in pairs {
            let twice = || Refusal::bad(format!("`{name}` is given twice: give it once"));
            match name.as_str() {
                "at" if request.at.is_some() => return Err(twice()),
                "window" if request.window.is_some() => return Err(twice()),
                "at" => request.at = Some(value),
                "window" => request.window = Some(value),
                "worst" => request.worst = flag(&name, &value)?,
                _ if request.labels.iter().any(|(known, _)| *known == name) => {
                    return Err(twice());
                }
                _ => request.labels.push((name, value)),
            }
        }
        Ok(request)
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Refusal::bad(format!("`{name}={value}`: expected 1 or 0"))),
    }
}

/// Reason why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Kind of the reason.
    pub kind: Kind,
    /// Message: the request, the expectation, and the remedy.
    pub error: String,
}

/// Kinds of reasons for a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The request makes no sense: status 400.
    Bad,
    /// The container does not exist, or the time is not recorded: status 404.
    Missing,
    /// A source does not answer in time, and may later: status 503.
    Late,
    /// The agent itself failed: status 500.
    Failed,
}

impl Refusal {
    /// Refuses a request that makes no sense.
    #[must_use]
    pub fn bad(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Bad,
            error: error.into(),
        }
    }

    /// Refuses a request for something that does not exist.
    #[must_use]
    pub fn missing(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Missing,
            error: error.into(),
        }
    }

    /// Refuses a request because a source does not answer in time.
    #[must_use]
    pub fn late(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Late,
            error: error.into(),
        }
    }

    /// Reports a failure of the agent itself.
    #[must_use]
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            error: error.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Refusal {}

/// Label names with their values.
pub type Labels = BTreeMap<String, String>;

/// Returns a name for sentences and tables: `namespace/pod container`, else the cgroup, else all values.
#[must_use]
pub fn name(labels: &Labels) -> String {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let pod = label("pod");
    let name = if pod.is_empty() {
        label("cgroup").to_owned()
    } else {
        format!("{}/{pod} {}", label("namespace"), label("container"))
    };
    if !name.is_empty() {
        return name.trim_end().to_owned();
    }
    let values = labels.values().filter(|value| !value.is_empty());
    values.map(String::as_str).collect::<Vec<_>>().join("/")
}

/// Answer of `/api/v1/top`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Top {
    /// End of the window, in Unix seconds.
    pub time: f64,
    /// Length of the window, in seconds.
    pub window_seconds: f64,
    /// Recorded part of the window, in seconds.
    pub recorded_seconds: f64,
    /// Length of the whole record, in seconds.
    pub history_seconds: f64,
    /// Containers that lost time or took CPU time, in descending order of time lost.
    pub containers: Vec<Container>,
    /// The memory daemons that ran.
    pub daemons: Vec<DaemonTime>,
    /// Probes that do not work on this host.
    pub not_measured: Vec<NotMeasured>,
    /// The agent's own overhead.
    pub agent: Cost,
}

/// A container's figures in a window.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Container {
    /// Its labels.
    pub labels: Labels,
    /// True if the container still exists.
    pub live: bool,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Time lost, in seconds; the sum of `causes`.
    pub lost_seconds: f64,
    /// Time lost by cause, in seconds; causes without any are left out.
    pub causes: BTreeMap<String, f64>,
    /// CPU time by NUMA node, in seconds; `(other)` for CPUs whose node is not known.
    pub cpu_by_node: BTreeMap<String, f64>,
    /// Memory by NUMA node at this moment, in bytes; absent where the kernel does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_by_node: Option<BTreeMap<String, u64>>,
    /// Migrations of its tasks to another CPU; absent where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u64>,
    /// Migrations to another NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations_between_nodes: Option<u64>,
    /// Page faults that placed or mapped a page; absent where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Page faults whose page was on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_faults: Option<u64>,
    /// Number of threads at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// CPU quota at this moment, in CPUs; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
}

/// CPU time of a memory daemon.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DaemonTime {
    /// The daemon: kswapd, kcompactd or khugepaged.
    pub daemon: String,
    /// Its NUMA node; empty for the one of the host.
    pub node: String,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
}

/// A probe that does not work on this host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NotMeasured {
    /// The probe, and its hook.
    pub what: String,
    /// Reason why it does not work.
    pub reason: String,
}

/// The agent's own overhead.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Cost {
    /// CPU time of its process in the window, in seconds; time of its programs in the kernel is not included.
    pub cpu_seconds: f64,
    /// Resident memory of its process, in bytes.
    pub resident_bytes: u64,
    /// Kernel memory of its maps, in bytes.
    pub map_bytes: u64,
    /// Memory of the history, in bytes; part of the resident memory.
    pub history_bytes: u64,
}

/// Answer of `/api/v1/timeline`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Timeline {
    /// The labels that were chosen.
    pub labels: Labels,
    /// Number of containers that have them.
    pub containers: usize,
    /// Start of the first step, in Unix seconds.
    pub start: f64,
    /// Length of a step in seconds.
    pub step_seconds: f64,
    /// Number of steps.
    pub steps: usize,
    /// Seconds lost in each step, by cause; none where nothing is recorded.
    pub causes: BTreeMap<String, Vec<Option<f64>>>,
    /// CPU time in each step, in seconds; none where nothing is recorded.
    pub cpu_seconds: Vec<Option<f64>>,
    /// Gaps: ranges of steps that the agent did not see one by one. Their steps are none above; only the sums are
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// Seconds in which the agent did not run, because it was stopped or got no CPU.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Gap {
    /// Start of the gap, in Unix seconds.
    pub start: f64,
    /// Length of the gap, in seconds.
    pub seconds: u32,
    /// Time lost in the gap by cause, in seconds.
    pub causes: BTreeMap<String, f64>,
    /// CPU time in the gap, in seconds.
    pub cpu_seconds: f64,
}

impl Gap {
    /// Makes a gap without any time lost or CPU time.
    #[must_use]
    pub fn new(start: f64, stretch: Stretch) -> Self {
        Self {
            start,
            seconds: stretch.last - stretch.first + 1,
            causes: BTreeMap::new(),
            cpu_seconds: 0.0,
        }
    }

    /// Adds seconds of a quantity; quantities other than time lost and CPU time are ignored.
    pub fn add(&mut self, quantity: Quantity, seconds: f64) {
        match (quantity, quantity.cause()) {
            (Quantity::Cpu(_), _) => self.cpu_seconds += seconds,
            (_, Some(cause)) => *self.causes.entry(cause.to_owned()).or_default() += seconds,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Request, Refusal> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Request::parse(pairs.iter().map(owned))
    }

    #[test]
    fn what_is_no_parameter_is_a_label() {
        let request = parse(&[
            ("at", "-5m"),
            ("pod", "a"),
            ("window", "1m"),
            ("worst", "1"),
        ]);
        let expected = Request {
            at: Some("-5m".to_owned()),
            window: Some("1m".to_owned()),
            labels: vec![("pod".to_owned(), "a".to_owned())],
            worst: true,
        };
        assert_eq!(request, Ok(expected));
    }

    #[test]
    fn twice_or_senseless_is_refused_by_name() {
        for (pairs, named) in [
            (&[("at", "1"), ("at", "2")][..], "`at` is given twice"),
            (&[("pod", "a"), ("pod", "b")], "`pod` is given twice"),
            (&[("worst", "very")], "`worst=very`: expected 1 or 0"),
        ] {
            let refusal = parse(pairs).expect_err("refused");
            assert_eq!(refusal.kind, Kind::Bad);
            assert!(refusal.error.contains(named), "{refusal}");
        }
    }

    #[test]
    fn containers_are_called_by_their_pod_or_cgroup() {
        let labels = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            name(&owned.collect())
        };
        let pod = [
            ("namespace", "shop"),
            ("pod", "cart-0"),
            ("cgroup", "/kubepods/x"),
        ];
        assert_eq!(labels(&pod), "shop/cart-0");
        let container = [
            ("namespace", "shop"),
            ("pod", "cart-0"),
            ("container", "server"),
        ];
        assert_eq!(labels(&container), "shop/cart-0 server");
        let plain = [
            ("namespace", ""),
            ("pod", ""),
            ("cgroup", "/system.slice/a.service"),
        ];
        assert_eq!(labels(&plain), "/system.slice/a.service");
        assert_eq!(labels(&[("workload", "cart"), ("uid", "")]), "cart");
    }
}
