//! The history of real cgroups, and explanations from it.

mod kernel;
mod serving;

use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use kernel::{Group, Scrape, agent, label};
use serde_json::Value;
use serving::{Serving, http};
use stallscope::{
    agent::{Agent, Config},
    api::{Gap, Kind, Request},
};

/// Script that runs for 10 ms out of every 50.
const BURSTS: &str = "exec python3 -c 'import time\nwhile True:\n t=time.time()\n while time.time()-t<0.01: pass\n time.sleep(0.04)'";
const SPIN: &str = "while :; do :; done";

fn tick_for(agent: &mut Agent, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        agent.tick();
        sleep(agent.next_tick().min(Duration::from_millis(200)));
    }
}

fn request(window: &str, labels: &[(&str, &str)]) -> Request {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Request {
        window: Some(window.to_owned()),
        labels: labels.iter().map(owned).collect(),
        ..Request::default()
    }
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn seconds_of_the_history_sum_to_the_counters() {
    let mut agent = agent(Config::default());
    let (victim, rival) = (Group::new("victim"), Group::new("rival"));
    let tasks = (0..3)
        .map(|_| victim.spawn(SPIN))
        .chain((0..2).map(|_| rival.spawn(SPIN)));
    let tasks: Vec<_> = tasks.collect();
    tick_for(&mut agent, Duration::from_secs(6));
    drop(tasks);
    tick_for(&mut agent, Duration::from_secs(3));
    let scrape = Scrape::of(&mut agent);
    let seconds = |family: &str| -> f64 {
        let labels = [label("cgroup", &victim.label)];
        let series = scrape.series(family, &labels);
        series
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            .sum()
    };
    let top = agent
        .top(&request("1h", &[("cgroup", &victim.label)]))
        .expect("a ranking");
    let [container] = &top.containers[..] else {
        panic!("one container was asked for: {:?}", top.containers);
    };
    let (cpu, stall) = (
        seconds("stallscope_cpu_seconds_total"),
        seconds("stallscope_stall_seconds_total"),
    );
    let own = seconds("stallscope_task_stall_seconds_total");
    // The history holds back less than a millisecond, and cuts each second of each cause to the microsecond.
    assert!(
        (container.cpu_seconds - cpu).abs() < 0.002,
        "{} {cpu}",
        container.cpu_seconds
    );
    assert!(
        (container.lost_seconds - stall - own).abs() < 0.002,
        "{} {stall} {own}",
        container.lost_seconds
    );
    assert!(stall > 3.0, "five tasks on two CPUs wait: {stall}");
    let line = agent
        .timeline(&request("1h", &[("cgroup", &victim.label)]))
        .expect("a timeline");
    let sum = |series: &Vec<Option<f64>>| series.iter().flatten().sum::<f64>();
    // On a busy machine some seconds may have been recorded in a gap instead of one by one.
    let gaps = |of: fn(&Gap) -> f64| line.gaps.iter().map(of).sum::<f64>();
    let lost: f64 = line.causes.values().map(sum).sum();
    let lost = lost + gaps(|gap| gap.causes.values().sum());
    assert!((lost - container.lost_seconds).abs() < 1e-4);
    let cpu = sum(&line.cpu_seconds) + gaps(|gap| gap.cpu_seconds);
    assert!((cpu - container.cpu_seconds).abs() < 1e-4);
    // The time before the agent's start is unknown, which is not zero.
    assert_eq!(line.cpu_seconds.first(), Some(&None));
    assert!(line.cpu_seconds.last().is_some_and(Option::is_some));
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn a_throttled_cgroup_is_explained_by_its_quota() {
    let mut agent = agent(Config::default());
    let group = Group::new("throttled");
    let _task = group.spawn(BURSTS);
    tick_for(&mut agent, Duration::from_secs(14));
    group.limit(Some(4000));
    tick_for(&mut agent, Duration::from_secs(12));
    let report = agent
        .explain(&request("10s", &[("cgroup", &group.label)]))
        .expect("a report");
    let cause = report.causes.first().expect("a cause");
    assert_eq!(
        (cause.cause.as_str(), cause.unusual),
        ("throttled", true),
        "{}",
        report.to_text()
    );
    assert!(
        report.baseline_windows >= 1 && cause.baseline.is_some(),
        "{}",
        report.to_text()
    );
    let evidence = |name: &str| {
        let found = cause.evidence.iter().find(|each| each.name == name);
        found
            .and_then(|each| each.value)
            .unwrap_or_else(|| panic!("{name}: {}", report.to_text()))
    };
    assert!((evidence("cpu_limit") - 0.04).abs() < 1e-9);
    assert!(evidence("throttled_periods") > 20.0);
    assert!((evidence("threads") - 1.0).abs() < 1e-9);
    // The printed command removes the cause.
    let command = cause.remedy[0].command.as_ref().expect("a command");
    let status = Command::new("sh")
        .args(["-c", command.as_str()])
        .status()
        .expect("sh runs");
    assert!(status.success(), "{command}");
    tick_for(&mut agent, Duration::from_secs(6));
    let report = agent
        .explain(&request("4s", &[("cgroup", &group.label)]))
        .expect("a report");
    let throttled = report
        .causes
        .iter()
        .find(|cause| cause.cause == "throttled");
    assert!(
        throttled.is_none_or(|cause| !cause.unusual),
        "{}",
        report.to_text()
    );
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn the_worst_is_found_without_its_name_and_sums_are_nobody() {
    let mut agent = agent(Config::default());
    let group = Group::new("worst");
    group.limit(Some(2000));
    let _tasks: Vec<_> = (0..8).map(|_| group.spawn(SPIN)).collect();
    tick_for(&mut agent, Duration::from_secs(8));
    let mut worst = request("5s", &[]);
    worst.worst = true;
    let report = agent.explain(&worst).expect("a report");
    let top = agent.top(&request("5s", &[])).expect("a ranking");
    assert_eq!(report.subject.labels, top.containers[0].labels);
    assert!(
        top.containers
            .iter()
            .any(|each| each.labels["cgroup"] == group.label)
    );
    assert!(!report.subject.labels["cgroup"].starts_with('('));
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn no_history_is_said_to_be_none() {
    let mut config = Config::default();
    config.history.length = Duration::ZERO;
    let mut agent = agent(config);
    agent.tick();
    let refusal = agent.top(&Request::default()).expect_err("refused");
    assert_eq!(refusal.kind, Kind::Missing);
    assert!(refusal.error.contains("--history 0"), "{refusal}");
}

/// Returns status and body of an answer.
fn get(served: &Serving, path: &str) -> (u16, Value) {
    let (status, body) = served.get(path);
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// Runs `stallscope explain` with these arguments. Returns whether it succeeds, and its output and errors.
fn cli(served: &Serving, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stallscope"))
        .args(["explain", "--agent", &served.address])
        .args(args)
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
#[ignore = "needs root and BPF: attaches the probes, makes cgroups and loads the CPUs"]
fn over_http_senseless_questions_have_clear_answers() {
    let served = Serving::start(["--doctor", "off"]);
    let group = Group::new("<img src=x onerror=alert(1)>");
    let _task = group.spawn(BURSTS);
    let hostile: String = form_urlencoded::byte_serialize(group.label.as_bytes()).collect();
    let recorded = format!("/api/v1/explain?cgroup={hostile}");
    http::wait(&served.address, &recorded, || {
        "the cgroup is never recorded".to_owned()
    });
    for (query, status, named) in [
        (
            "cgroup=/nowhere",
            404,
            "nothing is recorded of `cgroup=/nowhere`",
        ),
        ("namespace=a&pod=b", 404, "`namespace=a` `pod=b`"),
        ("cgroup=/&at=2099-01-01T00:00:00Z", 400, "is in the future"),
        ("cgroup=/&at=-2h", 404, "the record begins at"),
        ("cgroup=/&at=-999999999999d", 404, "the record begins at"),
        ("cgroup=/&at=yesterday", 400, "expected Unix seconds"),
        ("cgroup=/&window=0s", 400, "is too short"),
        ("cgroup=/&window=1y", 400, "longer than what is kept"),
        ("cgroup=/&window=", 400, "expected 1s to 1h"),
        (
            "colour=red",
            400,
            "`colour` is neither a parameter nor a label",
        ),
        ("", 400, "no container is chosen"),
        ("cgroup=/&cgroup=/a", 400, "`cgroup` is given twice"),
        (
            "%ff=%00&cgroup=/",
            400,
            "is neither a parameter nor a label",
        ),
        (
            "namespace=",
            400,
            "is not one pod, service or cgroup but several",
        ),
    ] {
        for endpoint in ["explain", "timeline"] {
            let (found, body) = get(&served, &format!("/api/v1/{endpoint}?{query}"));
            let error = body["error"].as_str().unwrap_or_default();
            assert_eq!(found, status, "{endpoint} {query}: {body}");
            assert!(error.contains(named), "{endpoint} {query}: {error}");
        }
    }
    assert_eq!(get(&served, "/api/v1/top?window=0s").0, 400);
    assert!(get(&served, "/api/v1/topology").1["levels"].is_array());

    let (ok, text, _) = cli(&served, &["--cgroup", &group.label, "--window", "5s"]);
    assert!(ok && text.contains(&group.label), "{text}");
    let (ok, json, _) = cli(&served, &["--worst", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("json");
    assert!(ok && json["causes"].is_array(), "{json}");
    let (ok, _, error) = cli(&served, &["--pod", "no/such"]);
    assert!(!ok && error.contains("nothing is recorded of"), "{error}");
    let (ok, _, error) = cli(&served, &["--cgroup", "/", "--at", "-2h"]);
    assert!(!ok && error.contains("the record begins at"), "{error}");
    fs::metadata(&group.dir).expect("the cgroup is there still");
}
