//! Purpose of each privilege and each mount, shown by taking it away: the table in `docs/privileges.md`.

mod kernel;
mod kubernetes;
mod serving;

use std::{
    collections::BTreeSet,
    thread::{self, sleep},
    time::Duration,
};

use kubernetes::{
    agent::{Agent, CONTAINER, Options},
    cri::Profile,
    daemon,
    kubelet::Node,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use stallscope::{agent::Config, probe::State};

/// Starts an agent that does not check its privileges first. Returns the kernel's answers: each hook with its state, or
/// each probe whose tables were refused.
fn attempt(capabilities: CapabilitySet) -> Vec<(String, State)> {
    // Capabilities belong to a thread.
    let attempt = thread::spawn(move || {
        let sets = CapabilitySets {
            effective: capabilities,
            permitted: capabilities,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).expect("capabilities can be given up");
        let registry = prometheus::Registry::new();
        let agent = stallscope::agent::Agent::start(Config::default(), registry)
            .expect("probes that fail do not keep the agent from starting");
        let probes = agent.status().probes.into_iter();
        let states = probes.flat_map(|probe| {
            let hooks = probe.hooks.into_iter();
            let mut states: Vec<_> = hooks
                .map(|hook| (format!("{}: {}", probe.probe, hook.hook), hook.state))
                .collect();
            if states.is_empty() {
                states.push((probe.probe.to_owned(), probe.state));
            }
            states
        });
        states.collect::<Vec<_>>()
    });
    attempt.join().expect("the attempt ends")
}

/// Returns the failed hooks and their errors.
fn failures(states: &[(String, State)]) -> Vec<(&str, &str)> {
    let failed = states.iter().filter_map(|(name, state)| match state {
        State::Failed { error } => Some((name.as_str(), error.as_str())),
        _ => None,
    });
    failed.collect()
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn the_kernel_itself_demands_both_capabilities() {
    stallscope::host::preflight::raise_memlock_limit();
    let all = failures(&attempt(CapabilitySet::all() & held())).len();
    for enough in [
        CapabilitySet::BPF | CapabilitySet::PERFMON,
        CapabilitySet::SYS_ADMIN,
    ] {
        let states = attempt(enough);
        assert_eq!(failures(&states).len(), all, "{enough:?}: {states:#?}");
    }

    let states = attempt(CapabilitySet::BPF);
    let failed = failures(&states);
    println!("without CAP_PERFMON: {failed:#?}");
    for hook in [
        "cpu_wait: switches",
        "task_migrations: migrations",
        "page_faults: first touch",
        "reclaim: direct reclaim",
    ] {
        let error = failed.iter().find(|(name, _)| *name == hook);
        let (_, error) = error.unwrap_or_else(|| panic!("{hook} works"));
        assert!(
            error.contains("BPF_PROG_LOAD") && error.contains("os error 1"),
            "{error}"
        );
    }
    let files = states
        .iter()
        .find(|(name, _)| name == "cpu_throttling: totals");
    let (_, files) = files.expect("the tables are there");
    assert!(matches!(files, State::Attached { .. }), "{files:?}");

    for few in [CapabilitySet::PERFMON, CapabilitySet::empty()] {
        let states = attempt(few);
        let failed = failures(&states);
        println!("with {few:?}: {failed:#?}");
        assert_eq!(failed.len(), 5, "all probes fail: {states:#?}");
        for (probe, error) in failed {
            assert!(error.contains("os error 1"), "{probe}: {error}");
        }
    }
}

#[test]
#[ignore = "needs root and BPF: attaches the probes"]
fn tables_are_locked_memory_up_to_linux_5_10() {
    let all = failures(&attempt(CapabilitySet::all() & held())).len();
    // A container without CAP_SYS_RESOURCE may have such a limit, and cannot raise it.
    let before = getrlimit(Resource::Memlock);
    let low = Rlimit {
        current: Some(64 << 10),
        maximum: Some(64 << 10),
    };
    setrlimit(Resource::Memlock, low).expect("a limit can be lowered");
    let states = attempt(CapabilitySet::BPF | CapabilitySet::PERFMON);
    let counted = attempt(CapabilitySet::all() & held());
    // Only a process with CAP_SYS_RESOURCE can raise it again. Any other does without.
    let _ = setrlimit(Resource::Memlock, before);

    let release = stallscope::host::preflight::kernel_release();
    let old = ["5.8.", "5.9.", "5.10."]
        .iter()
        .any(|version| release.starts_with(version));
    let failed = failures(&states);
    println!("Linux {release}: {failed:#?}");
    assert_eq!(failed.len() > all, old, "{states:#?}");
    let with_all = failures(&counted);
    println!("with all capabilities: {with_all:#?}");
}

/// Returns the capabilities of this process, which are all that it can give.
fn held() -> CapabilitySet {
    capabilities(None)
        .expect("this process has a set of capabilities")
        .permitted
}

/// Expected outcome of an agent.
enum Outcome {
    /// The agent ends with status 1 and this message.
    Ends(&'static str),
    /// The agent has the hooks of the chart's options, and these families besides.
    Gains(&'static [&'static str]),
    /// The agent measures everything except for this, which it logs.
    Says(&'static str),
}
use Outcome::{Ends, Gains, Says};

/// Families that need the kernel's BPF statistics.
const STATISTICS: &[&str] = &[
    "stallscope_program_run_seconds_total",
    "stallscope_program_runs_total",
    "stallscope_program_sampled_seconds_total",
];

fn with_capabilities(chart: &Options, names: &[&str]) -> Options {
    Options {
        capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
        ..chart.clone()
    }
}

fn without_mount(chart: &Options, path: &str) -> Options {
    let mut options = chart.clone();
    options.mounts.retain(|mount| mount.container_path != path);
    assert!(options.mounts.len() < chart.mounts.len(), "{path}");
    options
}

/// Returns each variant of the chart's options, with its name in the table.
fn variants(chart: &Options) -> Vec<(String, Options, Outcome)> {
    let row = |name: &str, capabilities: &[&str], outcome| {
        let mut options = with_capabilities(chart, capabilities);
        // The option would drop the capabilities under test.
        options
            .args
            .retain(|argument| argument != "--drop-capabilities");
        (name.to_owned(), options, outcome)
    };
    let mut rows = vec![
        ("as in the chart".to_owned(), chart.clone(), Gains(&[])),
        row("kept capabilities", &["BPF", "PERFMON"], Gains(&[])),
        row("without BPF", &["PERFMON"], Ends("missing CAP_BPF:")),
        row("without PERFMON", &["BPF"], Ends("missing CAP_PERFMON:")),
        row(
            "without both",
            &[],
            Ends("missing CAP_BPF and CAP_PERFMON:"),
        ),
        row("SYS_ADMIN alone", &["SYS_ADMIN"], Gains(STATISTICS)),
        row(
            "with SYS_ADMIN",
            &["BPF", "PERFMON", "SYS_ADMIN"],
            Gains(STATISTICS),
        ),
    ];
    for more in [
        "SYS_RESOURCE",
        "DAC_READ_SEARCH",
        "DAC_OVERRIDE",
        "SYS_PTRACE",
        "SYSLOG",
        "NET_ADMIN",
    ] {
        let set = CapabilitySet::from_name(more).expect("a capability");
        if !held().contains(set) {
            println!("not tried: {more}, which this process has not to give");
            continue;
        }
        let name = format!("with {more}");
        rows.push(row(&name, &["BPF", "PERFMON", more], Gains(&[])));
    }
    let nobody = Options {
        user: 65532,
        ..chart.clone()
    };
    rows.push((
        "another user than 0".to_owned(),
        nobody,
        Ends("missing CAP_BPF and CAP_PERFMON:"),
    ));
    let unconfined = Options {
        seccomp: Profile {
            kind: 1,
            ..Profile::default()
        },
        ..chart.clone()
    };
    rows.push(("all system calls".to_owned(), unconfined, Gains(&[])));
    let own = Options {
        seccomp: Profile {
            kind: 2,
            file: concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../deploy/seccomp/stallscope.json"
            )
            .to_owned(),
        },
        ..chart.clone()
    };
    rows.push(("its own system calls".to_owned(), own, Gains(&[])));
    rows.push((
        "without /sys/fs/cgroup".to_owned(),
        without_mount(chart, "/sys/fs/cgroup"),
        Says("this is only a part of the host's hierarchy"),
    ));
    for (path, said) in [
        (
            "/var/log/pods",
            "cannot read /var/log/pods, expected the kubelet's directory",
        ),
        (
            "/var/log/containers",
            "cannot read /var/log/containers, expected the kubelet's directory",
        ),
    ] {
        let options = without_mount(chart, path);
        rows.push((format!("without {path}"), options, Says(said)));
    }
    rows
}

#[test]
#[ignore = "needs root and BPF: runs pods in a container runtime of its own"]
fn each_privilege_of_the_agents_pods_is_needed_and_no_other() {
    if let Some(why) = daemon::unavailable() {
        println!("skipped: {why}");
        return;
    }
    let node = Node::start();
    let image = node.containerd.import_agent();
    let agents: Vec<_> = variants(&Options::chart(&node))
        .into_iter()
        .enumerate()
        .map(|(index, (name, options, outcome))| {
            let agent = Agent::start(&node, &image, &format!("variant-{index}"), &options);
            let ready = agent.gets_ready();
            (name, agent, ready, outcome)
        })
        .collect();
    // The agent takes statistics of programs for a second, and in this time every kind of event happens.
    sleep(Duration::from_secs(3));
    let mut chart = BTreeSet::new();
    for (name, agent, ready, outcome) in agents {
        let said = agent.said();
        match outcome {
            Ends(message) => {
                assert!(!ready, "{name}: it is ready");
                let status = agent.pod.wait(CONTAINER, Duration::from_secs(5));
                assert!(status == 1 && said.contains(message), "{name}: {said}");
                println!("{name}: {}", said.trim_end());
            }
            Gains(more) => {
                assert!(ready && agent.running(), "{name}: {said}");
                let facts = facts(&agent);
                if chart.is_empty() {
                    println!("{name}: {facts:#?}");
                    chart.clone_from(&facts);
                }
                let gained: Vec<_> = facts.difference(&chart).collect();
                let lost: Vec<_> = chart.difference(&facts).collect();
                assert_eq!(gained, more, "{name}");
                assert!(lost.is_empty(), "{name}: {lost:?} are missing");
                println!("{name}: gains {gained:?}");
            }
            Says(message) => {
                assert!(ready && said.contains(message), "{name}: {said}");
                let line = said.lines().find(|line| line.contains(message));
                println!("{name}: {}", line.unwrap_or_default());
            }
        }
    }
}

/// Returns the state of each hook, and the families of the kernel's BPF statistics. Other families depend on what
/// happens meanwhile.
fn facts(agent: &Agent) -> BTreeSet<String> {
    let scrape = agent.scrape().0;
    let hooks = scrape
        .lines()
        .filter(|line| line.starts_with("stallscope_probe_hook_status{") && line.ends_with(" 1"));
    let types = scrape.lines().filter_map(|line| {
        let name = line.strip_prefix("# TYPE ")?.split(' ').next()?;
        name.starts_with("stallscope_program_").then_some(name)
    });
    assert!(
        scrape.contains("\nstallscope_stall_seconds_total{"),
        "it measures no waits"
    );
    hooks.chain(types).map(str::to_owned).collect()
}
