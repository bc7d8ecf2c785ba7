//! Cgroups of the node from their files: version, controllers, quotas, threads, memory by NUMA node.

use std::collections::BTreeMap;

use super::root::{Root, Unread};
use crate::{
    attribution::pods::PodIdentity,
    host::{
        cgroup::{CgroupPath, Mode},
        topology::{CpuList, MAX_CPU, MAX_NODE},
    },
    text::shell_command::ShellCommand,
};

/// Mount point of cgroups, which the kubelet assumes too.
const MOUNT: &str = "/sys/fs/cgroup";
/// Caps on the number of cgroups that the audit reads, and on their depth.
const MOST: usize = 20_000;
const DEEPEST: usize = 24;

/// Cgroups of a node.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Cgroup versions in use.
    pub mode: Mode,
    /// Directory of each controller's hierarchy; the same for all on v2.
    hierarchies: BTreeMap<&'static str, String>,
    /// Every cgroup but the root, from the hierarchy of the cpu controller.
    pub all: Vec<Group>,
}

/// Cgroup of the node.
#[derive(Clone, Debug)]
pub struct Group {
    /// Path from the mount, with a leading slash.
    pub path: String,
    /// True if it has no children.
    pub leaf: bool,
    /// Pod to which it belongs, and the container in it.
    pub pod: Option<PodIdentity>,
}

/// CPU quota, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// CPU time in each period, in microseconds.
    pub quota: u64,
    /// Length of a period, in microseconds.
    pub period: u64,
}

impl Quota {
    /// Returns the quota in CPUs.
    #[must_use]
    pub fn cpus(self) -> f64 {
        self.quota as f64 / self.period.max(1) as f64
    }
}

/// CPU quota with the files that hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// File of the quota.
    pub file: String,
    /// File of the burst, the unused quota that may accumulate; none before Linux 5.14.
    pub burst_file: Option<String>,
    /// CPU time in each period, in microseconds.
    pub quota_us: u64,
    /// Length of a period, in microseconds.
    pub period_us: u64,
}

impl Limit {
    /// Returns the quota in CPUs.
    #[must_use]
    pub fn cpus(&self) -> f64 {
        self.quota_us as f64 / self.period_us.max(1) as f64
    }

    /// Makes the command that sets the quota to this many CPUs and keeps the period.
    #[must_use]
    pub fn set(&self, unified: bool, cpus: f64) -> ShellCommand {
        let quota = (cpus * self.period_us as f64).round();
        if unified {
            ShellCommand::write(format!("{quota} {}", self.period_us), &self.file)
        } else {
            ShellCommand::write(quota, &self.file)
        }
    }
}

/// Makes the command that raises a cgroup's quota to `cpus`. `limits` are those from the outermost cgroup down to this
/// one. The command raises every ancestor's limit below `cpus` by the same amount. None without any limit.
///
/// It goes from the outermost inward, because on v1 no cgroup may have more than its parent (kernel/sched/core.c,
/// `tg_cfs_schedulable_down`).
#[must_use]
pub fn raise(limits: &[Limit], unified: bool, cpus: f64) -> Option<ShellCommand> {
    let more = cpus - limits.last()?.cpus();
    let set = limits
        .iter()
        .filter(|limit| limit.cpus() < cpus)
        .map(|limit| limit.set(unified, limit.cpus() + more));
    set.reduce(|first, next| first.and(&next))
}

/// Makes the command that lets a cgroup, and each ancestor whose quota would throttle it, accumulate a period's worth
/// of quota for bursts. None without any limit, or if one of them cannot burst.
#[must_use]
pub fn save_up(limits: &[Limit]) -> Option<ShellCommand> {
    let files: Option<Vec<_>> = limits
        .iter()
        .map(|limit| {
            Some(ShellCommand::write(
                limit.quota_us,
                limit.burst_file.as_ref()?,
            ))
        })
        .collect();
    files?.into_iter().reduce(|first, next| first.and(&next))
}

impl Groups {
    /// Finds the hierarchies and lists the cgroups.
    ///
    /// # Errors
    /// When the mount point has no cgroup hierarchy.
    pub fn read(root: &Root) -> Result<Self, Unread> {
        let mut groups = Self::find(root)?;
        groups.walk(root);
        Ok(groups)
    }

