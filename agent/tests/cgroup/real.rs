//! This machine's own cgroup file systems, in cgroups of our own.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stallscope::host::cgroup::{
    Cgroup, CgroupId, CpuLimit, CpuStat, CpuStats, Hierarchy, Mode, Watch,
};

use super::fixture::{Table, apply, below, table};

/// A cgroup of ours in the hierarchy in use. Dropping it removes it with everything below.
struct Own {
    hierarchy: Hierarchy,
    name: String,
    dir: PathBuf,
}

impl Own {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let hierarchy = Hierarchy::discover(Path::new("/proc"), None).expect("a hierarchy");
        let name = format!(
            "stallscope-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = hierarchy.mount().join(&name);
        fs::create_dir(&dir).expect("a cgroup of our own");
        Self {
            hierarchy,
            name,
            dir,
        }
    }

    fn cgroup(&self) -> Cgroup {
        let path = format!("/{}", self.name);
        let found = self
            .hierarchy
            .scan()
            .expect("a scan")
            .into_iter()
            .find(|cgroup| cgroup.path.as_bytes() == path.as_bytes());
        found.expect("our cgroup")
    }

    /// Returns our part of a table.
    fn ours<'a>(&self, known: &'a Table) -> Vec<&'a stallscope::host::cgroup::CgroupPath> {
        below(known, &format!("/{}", self.name))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes cgroups from the leaves up. The kernel owns their files.
fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // Killed tasks take a moment to leave.
    for _ in 0..100 {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

#[test]
fn this_machine_has_a_hierarchy() {
    let hierarchy = Hierarchy::discover(Path::new("/proc"), None).unwrap();
    let cgroups = hierarchy.scan().unwrap();
    assert!(cgroups[0].path.is_root());
    assert!(
        hierarchy
            .reason()
            .contains(&hierarchy.mount().display().to_string())
    );
    let again = Hierarchy::at(hierarchy.mount(), None).unwrap();
    assert_eq!(
        (again.mount(), again.controller()),
        (hierarchy.mount(), hierarchy.controller())
    );
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn ids_are_inodes_and_names_are_bytes() {
    let own = Own::new();
    let longest = "n".repeat(255);
    let names: [&[u8]; 5] = [
        b"a b",
        b"\"'$(x)\\x2d",
        b"\xff\xfe\x01",
        "käse".as_bytes(),
        longest.as_bytes(),
    ];
    for name in names {
        fs::create_dir(own.dir.join(OsStr::from_bytes(name))).unwrap();
    }
    let newline = fs::create_dir(own.dir.join("a\nb")).map_err(|error| error.kind());
    assert_eq!(
        newline,
        Err(ErrorKind::InvalidInput),
        "the kernel allows any byte but / NUL and newline"
    );

    let cgroup = own.cgroup();
    assert_eq!(cgroup.parent, Some(CgroupId(1)), "every kernfs root is 1");
    let ours: Vec<Cgroup> = own
        .hierarchy
        .scan()
        .unwrap()
        .into_iter()
        .filter(|child| child.parent == Some(cgroup.id))
        .collect();
    assert_eq!(ours.len(), names.len());
    for child in ours {
        let dir = child.path.below(own.hierarchy.mount());
        assert_eq!(child.id, CgroupId(fs::metadata(&dir).unwrap().ino()));
        assert!(names.contains(&dir.file_name().unwrap().as_bytes()));
    }
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_watch_sees_cgroups_come_and_go() {
    let own = Own::new();
    let mut watch = Watch::new(own.hierarchy.clone()).unwrap();
    let mut known = Table::new();
    apply(&mut known, watch.poll().unwrap());
    assert_eq!((watch.fallback(), own.ours(&known).len()), (None, 1));

    fs::create_dir_all(own.dir.join("a/b/c")).unwrap();
    apply(&mut known, watch.poll().unwrap());
    assert_eq!(own.ours(&known).len(), 4);
    fs::remove_dir(own.dir.join("a/b/c")).unwrap();
    fs::create_dir(own.dir.join("a/b/c")).unwrap();
    let before = known.clone();
    apply(&mut known, watch.poll().unwrap());
    assert_eq!(own.ours(&known), own.ours(&before));
    assert_ne!(known, before, "the same name, another cgroup");
    if own.hierarchy.mode() != Mode::V2 {
        fs::rename(own.dir.join("a/b"), own.dir.join("a/z")).unwrap();
        let before = known.clone();
        apply(&mut known, watch.poll().unwrap());
        assert!(
            known.keys().eq(before.keys()) && known != before,
            "the same cgroups, another path"
        );
    }
    remove(&own.dir.join("a"));
    apply(&mut known, watch.poll().unwrap());
    assert_eq!(own.ours(&known).len(), 1);
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_watch_keeps_up_with_a_storm() {
    let own = Own::new();
    let mut watch = Watch::new(own.hierarchy.clone()).unwrap();
    let mut known = Table::new();
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            for round in 0..300 {
                fs::create_dir_all(own.dir.join(format!("pod{}/c{}", round % 7, round % 3)))
                    .unwrap();
                if round % 2 == 1 {
                    remove(&own.dir.join(format!("pod{}", (round + 3) % 7)));
                }
            }
        });
        while !storm.is_finished() {
            apply(&mut known, watch.poll().unwrap());
        }
    });
    apply(&mut known, watch.poll().unwrap());
    let scanned = table(own.hierarchy.scan().unwrap());
    assert_eq!(own.ours(&known), own.ours(&scanned));
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_thousand_cgroups_take_milliseconds() {
    let own = Own::new();
    for pod in 0..250 {
        for container in 0..3 {
            fs::create_dir_all(own.dir.join(format!("pod{pod}/container{container}"))).unwrap();
        }
    }
    let best = |work: &mut dyn FnMut()| {
        let runs = (0..5).map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        });
        runs.min().unwrap()
    };
    let scan = best(&mut || assert!(own.hierarchy.scan().unwrap().len() > 1000));
    let start = Instant::now();
    let mut watch = Watch::new(own.hierarchy.clone()).unwrap();
    let placing = start.elapsed();
    assert!(watch.poll().unwrap().added.len() > 1000);
    let poll = best(&mut || drop(watch.poll().unwrap()));
    let mut stats = CpuStats::new(&own.hierarchy, CpuStats::DEFAULT_HELD);
    let cgroup = own.cgroup();
    let held = best(&mut || assert!(stats.stat(&cgroup).unwrap().is_some()));
    println!(
        "scan {scan:?}, placing watches {placing:?}, idle poll {poll:?}, held cpu.stat {held:?}"
    );
    // The limit is far above the usual time, for busy machines and unoptimised code.
    assert!(scan < Duration::from_millis(200), "scan took {scan:?}");
}

