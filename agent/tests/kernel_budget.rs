//! Series budgets: the number of series per owner, and scrapes whose budget is too small for their owners.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "topology/fixture.rs"]
#[allow(dead_code, reason = "only a part of it is used here")]
mod fixture;
mod kernel;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::{Group, Memory, Scrape, Task, agent, label, nanos, pin, unpin};
use stallscope::{
    agent::{Agent, Config, owner_families, series_bound},
    exposition::metric::Kind,
    host::topology::Topology,
};
use tempfile::TempDir;

/// Returns a sysfs with several NUMA nodes, and the number of nodes with CPUs: this host's, or if it has one node only,
/// a copy with CPUs 0 and 1 in nodes of their own.
fn several_nodes() -> (PathBuf, Option<TempDir>, u16) {
    let real = Topology::read(Path::new("/sys")).unwrap();
    let nodes = real.nodes().iter().filter(|node| !node.cpus.is_empty());
    let nodes = u16::try_from(nodes.count()).unwrap();
    if nodes > 1 {
        return ("/sys".into(), None, nodes);
    }
    let sys = fixture::sys("vm-2-cpus");
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    fixture::write(&sys, "cpu/possible", possible.trim());
    fixture::write(&sys, "node/online", "0-1");
    for (node, distances) in [("0", "10 20"), ("1", "20 10")] {
        let write = |file: &str, text: &str| {
            fixture::write(&sys, &format!("node/node{node}/{file}"), text);
        };
        write("cpulist", node);
        write("distance", distances);
        write("meminfo", &format!("Node {node} MemTotal: 1024 kB"));
    }
    (sys.path().to_owned(), Some(sys), 2)
}

/// Returns a function that moves from each CPU to each other one.
fn everywhere(cpus: usize) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    move || {
        for from in 0..cpus {
            for to in (0..cpus).filter(|to| *to != from) {
                pin(0, from)?;
                pin(0, to)?;
            }
        }
        unpin()
    }
}

/// Makes a cgroup that causes every event that any host can produce.
fn everything(name: &str) -> (Group, Memory, TempDir) {
    let group = Group::new(name);
    group.limit(Some(20_000));
    let memory = Memory::limited(&group, 32 << 20);
    let dir = tempfile::tempdir().unwrap();
    (group, memory, dir)
}

