//! The node's cgroups as files: which version, which controllers, quotas, threads, memory by node.

use std::collections::BTreeMap;

use super::root::{Root, Unread};
use crate::{
    cgroup::{CgroupPath, Mode},
    pods::PodIdentity,
    topology::{CpuList, MAX_CPU, MAX_NODE},
};

/// Where cgroups are mounted, which the kubelet takes for granted too.
const MOUNT: &str = "/sys/fs/cgroup";
/// Cgroups that are looked at, at most, and levels of them.
const MOST: usize = 20_000;
const DEEPEST: usize = 24;

/// The cgroups of a node.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Which versions are in use.
    pub mode: Mode,
    /// The directory of each controller's hierarchy; the same for all on v2.
    hierarchies: BTreeMap<&'static str, String>,
    /// Every cgroup but the root, from the hierarchy of the cpu controller.
    pub all: Vec<Group>,
}

/// One cgroup.
#[derive(Clone, Debug)]
pub struct Group {
    /// From the mount, with a slash in front.
    pub path: String,
    /// Whether no cgroup is below it.
    pub leaf: bool,
    /// The pod it belongs to, and the container in it.
    pub pod: Option<PodIdentity>,
}

/// A CPU quota, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// CPU time in each period.
    pub quota: u64,
    /// The period.
    pub period: u64,
}

impl Quota {
    /// How many CPUs that is.
    #[must_use]
    pub fn cpus(self) -> f64 {
        self.quota as f64 / self.period.max(1) as f64
    }
}

impl Groups {
    /// Finds the hierarchies and lists the cgroups.
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn read(root: &Root) -> Result<Self, Unread> {
        let mut groups = Self::find(root)?;
        groups.walk(root);
        Ok(groups)
    }

    /// Finds the hierarchies, and lists no cgroup: for who knows which to ask about.
    ///
    /// # Errors
    /// When nothing is mounted there.
    pub fn find(root: &Root) -> Result<Self, Unread> {
        let mut hierarchies = BTreeMap::new();
        let unified = |dir: &str| root.exists(&format!("{dir}/cgroup.controllers"));
        let mode = if unified(MOUNT) {
            for controller in CONTROLLERS {
                hierarchies.insert(controller, MOUNT.to_owned());
            }
            Mode::V2
        } else {
            for controller in CONTROLLERS {
                let dir = folder_of(root, controller);
                hierarchies.extend(dir.map(|dir| (controller, dir)));
            }
            if unified(&format!("{MOUNT}/unified")) {
                Mode::Hybrid
            } else {
                Mode::V1
            }
        };
        if hierarchies.is_empty() {
            root.names(MOUNT)?;
            return Err(root.reject(
                MOUNT,
                "it is no cgroup hierarchy: cgroup.controllers (v2) or a directory for the cpu controller (v1) was expected",
            ));
        }
        Ok(Self {
            mode,
            hierarchies,
            all: Vec::new(),
        })
    }

