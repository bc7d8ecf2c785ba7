//! Directories with the layout of cgroup hierarchies, and the proc files that name them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use stallscope::host::cgroup::{Cgroup, CgroupId, CgroupPath, Changes};
use tempfile::TempDir;

/// Returns `/proc/cgroups` with the cpu controller on hierarchy `cpu`.
pub fn proc_cgroups(cpu: u32) -> String {
    format!(
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t{cpu}\t1\t1\ncpuacct\t{cpu}\t1\t1\nmemory\t0\t9\t1\n"
    )
}

/// A root directory with `proc` in it.
pub struct Fixture {
    dir: TempDir,
    mountinfo: Vec<u8>,
}

impl Fixture {
    pub fn new(cgroups: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fixture = Self {
            dir,
            mountinfo: b"22 1 0:20 / /proc rw - proc proc rw\n".to_vec(),
        };
        fixture.write("proc/cgroups", cgroups);
        fixture.write("proc/self/mountinfo", "");
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn proc(&self) -> PathBuf {
        self.path("proc")
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// Adds a line to mountinfo, with the kernel's escapes.
    pub fn mount(&mut self, name: &str, root: &str, kind: &str, options: &str) {
        let mut point = Vec::new();
        for &byte in self.path(name).as_os_str().as_bytes() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => point.extend(format!("\\{byte:03o}").into_bytes()),
                _ => point.push(byte),
            }
        }
        self.mountinfo
            .extend(format!("30 23 0:28 {root} ").into_bytes());
        self.mountinfo.extend(point);
        self.mountinfo
            .extend(format!(" rw,relatime shared:9 - {kind} {kind} {options}\n").into_bytes());
        fs::write(self.path("proc/self/mountinfo"), &self.mountinfo).expect("mountinfo");
    }

    /// Makes a cgroup of v1's cpu hierarchy.
    pub fn v1(&self, name: &str) {
        for file in ["cgroup.procs", "tasks"] {
            self.write(&format!("{name}/{file}"), "");
        }
        self.write(&format!("{name}/cpu.shares"), "1024\n");
        self.write(&format!("{name}/cpu.cfs_quota_us"), "-1\n");
        self.write(&format!("{name}/cpu.cfs_period_us"), "100000\n");
        self.write(
            &format!("{name}/cpu.stat"),
            "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
        );
    }

    /// Makes the root of v1's cpu hierarchy.
    pub fn v1_root(&self, name: &str) {
        self.v1(name);
        self.write(&format!("{name}/release_agent"), "");
        self.write(&format!("{name}/cgroup.sane_behavior"), "0\n");
    }

    /// Makes the root of v2's hierarchy.
    pub fn v2_root(&self, name: &str, controllers: &str, enabled: &str) {
        self.write(&format!("{name}/cgroup.procs"), "");
        self.write(
            &format!("{name}/cgroup.controllers"),
            format!("{controllers}\n"),
        );
        self.write(
            &format!("{name}/cgroup.subtree_control"),
            format!("{enabled}\n"),
        );
    }

    /// Makes another cgroup of v2's.
    pub fn v2(&self, name: &str, enabled: &str) {
        self.v2_root(name, "", enabled);
        self.write(&format!("{name}/cgroup.type"), "domain\n");
    }

    /// Makes a systemd host: cpu enabled for slices and two pods, pids and memory everywhere.
    pub fn v2_host(&self) {
        self.v2_root("sys", "cpuset cpu io memory pids", "cpu memory pids");
        self.v2("sys/init.scope", "");
        self.v2("sys/system.slice", "memory pids");
        for unit in ["nginx.service", "ssh.service", "cron.service"] {
            self.v2(&format!("sys/system.slice/{unit}"), "");
        }
        self.v2("sys/kubepods.slice", "cpu memory pids");
        self.v2("sys/kubepods.slice/a", "");
        self.v2("sys/kubepods.slice/b", "");
    }
}

/// Table of cgroups, by which tests compare a watch and a scan.
pub type Table = BTreeMap<CgroupId, CgroupPath>;

pub fn table(cgroups: Vec<Cgroup>) -> Table {
    cgroups
        .into_iter()
        .map(|cgroup| (cgroup.id, cgroup.path))
        .collect()
}

/// Applies changes to a table by the documented rules.
pub fn apply(table: &mut Table, changes: Changes) {
    for id in changes.removed {
        assert!(table.remove(&id).is_some(), "removed what was not there");
    }
    for cgroup in changes.added {
        assert!(
            cgroup
                .parent
                .is_none_or(|parent| table.contains_key(&parent)),
            "{} before its parent",
            cgroup.path
        );
        table.insert(cgroup.id, cgroup.path);
    }
}

/// Returns the paths in a table below `name`.
pub fn below<'a>(table: &'a Table, name: &str) -> Vec<&'a CgroupPath> {
    let above = Path::new(name);
    let is_below = |path: &&CgroupPath| path.below(Path::new("/")).starts_with(above);
    let mut paths: Vec<&CgroupPath> = table.values().filter(is_below).collect();
    paths.sort();
    paths
}
