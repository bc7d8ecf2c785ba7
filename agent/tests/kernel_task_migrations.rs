//! Task migrations, made one by one and counted by the kernel. The exported counts must be equal.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "topology/fixture.rs"]
#[allow(dead_code, reason = "only a part of it is used here")]
mod fixture;
mod kernel;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Barrier, mpsc},
    thread,
};

use aya::maps::{HashMap, Map, MapData, loaded_maps};
use kernel::{Group, Scrape, agent, label, pin, unpin};
use stallscope::{
    agent::{Agent, Config},
    host::topology::{Boundary, Topology},
};
use stallscope_ebpf::NodePair;
use tempfile::TempDir;

const TOTAL: &str = "stallscope_task_migrations_total";
const BETWEEN: &str = "stallscope_task_migrations_between_nodes_total";
const DISTANCE: &str = "stallscope_task_migration_distance_total";

/// Returns a function that migrates between CPU 0 and 1, `moves` times, first to 1. On either side the thread may run
/// on one CPU only, so nothing else can move it.
fn hop(moves: u64) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    move || (1..=moves).try_for_each(|nth| pin(0, (nth % 2) as usize))
}

fn on_cpu_0() -> io::Result<()> {
    pin(0, 0)
}

/// Returns the value of a series of a group; `None` without one.
fn value(scrape: &Scrape, family: &str, group: &str, labels: &[(&str, &str)]) -> Option<u64> {
    let mut all = vec![label("cgroup", group)];
    all.extend(labels.iter().map(|(name, value)| label(name, value)));
    assert!(scrape.series(family, &all).count() < 2, "{family} {all:?}");
    scrape.exact(family, &all)
}

/// Returns the migrations of a group by boundary; `None` where one is not exported.
fn by_boundary(scrape: &Scrape, group: &str) -> Vec<(Boundary, Option<u64>)> {
    let count = |boundary: Boundary| {
        let labels = [("boundary", boundary.as_str())];
        (boundary, value(scrape, TOTAL, group, &labels))
    };
    Boundary::ALL.into_iter().map(count).collect()
}

fn sum(scrape: &Scrape, group: &str) -> u64 {
    by_boundary(scrape, group)
        .into_iter()
        .filter_map(|(_, count)| count)
        .sum()
}

