//! Facts that no file states: the agent learns them by a trial on the running host, or from an
//! agent that runs there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::root::Root;
use crate::host::btf::{Btf, KERNEL_BTF};

/// Reason in a hook's status if the kernel has no trampolines.
const REFUSED: &str = "this kernel refuses BPF trampolines";

/// File of a report that holds the live facts.
pub const FILE: &str = "/live.json";

/// Live facts of a host. A fact is absent if nobody tried or reported it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Live {
    /// Outcome of attaching a program to a kernel function through a trampoline (fentry).
    #[serde(default)]
    pub trampolines: Option<Trampolines>,
    /// True if programs can be attached to cgroups, by the kernel's own type information.
    #[serde(default)]
    pub cgroup_bpf: Option<bool>,
    /// Page faults that the agent counted, by cgroup.
    #[serde(default)]
    pub faults: Vec<Faults>,
}

/// Outcome of attaching a program through a trampoline.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Trampolines {
    /// True if it attached.
    pub work: bool,
    /// The hook that attached, or the kernel's answer.
    pub detail: String,
}

/// Page faults of a cgroup that placed new memory, since the agent started.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Faults {
    /// Path of the cgroup, or another name that the agent gives its owner.
    pub cgroup: String,
    /// Faults that placed memory on the node of the CPU.
    pub local: u64,
    /// Faults that placed memory on another node.
    pub remote: u64,
}

impl Live {
    /// Reads the live facts of a report's tree.
    #[must_use]
    pub fn of_report(root: &Root) -> Self {
        if !root.exists(FILE) {
            return Self::default();
        }
        let Ok(text) = root.text(FILE) else {
            return Self::default();
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            root.reject(FILE, &format!("it is not what --report writes: {error}"));
            Self::default()
        })
    }

    /// Adds the facts that the running kernel's type information states, if the kernel has any.
    pub fn learn_types(&mut self) {
        // The kernel calls this function wherever a cgroup's programs run. Without
        // CONFIG_CGROUP_BPF nothing has this name.
        const RUNS: &[u8] = b"\0__cgroup_bpf_run_filter_skb\0";
        let types = Btf::read(Path::new(KERNEL_BTF)).ok();
        let has = |types: Btf| memchr::memmem::find(types.as_bytes(), RUNS).is_some();
        self.cgroup_bpf = types.map(has);
    }

    /// Adds the facts that an agent's status states of its hooks (`/api/v1/status`).
    pub fn learn_status(&mut self, status: &serde_json::Value) {
        let probes = status["probes"].as_array().into_iter().flatten();
        let hooks = probes.flat_map(|probe| probe["hooks"].as_array().into_iter().flatten());
        let by = hooks.filter_map(|hook| hook["by"].as_array());
        let by: Vec<&str> = by.flatten().filter_map(serde_json::Value::as_str).collect();
        let find = |kind: &str| by.iter().find(|name| name.starts_with(kind));
        self.trampolines = match (find("fentry/"), find("kprobe/")) {
            (Some(hook), _) => Some(Trampolines {
                work: true,
                detail: format!("attached {hook}"),
            }),
            (None, Some(hook)) => Some(Trampolines {
                work: false,
                detail: format!("no fentry program attaches; {hook} does instead"),
            }),
            (None, None) => status.to_string().contains(REFUSED).then(|| Trampolines {
                work: false,
                detail: REFUSED.to_owned(),
            }),
        };
    }

    /// Adds the faults that a scrape of an agent reports.
    pub fn learn_metrics(&mut self, text: &str) {
        const FAMILY: &str = "stallscope_first_touch_faults_total{";
        let mut faults: Vec<Faults> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix(FAMILY)) {
            let (Some(cgroup), Some(locality)) = (label(line, "cgroup"), label(line, "locality"))
            else {
                continue;
            };
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            let count = count.unwrap_or(0);
            let known = faults.iter().position(|each| each.cgroup == cgroup);
            let index = known.unwrap_or_else(|| {
                faults.push(Faults {
                    cgroup: cgroup.to_owned(),
                    local: 0,
                    remote: 0,
                });
                faults.len() - 1
            });
            match locality {
                "local" => faults[index].local = faults[index].local.saturating_add(count),
                "remote" => faults[index].remote = faults[index].remote.saturating_add(count),
                _ => {}
            }
        }
        self.faults = faults;
    }
}

fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_words_are_understood() {
        let mut live = Live::default();
        live.learn_status(&serde_json::json!({"probes": [{"hooks": [
            {"by": ["tp_btf/sched_switch"]}, {"by": ["kprobe/x"]}]}]}));
        assert!(!live.trampolines.as_ref().unwrap().work);
        live.learn_metrics(
            "# TYPE x\nstallscope_first_touch_faults_total{namespace=\"\",cgroup=\"/a\",locality=\"local\"} 3\n\
             stallscope_first_touch_faults_total{namespace=\"\",cgroup=\"/a\",locality=\"remote\"} 9\n",
        );
        let expected = Faults {
            cgroup: "/a".into(),
            local: 3,
            remote: 9,
        };
        assert_eq!(live.faults, [expected]);
        // The text comes from whatever answers at that address.
        let most = format!(
            "stallscope_first_touch_faults_total{{cgroup=\"/a\",locality=\"local\"}} {}\n",
            u64::MAX
        );
        live.learn_metrics(&most.repeat(2));
        assert_eq!(live.faults[0].local, u64::MAX);
    }
}