struct Spinner(Child);

impl Spinner {
    fn start(dir: &Path) -> Self {
        let child = Self(
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .expect("sh"),
        );
        fs::write(dir.join("cgroup.procs"), child.0.id().to_string())
            .expect("a move into our cgroup");
        child
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_quota_and_what_it_costs() {
    let own = Own::new();
    let cgroup = own.cgroup();
    let mut stats = CpuStats::new(&own.hierarchy, CpuStats::DEFAULT_HELD);
    if stats.limit(&cgroup).unwrap().is_none() {
        println!("the cpu controller is not enabled here");
        return;
    }
    assert_eq!(
        stats.limit(&cgroup).unwrap(),
        Some(CpuLimit {
            quota_us: None,
            period_us: 100_000
        })
    );
    assert_eq!(stats.stat(&cgroup).unwrap(), Some(CpuStat::default()));
    let (file, text) = if own.hierarchy.mode() == Mode::V2 {
        ("cpu.max", "5000 50000")
    } else {
        ("cpu.cfs_quota_us", "10000")
    };
    fs::write(own.dir.join(file), text).unwrap();
    let limit = stats.limit(&cgroup).unwrap().unwrap();
    assert_eq!(limit.cpus(), Some(0.1));

    let spinner = Spinner::start(&own.dir);
    let deadline = Instant::now() + Duration::from_secs(60);
    // On a busy CPU the quota may run out as its period ends: such a throttle takes no time.
    let throttled = |stat: CpuStat| stat.throttled_periods >= 3 && stat.throttled_ns > 0;
    loop {
        let stat = stats.stat(&cgroup).unwrap().unwrap();
        if throttled(stat) {
            assert!(stat.periods >= stat.throttled_periods, "{stat:?}");
            break;
        }
        assert!(Instant::now() < deadline, "never throttled: {stat:?}");
        thread::sleep(Duration::from_millis(20));
    }
    drop(spinner);

    assert_eq!(stats.held(), 1);
    drop(own);
    assert_eq!(
        stats.stat(&cgroup).unwrap(),
        None,
        "removed under a held file"
    );
    assert_eq!((stats.held(), stats.limit(&cgroup).unwrap()), (0, None));
}