    fn walk(&mut self, root: &Root) {
        let Some(base) = self
            .hierarchies
            .get("cpu")
            .or(self.hierarchies.values().next())
        else {
            return;
        };
        let base = base.clone();
        let mut pending = vec![(String::new(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let below = root.folders(&format!("{base}{path}")).unwrap_or_default();
            if !path.is_empty() {
                self.all.push(Group {
                    pod: PodIdentity::parse(&CgroupPath::new(path.as_bytes())),
                    leaf: below.is_empty(),
                    path: path.clone(),
                });
            }
            if depth < DEEPEST && self.all.len() + pending.len() < MOST {
                pending.extend(
                    below
                        .iter()
                        .map(|name| (format!("{path}/{name}"), depth + 1)),
                );
            }
        }
        self.all.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// A cgroup's file of a controller; none where that controller has no hierarchy.
    #[must_use]
    pub fn file(&self, controller: &str, path: &str, name: &str) -> Option<String> {
        let base = self.hierarchies.get(controller)?;
        Some(format!("{base}{path}/{name}"))
    }

    /// Whether every controller is on the one hierarchy of v2.
    #[must_use]
    pub fn unified(&self) -> bool {
        self.mode == Mode::V2
    }

    /// Whether a controller has a hierarchy at all.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.hierarchies.contains_key(controller)
    }

    /// The file that holds a cgroup's quota.
    #[must_use]
    pub fn quota_file(&self, path: &str) -> Option<String> {
        let name = if self.unified() {
            "cpu.max"
        } else {
            "cpu.cfs_quota_us"
        };
        self.file("cpu", path, name)
    }

    /// The quota; none where there is no limit, or where it cannot be read.
    #[must_use]
    pub fn quota(&self, root: &Root, path: &str) -> Option<Quota> {
        let file = self.quota_file(path)?;
        if self.unified() {
            let text = root.text(&file).ok()?;
            let (quota, period) = text.split_once(' ')?;
            if quota == "max" {
                return None;
            }
            let parsed = quota.parse().ok().zip(period.trim().parse().ok());
            let Some((quota, period)) = parsed else {
                root.reject(&file, "`QUOTA PERIOD` in microseconds was expected");
                return None;
            };
            return Some(Quota { quota, period });
        }
        let quota: i64 = root.number(&file).ok()?;
        let quota = u64::try_from(quota).ok()?;
        let period = root
            .number(&self.file("cpu", path, "cpu.cfs_period_us")?)
            .ok()?;
        Some(Quota { quota, period })
    }

    /// Threads in a cgroup and those below it, and the file that says so. Of the root only those in itself: to count
    /// all would take a walk through every cgroup, and they are of others.
    #[must_use]
    pub fn threads(&self, root: &Root, path: &str) -> Option<(u64, String)> {
        if let Some(file) = self.file("pids", path, "pids.current")
            && root.exists(&file)
        {
            return Some((root.number(&file).ok()?, file));
        }
        let name = if self.unified() {
            "cgroup.threads"
        } else {
            "tasks"
        };
        let mut threads = 0;
        let mut pending = vec![(path.to_owned(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let text = root.text_or_empty(&self.file("cpu", &path, name)?);
            threads += text.map_or(0, |text| text.lines().count() as u64);
            if path.trim_matches('/').is_empty() {
                break;
            }
            let below = root.folders(&self.file("cpu", &path, "")?);
            if depth < DEEPEST && pending.len() < MOST {
                let below = below.unwrap_or_default().into_iter();
                pending.extend(below.map(|name| (format!("{path}/{name}"), depth + 1)));
            }
        }
        Some((threads, self.file("cpu", path, name)?))
    }

    /// Periods with a quota in force, and those in which it ran out (`cpu.stat`).
    #[must_use]
    pub fn throttled(&self, root: &Root, path: &str) -> Option<(u64, u64)> {
        let file = self.file("cpu", path, "cpu.stat")?;
        let text = root.text(&file).ok()?;
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.trim().parse().ok())
        };
        Some((number("nr_periods")?, number("nr_throttled")?))
    }

    /// CPUs it may use, by its cpuset; none without one.
    #[must_use]
    pub fn cpus(&self, root: &Root, path: &str) -> Option<CpuList> {
        self.set(
            root,
            path,
            ["cpuset.cpus.effective", "cpuset.effective_cpus"],
            MAX_CPU,
        )
    }

    /// Nodes whose memory it may use, by its cpuset; none without one.
    #[must_use]
    pub fn mems(&self, root: &Root, path: &str) -> Option<CpuList> {
        self.set(
            root,
            path,
            ["cpuset.mems.effective", "cpuset.effective_mems"],
            MAX_NODE,
        )
    }

    fn set(&self, root: &Root, path: &str, names: [&str; 2], max: u32) -> Option<CpuList> {
        let name = names[usize::from(!self.unified())];
        let file = self.file("cpuset", path, name)?;
        root.exists(&file).then(|| root.cpus(&file, max).ok())?
    }

    /// Bytes of anonymous memory by node (`memory.numa_stat`), and the file.
    #[must_use]
    pub fn anonymous(
        &self,
        root: &Root,
        path: &str,
        page: u64,
    ) -> Option<(BTreeMap<u32, u64>, String)> {
        let file = self.file("memory", path, "memory.numa_stat")?;
        if !root.exists(&file) {
            return None;
        }
        let text = root.text(&file).ok()?;
        let line = text.lines().find_map(|line| {
            let rest = line
                .strip_prefix("hierarchical_anon")
                .or_else(|| line.strip_prefix("anon"))?;
            rest.starts_with([' ', '=']).then_some(rest)
        })?;
        // v1 counts pages, v2 bytes.
        let unit = if self.unified() { 1 } else { page };
        let by_node = line.split_ascii_whitespace().filter_map(|word| {
            let (node, count) = word.strip_prefix('N')?.split_once('=')?;
            Some((
                node.parse().ok()?,
                count.parse::<u64>().ok()?.checked_mul(unit)?,
            ))
        });
        Some((by_node.collect(), file))
    }
}

const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// v1 mounts a controller alone or with another, in a directory named after both.
fn folder_of(root: &Root, controller: &str) -> Option<String> {
    let names: &[&str] = match controller {
        "cpu" => &["cpu", "cpu,cpuacct", "cpuacct,cpu"],
        "cpuset" => &["cpuset"],
        "memory" => &["memory"],
        _ => &["pids"],
    };
    let mut dirs = names.iter().map(|name| format!("{MOUNT}/{name}"));
    dirs.find(|dir| root.exists(dir))
}