    /// Finds the hierarchies without listing cgroups, for callers that know which they want.
    ///
    /// # Errors
    /// When the mount point has no cgroup hierarchy.
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

    /// Returns the path of a cgroup's file in a controller's hierarchy; none if that controller has no hierarchy.
    #[must_use]
    pub fn file(&self, controller: &str, path: &str, name: &str) -> Option<String> {
        let base = self.hierarchies.get(controller)?;
        Some(format!("{base}{path}/{name}"))
    }

    /// Returns whether every controller is on the one hierarchy of v2.
    #[must_use]
    pub fn unified(&self) -> bool {
        self.mode == Mode::V2
    }

    /// Returns whether a controller has a hierarchy.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.hierarchies.contains_key(controller)
    }

    /// Returns the file that holds a cgroup's quota.
    #[must_use]
    pub fn quota_file(&self, path: &str) -> Option<String> {
        let name = if self.unified() {
            "cpu.max"
        } else {
            "cpu.cfs_quota_us"
        };
        self.file("cpu", path, name)
    }

    /// Reads a cgroup's quota; none if it has no limit, or it cannot be read.
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

    /// Reads a cgroup's quota with its files.
    #[must_use]
    pub fn limit(&self, root: &Root, path: &str) -> Option<Limit> {
        let Quota { quota, period } = self.quota(root, path)?;
        let burst = if self.unified() {
            "cpu.max.burst"
        } else {
            "cpu.cfs_burst_us"
        };
        Some(Limit {
            file: self.quota_file(path)?,
            burst_file: self
                .file("cpu", path, burst)
                .filter(|file| root.exists(file)),
            quota_us: quota,
            period_us: period,
        })
    }

    /// Reads the quotas from the outermost cgroup down to this one. Each of them throttles the cgroup when it runs out.
    #[must_use]
    pub fn limits(&self, root: &Root, path: &str) -> Vec<Limit> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
        ends.chain([path.len()])
            .filter_map(|end| self.limit(root, &path[..end]))
            .collect()
    }

    /// Returns the thread count of a cgroup and its descendants with its file; none if no file states it. Of the root
    /// it counts only its own threads: the rest belong to others, and would take a walk through every cgroup.
    #[must_use]
    pub fn threads(&self, root: &Root, path: &str) -> Option<(u64, String)> {
        if let Some(file) = self.file("pids", path, "pids.current")
            && root.exists(&file)
        {
            let threads = root.number(&file).ok()?;
            // On v1 a cgroup may exist in the hierarchy of pids while its threads are in another cgroup there.
            if threads > 0 || self.unified() {
                return Some((threads, file));
            }
        }
        let name = if self.unified() {
            "cgroup.threads"
        } else {
            "tasks"
        };
        let mut threads = 0;
        let mut first = true;
        let mut pending = vec![(path.to_owned(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let text = root.text_or_empty(&self.file("cpu", &path, name)?);
            threads += match text {
                Ok(text) => text.lines().count() as u64,
                // A descendant may have vanished in the meantime.
                Err(_) if first => return None,
                Err(_) => 0,
            };
            first = false;
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

    /// Reads the number of periods with a quota in force, and of those in which it ran out (`cpu.stat`).
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

    /// Reads the CPUs that a cgroup may use by its cpuset; none without one.
    #[must_use]
    pub fn cpus(&self, root: &Root, path: &str) -> Option<CpuList> {
        self.set(
            root,
            path,
            ["cpuset.cpus.effective", "cpuset.effective_cpus"],
            MAX_CPU,
        )
    }

    /// Reads the nodes whose memory a cgroup may use by its cpuset; none without one.
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

    /// Reads the anonymous memory of a cgroup and its descendants by node, in bytes, and its file (`memory.numa_stat`).
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
        let line = |key: &str| {
            text.lines().find_map(|line| {
                let rest = line.strip_prefix(key)?;
                rest.starts_with([' ', '=']).then_some(rest)
            })
        };
        // v1 has both lines, first that of the cgroup alone. v2 has one line, which includes descendants.
        let line = line("hierarchical_anon").or_else(|| line("anon"))?;
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

/// Finds the directory of a v1 controller, which is mounted alone or with another in a directory named after both.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a node with these files below the mount of cgroups.
    fn node(files: &[(&str, &str)]) -> (tempfile::TempDir, Root, Groups) {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, content) in files {
            let path = dir.path().join("sys/fs/cgroup").join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        let root = Root::open(dir.path()).expect("a root");
        let groups = Groups::find(&root).expect("cgroups");
        (dir, root, groups)
    }

    const V2: (&str, &str) = ("cgroup.controllers", "cpu memory pids");

    #[test]
    fn on_v1_memory_is_that_of_the_cgroups_below_too() {
        // The format of mm/memcontrol-v1.c: first the cgroup alone, then with its descendants.
        let stat = "total=374 N0=374\nfile=0 N0=0\nanon=374 N0=374\nunevictable=0 N0=0\nhierarchical_total=190000 N0=190000\nhierarchical_file=3594 N0=3594\nhierarchical_anon=186406 N0=100000 N1=86406\n";
        let (_dir, root, groups) = node(&[("memory/a/memory.numa_stat", stat)]);
        let (by_node, _) = groups.anonymous(&root, "/a", 4096).expect("memory");
        let expected = [(0, 100_000 * 4096), (1, 86_406 * 4096)];
        assert_eq!(by_node, BTreeMap::from(expected));
        let stat = "anon N0=4096 N1=0\nfile N0=1 N1=1\n";
        let (_dir, root, groups) = node(&[V2, ("a/memory.numa_stat", stat)]);
        let (by_node, _) = groups.anonymous(&root, "/a", 65_536).expect("memory");
        assert_eq!(by_node, BTreeMap::from([(0, 4096), (1, 0)]));
    }

    #[test]
    fn threads_that_no_file_tells_are_not_zero() {
        let threads = |files: &[(&str, &str)], path: &str| {
            let (_dir, root, groups) = node(files);
            groups.threads(&root, path).map(|(threads, _)| threads)
        };
        assert_eq!(threads(&[V2, ("a/pids.current", "7")], "/a"), Some(7));
        assert_eq!(threads(&[V2, ("a/pids.current", "0")], "/a"), Some(0));
        let outside = [
            V2,
            ("a/cgroup.threads", "1\n2"),
            ("a/b/cgroup.threads", "3"),
        ];
        assert_eq!(threads(&outside, "/a"), Some(3));
        assert_eq!(threads(&[V2, ("a/cpu.max", "max 100000")], "/a"), None);
        let v1 = [("cpu/a/tasks", "1\n2"), ("pids/a/pids.current", "0")];
        assert_eq!(threads(&v1, "/a"), Some(2), "they are elsewhere for pids");
        assert_eq!(
            threads(&[("cpu/b/tasks", "1"), ("pids/a/tasks", "1")], "/a"),
            None
        );
    }

    #[test]
    fn quotas_are_raised_and_saved_from_the_outermost_inward() {
        let files = [
            V2,
            ("pod/cpu.max", "150000 100000"),
            ("pod/cpu.max.burst", "0"),
            ("pod/a/cpu.max", "50000 100000"),
            ("pod/a/cpu.max.burst", "0"),
            ("pod/a/b/cpu.max", "max 100000"),
        ];
        let (_dir, root, groups) = node(&files);
        let limits = groups.limits(&root, "/pod/a");
        let raised = raise(&limits, true, 2.0).expect("a command");
        assert_eq!(
            raised.as_str(),
            "echo '300000 100000' > /sys/fs/cgroup/pod/cpu.max && echo '200000 100000' > /sys/fs/cgroup/pod/a/cpu.max"
        );
        let only = raise(&limits, true, 1.0).expect("a command");
        assert_eq!(
            only.as_str(),
            "echo '100000 100000' > /sys/fs/cgroup/pod/a/cpu.max"
        );
        let saved = save_up(&limits).expect("a command");
        assert_eq!(
            saved.as_str(),
            "echo 150000 > /sys/fs/cgroup/pod/cpu.max.burst && echo 50000 > /sys/fs/cgroup/pod/a/cpu.max.burst"
        );
        assert_eq!(groups.limits(&root, "/pod/a/b"), limits);
        assert_eq!((raise(&[], true, 1.0), save_up(&[])), (None, None));
    }
}
