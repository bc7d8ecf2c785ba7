//! The JSON API: what may be asked, what is answered, and why something is not (docs/api.md).

mod window;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::history::{Quantity, Stretch};
pub use window::{Now, Window, moment};

/// What is asked of the history.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// End of the window: Unix seconds, RFC 3339, or an age such as `-5m`. Now unless given.
    pub at: Option<String>,
    /// Its length, such as `60s`.
    pub window: Option<String>,
    /// Labels of the containers to choose.
    pub labels: Vec<(String, String)>,
    /// Choose the container that lost most.
    pub worst: bool,
}

impl Request {
    /// Takes a query's parameters apart: whatever is no parameter of the API is a label.
    ///
    /// # Errors
    /// When one is given twice, or makes no sense.
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

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: Kind,
    /// What was asked, what was expected, and what to do.
    pub error: String,
}

/// Kinds of reason for no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The request makes no sense: status 400.
    Bad,
    /// There is no such container, or no record of that time: status 404.
    Missing,
    /// Something that is needed does not answer in time, and may later: status 503.
    Late,
    /// The agent failed where it should not: status 500.
    Failed,
}

impl Refusal {
    /// A request that makes no sense.
    #[must_use]
    pub fn bad(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Bad,
            error: error.into(),
        }
    }

    /// Something that is not there.
    #[must_use]
    pub fn missing(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Missing,
            error: error.into(),
        }
    }

    /// Something that does not answer in time.
    #[must_use]
    pub fn late(error: impl Into<String>) -> Self {
        Self {
            kind: Kind::Late,
            error: error.into(),
        }
    }

    /// A failure of the agent itself.
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

/// How labels are called in sentences and tables: `namespace/pod container`, else the cgroup, else all values.
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
    /// Its length in seconds.
    pub window_seconds: f64,
    /// How much of it is recorded, in seconds.
    pub recorded_seconds: f64,
    /// How much is recorded in all, in seconds.
    pub history_seconds: f64,
    /// Those that lost time or took CPU time, those that lost most first.
    pub containers: Vec<Container>,
    /// The memory daemons that ran.
    pub daemons: Vec<DaemonTime>,
    /// What this host does not let the agent measure.
    pub not_measured: Vec<NotMeasured>,
    /// What the agent took.
    pub agent: Cost,
}

/// What a container did in a window.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Container {
    /// Its labels.
    pub labels: Labels,
    /// Whether it is there still.
    pub live: bool,
    /// Time on CPUs.
    pub cpu_seconds: f64,
    /// Time lost; the sum of `causes`.
    pub lost_seconds: f64,
    /// Time lost by cause, less the causes without.
    pub causes: BTreeMap<String, f64>,
    /// Time on CPUs by NUMA node; `(other)` for CPUs whose node is not known.
    pub cpu_by_node: BTreeMap<String, f64>,
    /// Memory by NUMA node at this moment, in bytes; absent where the kernel does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_by_node: Option<BTreeMap<String, u64>>,
    /// Moves of its tasks to another CPU; absent where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations: Option<u64>,
    /// Those of them to another NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migrations_between_nodes: Option<u64>,
    /// Page faults that placed or mapped a page; absent where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Those of them whose page was on another node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_faults: Option<u64>,
    /// Threads at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// CPUs' worth of quota at this moment; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
}

/// What a memory daemon took.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DaemonTime {
    /// kswapd, kcompactd or khugepaged.
    pub daemon: String,
    /// Its NUMA node; empty for the one of the host.
    pub node: String,
    /// Time on CPUs.
    pub cpu_seconds: f64,
}

/// Something that cannot be measured here.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NotMeasured {
    /// The probe, and its hook.
    pub what: String,
    /// Why not.
    pub reason: String,
}

/// What the agent itself takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Cost {
    /// Time on CPUs of its process in the window; what its programs take in the kernel is not in it.
    pub cpu_seconds: f64,
    /// Resident memory of its process.
    pub resident_bytes: u64,
    /// Kernel memory of its maps.
    pub map_bytes: u64,
    /// Memory of the history, a part of the resident memory.
    pub history_bytes: u64,
}

/// Answer of `/api/v1/timeline`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Timeline {
    /// The labels that were chosen.
    pub labels: Labels,
    /// How many containers have them.
    pub containers: usize,
    /// Where the first step begins, in Unix seconds.
    pub start: f64,
    /// Length of a step in seconds.
    pub step_seconds: f64,
    /// Number of steps.
    pub steps: usize,
    /// Seconds lost in each step, by cause; none where nothing is recorded.
    pub causes: BTreeMap<String, Vec<Option<f64>>>,
    /// Time on CPUs in each step; none where nothing is recorded.
    pub cpu_seconds: Vec<Option<f64>>,
    /// Steps that the agent did not see one by one, each none above: of them only the sum is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// Some seconds while which the agent did not look, because it was stopped or got no CPU.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Gap {
    /// Where they begin, in Unix seconds.
    pub start: f64,
    /// How many they are.
    pub seconds: u32,
    /// Seconds lost in them, by cause.
    pub causes: BTreeMap<String, f64>,
    /// Time on CPUs in them.
    pub cpu_seconds: f64,
}

impl Gap {
    /// One in which nothing happened.
    #[must_use]
    pub fn new(start: f64, stretch: Stretch) -> Self {
        Self {
            start,
            seconds: stretch.last - stretch.first + 1,
            causes: BTreeMap::new(),
            cpu_seconds: 0.0,
        }
    }

    /// Adds so many seconds of something; what is neither time lost nor time on CPUs is left out.
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
