//! Powers of the user of a delegated cgroup: the user can imitate the names of pods, and make thousands of cgroups.

mod kernel;
mod serving;

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, chown, symlink},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::{Group, Scrape, Task, agent, label};
use serving::Serving;
use stallscope::{
    agent::{Agent, Config},
    attribution::{
        pods::PodTrees,
        pods::names::{Chosen, Source},
    },
};
use tempfile::TempDir;

/// A user and group that nothing else uses.
const USER: u32 = 54_321;
const CPU: &str = "stallscope_cpu_seconds_total";
const STALL: &str = "stallscope_stall_seconds_total";
const SPIN: &str = "while :; do :; done";

fn uid(number: u32) -> String {
    format!("3d2f0a9c-11b7-4e6c-8a55-0f9be1c2{number:04x}")
}

fn id(number: u32) -> String {
    format!("{number:064x}")
}

/// A cgroup that belongs to [`USER`], with everything below it.
struct Delegated(Group);

impl Delegated {
    fn new(name: &str) -> Self {
        let group = Group::new(name);
        for path in [
            "",
            "cgroup.procs",
            "tasks",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            let path = group.dir.join(path);
            if path.exists() {
                chown(&path, Some(USER), Some(USER)).expect("it can be delegated");
            }
        }
        Self(group)
    }

    /// Returns a shell command that runs a script as the user, in the group.
    fn script(&self, script: &str) -> String {
        format!(
            "cd '{}' && exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -c '{script}'",
            self.0.dir.display()
        )
    }

    /// Runs a script as the user until it ends.
    fn run(&self, script: &str) {
        let status = Command::new("sh")
            .args(["-c", &self.script(script)])
            .stdin(Stdio::null())
            .status()
            .expect("sh starts");
        assert!(status.success(), "{script}");
    }

    fn spawn(&self, script: &str) -> Task {
        self.0.spawn(&self.script(script))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        remove_below(&self.0.dir);
    }
}