/// Checks that `moves` crossed `boundary` and none crossed another one that `topology` reports.
fn assert_crossed(
    scrape: &Scrape,
    group: &str,
    topology: &Topology,
    boundary: Boundary,
    moves: u64,
) {
    let reported: Vec<_> = topology.boundaries().collect();
    for (other, count) in by_boundary(scrape, group) {
        let expected = if other == boundary {
            Some(moves)
        } else if other == Boundary::None || reported.contains(&other) {
            Some(0)
        } else {
            None
        };
        assert_eq!(
            count, expected,
            "{group}: {moves} over {boundary}, at {other}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves a thread"]
fn as_many_migrations_as_were_made() {
    let mut agent = agent(Config::default());
    let group = Group::new("migr-n");
    group.run(on_cpu_0, hop(97));
    let scrape = Scrape::of(&mut agent);
    let topology = Topology::read(Path::new("/sys")).unwrap();
    assert_crossed(
        &scrape,
        &group.label,
        &topology,
        topology.boundary(0, 1),
        97,
    );
    if topology.nodes().len() == 1 {
        assert!(!scrape.0.contains(BETWEEN) && !scrape.0.contains(DISTANCE));
    }
    // These come on top of the first.
    group.run(on_cpu_0, hop(13));
    assert_eq!(sum(&Scrape::of(&mut agent), &group.label), 110);
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves threads"]
fn two_cgroups_side_by_side_keep_their_own() {
    let mut agent = agent(Config::default());
    let (left, right) = (Group::new("migr-left"), Group::new("migr-right"));
    thread::scope(|scope| {
        scope.spawn(|| (0..7).for_each(|_| left.run(on_cpu_0, hop(101))));
        scope.spawn(|| (0..11).for_each(|_| right.run(on_cpu_0, hop(103))));
    });
    let scrape = Scrape::of(&mut agent);
    assert_eq!(sum(&scrape, &left.label), 707);
    assert_eq!(sum(&scrape, &right.label), 1133);
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves threads"]
fn a_slot_taken_over_counts_for_each_cgroup_apart() {
    // With more cgroups than slots, one after the other, at least one slot has served two, or the counts of a cgroup
    // lie beyond the capacity and not in its own series.
    let mut slots = 32;
    loop {
        let config = Config {
            slots: Some(slots),
            ..Config::default()
        };
        let mut agent = agent(config);
        let rounds = slots as usize + 5;
        let mut expected = Vec::new();
        for round in 0..rounds {
            let group = Group::new(&format!("migr-slot-{round}"));
            let moves = [2, 3, 5, 7, 11, 13][round % 6];
            group.run(on_cpu_0, hop(moves));
            let scrape = Scrape::of(&mut agent);
            expected.push((group.label.clone(), moves));
            if sum(&scrape, &group.label) == 0 {
                break;
            }
            assert_eq!(sum(&scrape, &group.label), moves, "round {round}");
        }
        if expected.len() < rounds {
            assert!(slots < 4096, "cgroups are counted beyond any capacity");
            slots *= 2;
            continue;
        }
        let scrape = Scrape::of(&mut agent);
        for (label, moves) in expected {
            assert_eq!(sum(&scrape, &label), moves, "{label} after its end");
        }
        return;
    }
}

/// Makes a host that has this one's first two CPUs, on either side of `boundary`, and no information about the others.
fn two_cpus(boundary: Boundary) -> TempDir {
    let sys = fixture::sys("vm-2-cpus");
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    fixture::write(&sys, "cpu/possible", possible.trim());
    let mut cpus = vec![
        ("topology/core_cpus_list", "0-1"),
        ("topology/cluster_cpus_list", "0-1"),
        ("cache/index2/shared_cpu_list", "0-1"),
    ];
    let differ = |at: &'static str, cpus: &mut Vec<_>| cpus.push((at, "{n}"));
    match boundary {
        Boundary::None => {}
        Boundary::Core | Boundary::Node => differ("topology/core_cpus_list", &mut cpus),
        Boundary::Cluster => unreachable!("two CPUs cannot be in two clusters of several"),
        Boundary::Llc => {
            differ("topology/core_cpus_list", &mut cpus);
            differ("cache/index3/shared_cpu_list", &mut cpus);
            differ("cache/index3/id", &mut cpus);
        }
        Boundary::Die => {
            differ("topology/core_cpus_list", &mut cpus);
            differ("topology/die_id", &mut cpus);
            differ("topology/die_cpus_list", &mut cpus);
        }
        Boundary::Package => {
            differ("topology/core_cpus_list", &mut cpus);
            differ("topology/physical_package_id", &mut cpus);
        }
    }
    for cpu in ["0", "1"] {
        for (at, content) in &cpus {
            let file = format!("cpu/cpu{cpu}/{at}");
            fixture::write(&sys, &file, &content.replace("{n}", cpu));
        }
    }
    if boundary == Boundary::Node {
        fixture::write(&sys, "node/online", "0-1");
        for node in ["0", "1"] {
            fixture::write(&sys, &format!("node/node{node}/cpulist"), node);
        }
        // Firmware may give different distances each way.
        fixture::write(&sys, "node/node0/distance", "10 17");
        fixture::write(&sys, "node/node1/distance", "31 10");
        fixture::write(&sys, "node/node1/meminfo", "Node 1 MemTotal: 1024 kB");
    }
    sys
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves a thread"]
fn each_boundary_is_counted_as_such() {
    for (boundary, moves) in [
        (Boundary::None, 2),
        (Boundary::Core, 3),
        (Boundary::Llc, 5),
        (Boundary::Die, 7),
        (Boundary::Package, 11),
    ] {
        let sys = two_cpus(boundary);
        let topology = Topology::read(sys.path()).unwrap();
        assert_eq!(topology.boundary(0, 1), boundary);
        let mut agent = agent(Config {
            sys: sys.path().to_owned(),
            ..Config::default()
        });
        let group = Group::new("migr-boundary");
        group.run(on_cpu_0, hop(moves));
        assert_crossed(
            &Scrape::of(&mut agent),
            &group.label,
            &topology,
            boundary,
            moves,
        );
    }
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves threads"]
fn moves_between_nodes_are_counted_by_pair_and_distance() {
    let sys = two_cpus(Boundary::Node);
    let topology = Topology::read(sys.path()).unwrap();
    let mut agent = agent(Config {
        sys: sys.path().to_owned(),
        ..Config::default()
    });
    let (left, right, still) = (
        Group::new("migr-node-left"),
        Group::new("migr-node-right"),
        Group::new("migr-node-one"),
    );
    thread::scope(|scope| {
        scope.spawn(|| (0..13).for_each(|_| left.run(on_cpu_0, hop(97))));
        scope.spawn(|| (0..11).for_each(|_| right.run(on_cpu_0, hop(89))));
    });
    still.run(on_cpu_0, hop(1));
    let scrape = Scrape::of(&mut agent);
    for (group, runs, moves) in [(&left, 13, 97), (&right, 11, 89), (&still, 1, 1)] {
        let label = &group.label;
        assert_crossed(&scrape, label, &topology, Boundary::Node, runs * moves);
        // The first move is from 0 to 1, so there is one more of those.
        let there = runs * moves.div_ceil(2);
        let back = runs * (moves / 2);
        let pair = |from, to| value(&scrape, BETWEEN, label, &[("from", from), ("to", to)]);
        assert_eq!(pair("0", "1"), Some(there));
        assert_eq!(pair("1", "0"), (back != 0).then_some(back));
        let distance = value(&scrape, DISTANCE, label, &[]);
        assert_eq!(distance, Some(there * 17 + back * 31));
    }
    let lost = [
        label("probe", "task_migrations"),
        label("reason", "node_pair_table_full"),
    ];
    assert_eq!(scrape.exact("stallscope_lost_events_total", &lost), Some(0));
}

/// Returns the number of a cgroup's entries in the kernel's tables of node pairs.
fn pairs_of(cgroup: u64) -> usize {
    let tables = loaded_maps()
        .flatten()
        .filter(|map| map.name_as_str() == Some("NODE_PAIRS"));
    tables
        .filter_map(|map| MapData::from_id(map.id()).ok())
        .map(|data| {
            let table: HashMap<_, NodePair, u64> = Map::HashMap(data).try_into().unwrap();
            let keys = table.keys().flatten();
            keys.filter(|pair| pair.cgroup == cgroup).count()
        })
        .sum()
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves a thread"]
fn pairs_of_a_cgroup_that_nobody_knows_make_room_and_stay_counted() {
    let sys = two_cpus(Boundary::Node);
    let mut agent = agent(Config {
        sys: sys.path().to_owned(),
        ..Config::default()
    });
    // The cgroup exists only between two looks of the agent at the cgroups.
    let group = Group::new("migr-short");
    let cgroup = fs::metadata(&group.dir).unwrap().ino();
    group.run(on_cpu_0, hop(5));
    drop(group);
    let before = removed(&Scrape::of(&mut agent));
    assert!(before.pairs >= [3, 2], "{before:?}");
    assert_eq!(pairs_of(cgroup), 2);
    for _ in 0..60 {
        agent.tick();
    }
    assert_eq!(pairs_of(cgroup), 0);
    let mut after = removed(&Scrape::of(&mut agent));
    // The agent reads cells and pairs one after the other: moves of others in between are in only one of them for one
    // reading.
    for _ in 0..60 {
        if after.pairs.iter().sum::<u64>() == after.crossed {
            break;
        }
        agent.tick();
        after = removed(&Scrape::of(&mut agent));
    }
    assert!(after.pairs >= before.pairs, "{before:?} {after:?}");
    assert_eq!(
        after.pairs.iter().sum::<u64>(),
        after.crossed,
        "each move is of one pair, there and once: {before:?} {after:?}"
    );
}

/// Counts of removed cgroups, kept twice: by the pair of nodes and by the boundary.
#[derive(Debug)]
struct Removed {
    /// Moves from node 0 to node 1, and back.
    pairs: [u64; 2],
    /// Moves to another node.
    crossed: u64,
}

fn removed(scrape: &Scrape) -> Removed {
    let pair = |from, to| {
        let labels = [("from", from), ("to", to)];
        value(scrape, BETWEEN, "(removed)", &labels).unwrap_or(0)
    };
    let node = [("boundary", Boundary::Node.as_str())];
    Removed {
        pairs: [pair("0", "1"), pair("1", "0")],
        crossed: value(scrape, TOTAL, "(removed)", &node).unwrap_or(0),
    }
}

/// Returns the sum of `se.nr_migrations` over the threads of this process; `None` where the kernel does not show it
/// (`CONFIG_SCHED_DEBUG`).
fn moves_by_the_kernel() -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let text = fs::read_to_string(task.unwrap().path().join("sched")).ok()?;
        let line = text.lines().find(|l| l.starts_with("se.nr_migrations"))?;
        sum += line.rsplit(' ').next()?.parse::<u64>().unwrap();
    }
    Some(sum)
}

/// Starts threads that wake each other in a ring, so that the scheduler moves them as it likes.
fn ring(threads: usize, rounds: usize) -> Arc<Barrier> {
    let parked = Arc::new(Barrier::new(threads + 1));
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel()).unzip();
    for (at, receiver) in receivers.into_iter().enumerate() {
        let next: mpsc::Sender<u64> = senders[(at + 1) % threads].clone();
        let parked = Arc::clone(&parked);
        thread::spawn(move || {
            unpin().unwrap();
            for round in 0..rounds {
                // If the scheduler has no reason to move the thread, this makes a move.
                if round % 16 == at {
                    pin(0, round / 16 % 2).unwrap();
                    unpin().unwrap();
                }
                let mut work = receiver.recv().unwrap();
                for i in 0..2000 {
                    work = std::hint::black_box(work ^ i);
                }
                next.send(work).unwrap();
            }
            // The thread waits once to report that it is done, and once until it may end.
            parked.wait();
            parked.wait();
        });
    }
    for sender in senders.iter().step_by(2) {
        sender.send(0).unwrap();
    }
    parked.wait();
    parked
}

/// Membership of this process in a group. Dropping it leaves the group, because a dropped group kills the tasks in it.
struct Inside(PathBuf);

impl Inside {
    fn enter(group: &Group) -> Self {
        group.write("cgroup.procs", &std::process::id().to_string());
        Self(group.dir.with_file_name("cgroup.procs"))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        fs::write(&self.0, std::process::id().to_string())
            .expect("the group above takes processes");
    }
}

/// Returns the kernel's migrations and the exported ones at a moment without any: a thread may still be on its way to
/// where it waits.
fn at_rest(agent: &mut Agent, group: &Group) -> (u64, u64) {
    for _ in 0..100 {
        let moved = moves_by_the_kernel().unwrap();
        let counted = sum(&Scrape::of(agent), &group.label);
        if moves_by_the_kernel() == Some(moved) {
            return (moved, counted);
        }
    }
    panic!("the threads do not come to rest");
}

/// Moves this process into a fresh group, where `work` moves threads. Returns the migrations that the kernel counted
/// meanwhile and the exported ones; `None` where the kernel does not show its own. The kernel shows the count of a
/// thread only while it exists, so `work` leaves its threads waiting at the barrier it returns.
fn moved_and_counted(
    name: &'static str,
    work: impl FnOnce() -> Arc<Barrier> + Send + 'static,
) -> Option<(u64, u64)> {
    moves_by_the_kernel()?;
    // The test runs in a thread that nothing moves, so that entering the group and reading do not depend on timing.
    let test = thread::spawn(move || {
        pin(0, 0).unwrap();
        let mut agent = agent(Config::default());
        let group = Group::new(name);
        let _inside = Inside::enter(&group);
        let (moved_before, counted_before) = at_rest(&mut agent, &group);
        let waiting = work();
        let (moved, counted) = at_rest(&mut agent, &group);
        waiting.wait();
        (moved - moved_before, counted - counted_before)
    });
    Some(test.join().unwrap())
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves this process"]
fn free_threads_migrate_as_often_as_the_kernel_says() {
    let Some((moved, counted)) = moved_and_counted("migr-free", || ring(7, 4001)) else {
        eprintln!("skipped: this kernel shows no se.nr_migrations (CONFIG_SCHED_DEBUG)");
        return;
    };
    assert!(moved > 500, "the threads hardly moved: {moved}");
    assert_eq!(counted, moved);
}

#[test]
#[ignore = "needs root and BPF: loads the probes and moves this process"]
fn a_sleeper_that_wakes_up_elsewhere_has_moved() {
    let work = || {
        let parked = Arc::new(Barrier::new(2));
        let (wake, sleep) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let waiting = Arc::clone(&parked);
        thread::spawn(move || {
            // SAFETY: no preconditions.
            tell.send(unsafe { libc::gettid() }).unwrap();
            for cpu in sleep {
                // SAFETY: no preconditions.
                assert_eq!(usize::try_from(unsafe { libc::sched_getcpu() }), Ok(cpu));
            }
            waiting.wait();
            waiting.wait();
        });
        let sleeper = told.recv().unwrap();
        let asleep = || {
            let stat = fs::read_to_string(format!("/proc/self/task/{sleeper}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('S')
        };
        for round in 1..=89 {
            while !asleep() {
                thread::yield_now();
            }
            pin(sleeper, round % 2).unwrap();
            wake.send(round % 2).unwrap();
        }
        drop(wake);
        parked.wait();
        parked
    };
    if let Some((moved, counted)) = moved_and_counted("migr-sleeper", work) {
        assert_eq!((moved, counted), (89, 89));
    } else {
        eprintln!("skipped: this kernel shows no se.nr_migrations (CONFIG_SCHED_DEBUG)");
    }
}