/// Counts the series of a family that carry all of `labels`, as a scraper counts them.
fn series(scrape: &Scrape, name: &str, kind: Kind, labels: &[String]) -> usize {
    let parts: &[&str] = match kind {
        Kind::Histogram => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    let count = |part: &&str| scrape.series(&format!("{name}{part}"), labels).count();
    parts.iter().map(count).sum()
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, throttles tasks and writes 96 MB in a memory cgroup of 32 MB"]
fn an_owner_has_the_series_that_are_stated_and_no_more() {
    let (sys, _made, nodes) = several_nodes();
    let (group, memory, dir) = everything("bound");
    let mut agent = agent(Config {
        sys,
        ..Config::default()
    });
    let cpus = std::thread::available_parallelism().unwrap().get();
    group.run(|| Ok(()), everywhere(cpus));
    let script = format!(
        "echo $$ > {}/cgroup.procs; dd if=/dev/zero of={}/file bs=64k count=1536; while :; do :; done",
        memory.dir.display(),
        dir.path().display()
    );
    let mut tasks = vec![group.spawn(&script)];
    tasks.extend(group.spin(2));
    sleep(Duration::from_secs(12));
    let scrape = Scrape::of(&mut agent);
    drop(tasks);
    let labels = [label("cgroup", &group.label)];
    let (mut total, mut full) = (0, Vec::new());
    for family in owner_families(nodes) {
        let (name, kind) = (family.metric.name, family.metric.kind);
        let here = series(&scrape, name, kind, &labels);
        println!("{name}: {here} of {}", family.series());
        assert!(here <= family.series(), "{name}: {here}");
        total += here;
        if here == family.series() {
            full.push(name);
        }
    }
    println!("{total} of {}", series_bound(nodes));
    assert!(total <= series_bound(nodes));
    // Any kernel here measures these. The rest depends on its hooks, its levels and on what it compacts.
    for name in [
        "stallscope_stall_seconds_total",
        "stallscope_run_queue_wait_seconds",
        "stallscope_cpu_seconds_total",
        "stallscope_preemptions_total",
        "stallscope_task_migrations_between_nodes_total",
        "stallscope_task_migration_distance_total",
        "stallscope_cpu_cfs_periods_total",
        "stallscope_cpu_cfs_throttled_periods_total",
        "stallscope_cpu_cfs_throttled_seconds_total",
        "stallscope_cpu_limit_cores",
        "stallscope_first_touch_faults_total",
        "stallscope_task_stall_seconds_total",
    ] {
        assert!(full.contains(&name), "{name} is not whole: {full:?}");
    }
    let histogram = [&labels[..], &[label("cause", "memcg_reclaim")]].concat();
    let reclaim = series(
        &scrape,
        "stallscope_reclaim_seconds",
        Kind::Histogram,
        &histogram,
    );
    assert_eq!(reclaim, 13, "one cause's histogram");
    // The owner has no series in families that this test did not count.
    let own = label("cgroup", &group.label);
    let all = scrape.0.lines().filter(|line| line.contains(&own)).count();
    assert_eq!(all, total);
}

/// Part of the hierarchy with a number of cgroups. The agent takes it for the whole.
struct Tree {
    children: Vec<Group>,
    root: Group,
}

impl Tree {
    fn new(name: &str) -> Self {
        let root = Group::new(name);
        if root.dir.join("cgroup.subtree_control").exists() {
            for controller in root.read("cgroup.controllers").split_whitespace() {
                // Some controllers cannot be enabled below, which the agent copes with.
                let _ = fs::write(
                    root.dir.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
        Self {
            children: Vec::new(),
            root,
        }
    }

    fn grow(&mut self, count: usize) -> &[Group] {
        let first = self.children.len();
        for number in first..first + count {
            let dir = self.root.dir.join(format!("c{number}"));
            fs::create_dir(&dir).unwrap();
            let label = format!("/c{number}");
            self.children.push(Group { dir, label });
        }
        &self.children[first..]
    }

    fn agent(&self, series: usize) -> Agent {
        agent(Config {
            cgroup_root: Some(self.root.dir.clone()),
            series,
            ..Config::default()
        })
    }
}

/// Returns the totals of each family with owners by the label `cgroup`, in nanoseconds or counts, without gauges.
fn totals(scrape: &Scrape) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut totals: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for line in scrape.0.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let Some((_, rest)) = series.split_once("cgroup=\"") else {
            continue;
        };
        let name = series.split('{').next().unwrap();
        if name == "stallscope_cpu_limit_cores" {
            continue;
        }
        let cgroup = rest.split('"').next().unwrap();
        let value =
            if name.contains("_seconds") && !name.ends_with("_count") && !name.ends_with("_bucket")
            {
                nanos(value)
            } else {
                value.parse().unwrap()
            };
        *totals
            .entry(name.to_owned())
            .or_default()
            .entry(cgroup.to_owned())
            .or_insert(0) += value;
    }
    totals
}

fn lines(scrape: &Scrape) -> usize {
    scrape
        .0
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count()
}

/// Returns the owners with their own series.
fn owners(scrape: &Scrape) -> BTreeSet<String> {
    let totals = totals(scrape);
    let all = totals["stallscope_cpu_seconds_total"].keys();
    all.filter(|cgroup| cgroup.starts_with("/c"))
        .cloned()
        .collect()
}

/// Runs a task for so many rounds in each group and stops it. It sleeps in between, because a kernel may hide a context
/// switch.
fn worked(groups: &[Group], rounds: u32) -> Vec<Task> {
    let script = format!(
        "i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done; sleep 0.01; sleep 0.01; kill -STOP $$"
    );
    let tasks: Vec<_> = groups.iter().map(|group| group.spawn(&script)).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    while tasks.iter().any(|task| task.state() != Some('T')) {
        assert!(Instant::now() < deadline, "they do not come to an end");
        sleep(Duration::from_millis(20));
    }
    // The last context switch of each task must be over before the test reads anything.
    sleep(Duration::from_millis(100));
    tasks
}

/// Returns the sum over the owners and (other) of each family.
fn sums(scrape: &Scrape) -> BTreeMap<String, u64> {
    let of_the_tree = |name: &&String| *name == OTHER || name.starts_with("/c");
    let sum = |by_cgroup: BTreeMap<String, u64>| {
        let mine = by_cgroup.iter().filter(|(name, _)| of_the_tree(name));
        mine.map(|(_, value)| value).sum()
    };
    let totals = totals(scrape).into_iter();
    totals.map(|(family, all)| (family, sum(all))).collect()
}

const OTHER: &str = "(other)";
const QUIET: usize = 40;
const BUSY: usize = 60;

#[test]
#[ignore = "needs root and BPF: attaches the probes twice and makes a hundred cgroups"]
fn folding_keeps_to_the_budget_and_to_every_sum() {
    let mut tree = Tree::new("fold");
    // Both agents see everything in the tree. The test reads them while nothing runs in it.
    let mut roomy = tree.agent(usize::MAX);
    // The budget has room for the first owners, but not for the later ones.
    let budget = lines(&Scrape::of(&mut roomy)) + 45 * 50;
    let mut tight = tree.agent(budget);
    let _quiet = worked(tree.grow(QUIET), 1000);
    let before = Scrape::of(&mut tight);
    assert_eq!(owners(&before).len(), QUIET, "all have series of their own");
    assert_eq!(sums(&before), sums(&Scrape::of(&mut roomy)));

    // The busiest owners come last.
    let _busy = worked(tree.grow(BUSY), 100_000);
    let all = Scrape::of(&mut roomy);
    assert_eq!(owners(&all).len(), QUIET + BUSY);
    assert!(lines(&all) > budget, "{} series fit", lines(&all));
    let mut other = BTreeMap::new();
    for round in 0..3 {
        let after = Scrape::of(&mut tight);
        let (count, kept) = (lines(&after), owners(&after));
        println!(
            "round {round}: {count} series of {budget}, {} owners",
            kept.len()
        );
        assert!(count <= budget);
        let quiet = kept.iter().filter(|name| number(name) < QUIET).count();
        let busy = kept.len() - quiet;
        assert!(busy > 0 && (quiet == 0 || busy == BUSY), "the busiest stay");
        assert_eq!(sums(&after), sums(&Scrape::of(&mut roomy)));
        let now = totals(&after);
        // A family that leaves out owners without events, such as phantom waits, may have no (other) yet.
        let has_other =
            |family: &String| now.get(family).is_some_and(|all| all.contains_key(OTHER));
        assert!(other.keys().all(has_other), "(other) lost a series");
        let of_other = now
            .iter()
            .filter_map(|(family, all)| Some((family.clone(), *all.get(OTHER)?)));
        for (family, sum) in of_other {
            let last = other.insert(family.clone(), sum).unwrap_or(0);
            assert!(last <= sum, "{family} of (other) fell from {last} to {sum}");
        }
    }
    // Folded owners that act again still count where they were folded to. No other owner does.
    let folded = tree
        .children
        .iter()
        .find(|group| number(&group.label) < QUIET);
    let _more = worked(std::slice::from_ref(folded.unwrap()), 1000);
    let after = Scrape::of(&mut tight);
    assert!(lines(&after) <= budget);
    assert_eq!(sums(&after), sums(&Scrape::of(&mut roomy)));
    let (cpu, now) = ("stallscope_cpu_seconds_total", totals(&after));
    assert!(now[cpu][OTHER] > other[cpu]);
}

fn number(name: &str) -> usize {
    name.trim_start_matches("/c").parse().unwrap()
}