/// Removes the cgroups below one. Their tasks have ended.
fn remove_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            let deadline = Instant::now() + Duration::from_secs(5);
            while fs::remove_dir(entry.path()).is_err() && Instant::now() < deadline {
                sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A kubelet's log directories, with these pods.
struct Logs(TempDir);

impl Logs {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["pods", "containers"] {
            fs::create_dir(dir.path().join(name)).expect("a folder");
        }
        Self(dir)
    }

    fn add(&self, number: u32) {
        let pod = format!("pods/shop_cart-{number}_{}", uid(number));
        let target = self.0.path().join(&pod).join("server/0.log");
        fs::create_dir(self.0.path().join(pod)).expect("a pod's logs");
        let link = format!("containers/cart-{number}_shop_server-{}.log", id(number));
        symlink(target, self.0.path().join(link)).expect("a link");
    }
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn a_users_time_is_not_exported_as_a_pods_whose_name_he_took() {
    let logs = Logs::new();
    logs.add(1);
    let mut agent = agent(Config {
        names: Chosen {
            source: Source::Files(logs.0.path().to_owned()),
            reason: "asked for".to_owned(),
        },
        ..Config::default()
    });
    agent.start_names().expect("the source starts");
    let user = Delegated::new("impostor");
    let forged = format!("kubepods/burstable/pod{}/{}", uid(1), id(1));
    let task = user.spawn(&format!(
        "mkdir -p {forged} && echo $$ > {forged}/cgroup.procs && {SPIN}"
    ));
    let deadline = Instant::now() + Duration::from_secs(20);
    let pod = [label("pod", "cart-1")];
    let cgroup = [label("cgroup", &format!("{}/{forged}", user.0.label))];
    loop {
        let scrape = Scrape::of(&mut agent);
        let pods: Vec<_> = scrape.series(CPU, &pod).collect();
        assert!(pods.is_empty(), "the user's time is the pod's: {pods:?}");
        if scrape.exact(CPU, &cgroup).is_some_and(|ran| ran > 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{}", scrape.0);
        sleep(Duration::from_millis(100));
    }
    assert_eq!(
        fs::metadata(user.0.dir.join("kubepods"))
            .expect("he made it")
            .uid(),
        USER
    );
    let trees = agent.status().trees;
    assert!(trees.contains("elsewhere are named after pods"), "{trees}");
    drop(task);
}

/// Root's pods, in a tree of their own.
struct Pods(Group);

impl Pods {
    fn new() -> Self {
        let group = Group::new("pods");
        fs::create_dir(group.dir.join("kubepods")).expect("a tree");
        Self(group)
    }

    fn container(&self, number: u32) -> Group {
        let path = format!("kubepods/pod{}/{}", uid(number), id(number));
        let dir = self.0.dir.join(&path);
        fs::create_dir_all(&dir).expect("a container");
        Group {
            dir,
            label: format!("{}/{path}", self.0.label),
        }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        remove_below(&self.0.dir);
    }
}

/// Returns one value of the agent's own metrics.
fn value(scrape: &Scrape, family: &str, labels: &[String]) -> u64 {
    let found = scrape.series(family, labels).next();
    let (_, value) = found.unwrap_or_else(|| panic!("no {family}:\n{}", scrape.0));
    value.parse().expect("a count")
}

fn scrape(agent: &Serving) -> Scrape {
    let (status, text) = agent.get("/metrics");
    assert_eq!(status, 200, "{text}");
    Scrape(text)
}

/// Waits until a condition on a scrape holds.
fn until(agent: &Serving, what: &str, mut holds: impl FnMut(&Scrape) -> bool) -> Scrape {
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let scrape = scrape(agent);
        if holds(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "never {what}");
        sleep(Duration::from_millis(200));
    }
}

/// Number of cgroups that the flood makes: more than the default budget of series, and more than the maximum of slots
/// in the kernel's tables.
const FLOOD: u64 = 20_000;

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn pods_have_their_series_in_a_flood_of_cgroups_of_another_user() {
    pods_in_a_flood(&[]);
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes cgroups"]
fn pods_have_their_series_in_a_flood_where_tables_cannot_grow() {
    pods_in_a_flood(&["--drop-capabilities"]);
}

/// Checks that twenty pods that come after the flood have their series.
fn pods_in_a_flood(more: &[&str]) {
    let logs = Logs::new();
    let (tree, user) = (Pods::new(), Delegated::new("flood"));
    let root = format!("--kubelet-cgroup-root={}", tree.0.label);
    let mut arguments: Vec<&OsStr> = vec![
        root.as_ref(),
        "--pod-source=files".as_ref(),
        "--kubelet-logs".as_ref(),
        logs.0.path().as_ref(),
        "--doctor=off".as_ref(),
    ];
    arguments.extend(more.iter().map(OsStr::new));
    let agent = Serving::start(arguments);
    let rss = |scrape: &Scrape| value(scrape, "process_resident_memory_bytes", &[]) >> 20;
    let before = scrape(&agent);
    let owners = |scrape: &Scrape| value(scrape, "stallscope_owners", &[]);
    let cgroups = |scrape: &Scrape| value(scrape, "stallscope_slots", &[label("state", "used")]);
    let at_rest = cgroups(&before);
    println!(
        "{} owners, {at_rest} cgroups, {} MiB resident",
        owners(&before),
        rss(&before)
    );
    user.run(&format!("seq -f x%g {FLOOD} | xargs mkdir"));
    let full = until(&agent, "all cgroups were seen", |scrape| {
        cgroups(scrape) >= at_rest + FLOOD
    });
    println!(
        "flood: {} owners, {} cgroups, {} MiB resident",
        owners(&full),
        cgroups(&full),
        rss(&full)
    );

    let containers: Vec<Group> = (0..20)
        .map(|number| {
            logs.add(number);
            tree.container(number)
        })
        .collect();
    let tasks: Vec<Task> = containers.iter().map(|group| group.spawn(SPIN)).collect();
    let named = |scrape: &Scrape| {
        (0..20)
            .filter(|number| {
                let labels = [
                    label("pod", &format!("cart-{number}")),
                    label("container", "server"),
                ];
                scrape.exact(CPU, &labels).is_some_and(|ran| ran > 0)
            })
            .count()
    };
    let pods_there = until(&agent, "all pods had series", |scrape| named(scrape) == 20);
    println!(
        "pods: {} owners, {} MiB resident",
        owners(&pods_there),
        rss(&pods_there)
    );
    let slots = |state| value(&pods_there, "stallscope_slots", &[label("state", state)]);
    assert!(
        cgroups(&pods_there) > slots("capacity"),
        "the flood fills the tables"
    );
    assert!(slots("given") >= 20, "{} given", slots("given"));
    assert!(owners(&pods_there) <= 4096);
    assert!(rss(&pods_there) < 100, "{} MiB resident", rss(&pods_there));
    drop(tasks);

    // The flood's cgroups and their places in the budget go long before five minutes are over.
    user.run("find . -mindepth 1 -type d | xargs rmdir");
    let after = until(&agent, "the flood was over", |scrape| {
        cgroups(scrape) < at_rest + 200
    });
    println!(
        "after: {} owners, {} cgroups, {} MiB resident",
        owners(&after),
        cgroups(&after),
        rss(&after)
    );
    drop(containers);
}

/// Slots of tables that 500 cgroups fill, and no machine that runs tests does without them; 25 are reserved.
const FEW: u32 = 400;

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn what_a_pod_waits_in_a_reserved_slot_is_its_run_delay() {
    let tree = Pods::new();
    let mut agent = agent(Config {
        slots: Some(FEW),
        trees: PodTrees::Given(vec![tree.0.label.parse().expect("a path")]),
        ..Config::default()
    });
    // The tables grow half a minute after this at the earliest.
    agent.tick();
    let flood: Vec<_> = (0..500).map(|i| Group::new(&format!("few-{i}"))).collect();
    let container = tree.container(1);
    let tasks = container.spin(3);
    let exported = |agent: &mut Agent, family: &str| {
        Scrape::of(agent).exact(family, &[label("cgroup", &container.label)])
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while exported(&mut agent, CPU).is_none() {
        assert!(Instant::now() < deadline, "the container got no slot");
        sleep(Duration::from_millis(100));
    }
    let scrape = Scrape::of(&mut agent);
    let slots = |state| value(&scrape, "stallscope_slots", &[label("state", state)]);
    if slots("capacity") == u64::from(FEW) {
        assert!(slots("given") > 0);
    } else {
        println!("not judged: cgroups of others have let the tables grow");
    }
    let kernel = |read: fn(&Task) -> u64| tasks.iter().map(read).sum::<u64>();
    let stop = || {
        tasks.iter().for_each(Task::stop);
        // The last switch of each has to be over before anything is read.
        sleep(Duration::from_millis(50));
    };
    stop();
    let before = exported(&mut agent, STALL).expect("its waits");
    let run_delay = kernel(Task::run_delay);
    tasks.iter().for_each(Task::resume);
    sleep(Duration::from_secs(2));
    stop();
    let split = exported(&mut agent, STALL).expect("its waits") - before;
    let run_delay = kernel(Task::run_delay) - run_delay;
    println!("run_delay {run_delay} ns, the causes {split} ns");
    assert!(run_delay > 0);
    assert_eq!(split, run_delay);
    drop(flood);
}
