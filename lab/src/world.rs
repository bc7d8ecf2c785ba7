//! The machine a truth runs on, as its own kernel describes it, and the agent that is judged.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stallscope::host::cgroup::Hierarchy;

use crate::{Scrape, agent_process::Served};

/// The disk of a machine of the lab, which nobody else reads; each read comes from the page cache or fills it.
pub const DISK: &str = "/dev/vda";

/// A NUMA node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Its online CPUs.
    pub cpus: Vec<usize>,
    /// Distances to the nodes, in the order of [`World::nodes`].
    pub distances: Vec<u64>,
}

/// Facts that a truth needs.
#[derive(Debug)]
pub struct World {
    /// The agent that is judged.
    pub agent: Served,
    /// The agent's program, for truths that start one of their own.
    pub program: std::path::PathBuf,
    /// The nodes with CPUs, in the order of their numbers.
    pub nodes: Vec<Node>,
    /// `uname -r`.
    pub kernel: String,
    /// Cgroup hierarchy that the agent follows: `v1` or `v2`.
    pub cgroup: &'static str,
    /// True if this is a machine of the lab's own, where settings may be changed.
    pub guest: bool,
}

impl World {
    /// Looks at this machine.
    ///
    /// # Errors
    /// When its nodes cannot be read.
    pub fn new(agent: Served, program: &Path, guest: bool) -> Result<Self> {
        let hierarchy = Hierarchy::discover("/proc".as_ref(), None)?;
        let unified = hierarchy.mount().join("cgroup.controllers").exists();
        Ok(Self {
            agent,
            program: program.to_owned(),
            nodes: nodes(Path::new("/sys/devices/system"))?,
            kernel: kernel_release(),
            cgroup: if unified { "v2" } else { "v1" },
            guest,
        })
    }

    /// One scrape of the agent.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn scrape(&self) -> Result<Scrape> {
        self.agent.scrape()
    }

    /// Every online CPU.
    #[must_use]
    pub fn cpus(&self) -> Vec<usize> {
        self.nodes.iter().flat_map(|n| n.cpus.clone()).collect()
    }

    /// Major and minor version of the kernel.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        (next(), next())
    }

    /// Returns whether the kernel is a `PREEMPT_RT` one.
    #[must_use]
    pub fn real_time(&self) -> bool {
        fs::read_to_string("/sys/kernel/realtime").is_ok_and(|on| on.trim() == "1")
    }

    /// State of a hook in the status, with the programs that attached or the reason why none did.
    ///
    /// # Errors
    /// When there is no such hook.
    pub fn hook(&self, probe: &str, hook: &str) -> Result<(String, String)> {
        let status = self.agent.status()?;
        let list = |value: &Value, key: &str, name: &str| {
            let found = value.as_array()?.iter().find(|each| each[key] == name)?;
            Some(found.clone())
        };
        let found = list(&status["probes"], "probe", probe)
            .and_then(|probe| list(&probe["hooks"], "hook", hook))
            .with_context(|| format!("the status has no hook `{hook}` of the probe {probe}"))?;
        let text = |key: &str| match &found[key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let detail = ["by", "reason", "error"].map(text).concat();
        Ok((text("state"), detail))
    }

    /// Every hook that the status names, as `probe: hook`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn hooks(&self) -> Result<Vec<String>> {
        let status = self.agent.status()?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let of = |probe: &Value| -> Vec<String> {
            let name = probe["probe"].as_str().unwrap_or_default();
            list(&probe["hooks"])
                .iter()
                .map(|hook| format!("{name}: {}", hook["hook"].as_str().unwrap_or_default()))
                .collect()
        };
        Ok(list(&status["probes"]).iter().flat_map(of).collect())
    }
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Reads the nodes from the folder of the system's devices (sysfs).
fn nodes(devices: &Path) -> Result<Vec<Node>> {
    let folder = devices.join("node");
    if !folder.exists() {
        return Ok(vec![only_node(devices)?]);
    }
    let mut nodes = Vec::new();
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("cannot list the NUMA nodes in {}", folder.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("node").and_then(|id| id.parse().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let cpus = list(read("cpulist").trim()).with_context(|| format!("{name}/cpulist"))?;
        let distances = read("distance");
        let distances = distances.split_whitespace().filter_map(|d| d.parse().ok());
        if !cpus.is_empty() {
            nodes.push(Node {
                id,
                cpus,
                distances: distances.collect(),
            });
        }
    }
    ensure!(!nodes.is_empty(), "no NUMA node has CPUs");
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

/// The only node of a kernel without NUMA.
fn only_node(devices: &Path) -> Result<Node> {
    let online = devices.join("cpu/online");
    let cpus = fs::read_to_string(&online).with_context(|| online.display().to_string())?;
    Ok(Node {
        id: 0,
        cpus: list(cpus.trim())?,
        distances: vec![10],
    })
}

/// Parses a list such as `0-2,5` (cpuset(7), list format).
fn list(text: &str) -> Result<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.parse::<usize>()
                .with_context(|| format!("`{part}` is no range of numbers"))
        };
        all.extend(number(first)?..=number(last)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{Node, list, nodes};
    use std::fs;

    #[test]
    fn nodes_without_cpus_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (name, cpus, distance) in [
            ("node1", "2-3", "20 10 20"),
            ("node0", "0,1", "10 20 35"),
            ("node2", "", "35 20 10"),
        ] {
            let node = folder.path().join("node").join(name);
            fs::create_dir_all(&node).unwrap();
            fs::write(node.join("cpulist"), format!("{cpus}\n")).unwrap();
            fs::write(node.join("distance"), distance).unwrap();
        }
        fs::create_dir(folder.path().join("node/power")).unwrap();
        let expected = [
            Node {
                id: 0,
                cpus: vec![0, 1],
                distances: vec![10, 20, 35],
            },
            Node {
                id: 1,
                cpus: vec![2, 3],
                distances: vec![20, 10, 20],
            },
        ];
        assert_eq!(nodes(folder.path()).unwrap(), expected);
        assert!(list("1-x").is_err());
    }
    #[test]
    fn a_kernel_without_numa_has_one_node() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("cpu")).unwrap();
        fs::write(folder.path().join("cpu/online"), "0-1,3\n").unwrap();
        let found = nodes(folder.path()).unwrap();
        assert_eq!((found.len(), &found[0].cpus[..]), (1, &[0, 1, 3][..]));
    }
}
