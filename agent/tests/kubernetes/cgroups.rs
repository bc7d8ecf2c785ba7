//! Cgroups of pods, on v1, v2 and both at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use stallscope::host::cgroup::Hierarchy;

use super::kubelet::PERIOD;

/// Tree of pods. It is not `/kubepods`, because a kubelet on this machine would kill tasks in pods that it does not
/// know. A kubelet with `cgroupRoot: /kubelet` has it here (kind's).
pub const TREE: &str = "/kubelet/kubepods";

/// CPU shares of all pods together, where the host's tasks and groups have 1024 each.
const PODS_SHARES: i64 = 16_384;

/// Returns the mount point of the hierarchy with the CPU controller.
pub fn cpu_root() -> PathBuf {
    let found = Hierarchy::discover(Path::new("/proc"), None);
    found
        .expect("a cgroup hierarchy is mounted")
        .mount()
        .to_owned()
}

/// Makes a pod's cgroup in the CPU controller's hierarchy. The runtime makes it in the others.
pub fn make(path: &str, shares: i64, quota: Option<i64>) {
    let dir = make_dir(path);
    set_shares(&dir, shares);
    let Some(quota) = quota else { return };
    if dir.join("cpu.max").exists() {
        write(&dir.join("cpu.max"), &format!("{quota} {PERIOD}"));
    } else {
        write(&dir.join("cpu.cfs_period_us"), &PERIOD.to_string());
        write(&dir.join("cpu.cfs_quota_us"), &quota.to_string());
    }
}

/// Makes a cgroup with the CPU controller.
fn make_dir(path: &str) -> PathBuf {
    let mut dir = cpu_root();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let control = dir.join("cgroup.subtree_control");
        if control.exists() {
            write(&control, "+cpu");
        }
        dir = dir.join(part);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    }
    dir
}

fn set_shares(dir: &Path, shares: i64) {
    if dir.join("cpu.shares").exists() {
        return write(&dir.join("cpu.shares"), &shares.to_string());
    }
    // runc converts 2..262144 to 1..10000 in the same way.
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    write(&dir.join("cpu.weight"), &weight.to_string());
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Reads a file of a cgroup in the CPU controller's hierarchy.
pub fn read(path: &str, file: &str) -> String {
    fs::read_to_string(below(&cpu_root(), path).join(file)).unwrap_or_default()
}

/// Returns the CPU time of a cgroup in seconds: `cpuacct.usage` (v1), `usage_usec` of `cpu.stat` (v2).
pub fn usage(path: &str) -> f64 {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let of_v1 = |root: PathBuf| fs::read_to_string(below(&root, path).join("cpuacct.usage")).ok();
    if let Some(nanoseconds) = mounts().into_iter().find_map(of_v1) {
        return number(&nanoseconds).expect("a number") / 1e9;
    }
    let stat = read(path, "cpu.stat");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    line.and_then(number).expect("cpu.stat has it") / 1e6
}

/// Removes a pod's cgroup and everything below it from all hierarchies.
pub fn remove(path: &str) {
    for root in mounts() {
        remove_dir(&below(&root, path));
    }
}

/// Parent cgroups of pods that did not exist before. Dropping it removes the empty ones.
pub struct Parents(Vec<PathBuf>);

impl Parents {
    /// Makes the parents. Unlike a kubelet's they outweigh the host, so that other load on a busy machine changes
    /// little.
    pub fn make() -> Self {
        let above = TREE.rsplit_once('/').map_or("", |(above, _)| above);
        let levels = [
            (format!("{TREE}/burstable"), 1024),
            (format!("{TREE}/besteffort"), 2),
            (TREE.to_owned(), PODS_SHARES),
            (above.to_owned(), PODS_SHARES),
        ];
        let absent = |dir: &PathBuf| !dir.exists();
        let all = mounts().into_iter().flat_map(|root| {
            let below = levels.iter().map(move |(path, _)| below(&root, path));
            below.collect::<Vec<_>>()
        });
        let made = Self(all.filter(absent).collect());
        for (path, shares) in levels {
            let dir = make_dir(&path);
            // Existing parents belong to others.
            if made.0.contains(&dir) {
                set_shares(&dir, shares);
            }
        }
        made
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for dir in &self.0 {
            // Some hierarchies have none, and pods of others may have come.
            let _ = fs::remove_dir(dir);
        }
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Returns the mount points of cgroup hierarchies.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| {
        let kind = line.split(" - ").nth(1).unwrap_or_default();
        kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ")
    };
    text.lines()
        .filter(is_cgroup)
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

fn remove_dir(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_dir(&entry.path());
        }
    }
    for pid in tasks(dir) {
        // SAFETY: kill(2) has no preconditions.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    // Killed tasks take a moment to leave.
    for _ in 0..200 {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
    println!("{} stays", dir.display());
}

fn tasks(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}
