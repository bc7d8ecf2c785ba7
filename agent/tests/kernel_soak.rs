//! Soak test: short-lived cgroups come by the thousand while the test scrapes the agent each second and its page is
//! open.
//!
//! `STALLSCOPE_SOAK_SECONDS` sets its length, a minute by default. From ten minutes on the test judges the agent's
//! resident memory as well: after the first five minutes it stays within a tenth.

#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it in tests, but not in what they have in common"
)]

#[path = "exposition/parser.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod exposition;
mod kernel;
mod serving;

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use exposition::{Family, Sample};
use kernel::{Group, Task};
use serving::Serving;
use stallscope::exposition::Format;

/// Cgroups made per minute.
const RATE: u64 = 1000;
/// Lifetime of each cgroup.
const LIFETIME: Duration = Duration::from_secs(1);
/// Script that works for a few milliseconds and sleeps twice, so that it is switched out and in again.
const SCRIPT: &str = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; sleep 0.01; sleep 0.01";
/// Time after which resident memory must be flat.
const SETTLED: Duration = Duration::from_secs(300);
/// Shortest soak that judges memory.
const JUDGED: Duration = Duration::from_secs(600);

/// The page in a real browser, where one is installed.
struct Page {
    browser: Option<Child>,
    _profile: tempfile::TempDir,
}

impl Page {
    fn open(address: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let browser = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-quic", "--no-first-run", "--disable-sync"])
            .args([
                "--disable-background-networking",
                "--remote-debugging-port=0",
            ])
            .arg("--disable-component-update")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{address}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Err(error) = &browser {
            println!("no browser ({error}): the test asks what the page asks");
        }
        Self {
            browser: browser.ok(),
            _profile: profile,
        }
    }

    /// Sends the requests of an open page, where no browser does.
    fn ask(&self, agent: &Serving, second: u64) {
        if self.browser.is_some() || second % 2 == 1 {
            return;
        }
        for path in [
            "/api/v1/top?window=5m",
            "/api/v1/timeline?cgroup=%2F&window=5m",
        ] {
            agent.get(path);
        }
        if second.is_multiple_of(10) {
            agent.get("/api/v1/status");
            agent.get("/api/v1/explain?worst=1&window=5m");
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(browser) = &mut self.browser {
            let _ = browser.kill();
            let _ = browser.wait();
        }
    }
}

/// A thread that makes cgroups with a lifetime of a second at a steady rate. Dropping it ends the thread.
struct Churn {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Churn {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        Self {
            over,
            thread: Some(thread::spawn(move || churn(&told))),
        }
    }

    /// Ends the thread and returns the number of cgroups it made.
    fn end(&mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.end();
    }
}

fn churn(over: &AtomicBool) -> u64 {
    let started = Instant::now();
    let mut made = 0;
    let mut alive: VecDeque<(Instant, Task, Group)> = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        let due = u64::try_from(started.elapsed().as_millis()).unwrap() * RATE / 60_000;
        if made < due {
            let group = Group::new(&format!("soak-{made}"));
            let task = group.spawn(SCRIPT);
            alive.push_back((Instant::now(), task, group));
            made += 1;
        }
        while alive
            .front()
            .is_some_and(|(born, ..)| born.elapsed() >= LIFETIME)
        {
            alive.pop_front();
        }
        // The pause allows a few times the rate, so that a delayed thread catches up.
        sleep(Duration::from_millis(15));
    }
    made
}

/// Values of every counter, by series and summed by family, and of every gauge, summed by family.
#[derive(Default)]
struct Counters {
    series: BTreeMap<String, f64>,
    sums: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
}

impl Counters {
    fn of(scrape: &str) -> Self {
        let families: Vec<Family> = exposition::parse(scrape, Format::Text).unwrap();
        let mut counters = Self::default();
        for family in families {
            if family.kind != "counter" && family.kind != "histogram" {
                let sum = family.samples.iter().map(Sample::number).sum();
                counters.gauges.insert(family.name, sum);
                continue;
            }
            for sample in &family.samples {
                let value = sample.number();
                let series = format!("{}{:?}", sample.name, sample.labels);
                counters.series.insert(series, value);
                *counters.sums.entry(sample.name.clone()).or_default() += value;
            }
        }
        counters
    }

    /// Returns a gauge in millions, summed over its series.
    fn millions(&self, gauge: &str) -> f64 {
        self.gauges.get(gauge).copied().unwrap_or_default() / 1e6
    }

    /// Describes everything that could grow without bound: owners, series, the history, the kernel's tables and unread
    /// answers.
    fn sizes(&self) -> String {
        format!(
            "{:.0} owners, {:.0} series, history {:.2} MB, tables {:.1} MB, unread {:.1} MB",
            self.millions("stallscope_owners") * 1e6,
            self.millions("stallscope_series") * 1e6,
            self.millions("stallscope_history_bytes"),
            self.millions("stallscope_map_memory_bytes"),
            self.millions("stallscope_http_unread_bytes"),
        )
    }

    /// Lists the counters that are lower here than in `before`.
    fn fallen(&self, before: &Self) -> Vec<String> {
        let mut fallen = Vec::new();
        for (series, last) in &before.series {
            // A series ends five minutes after its cgroup. Its counts go on in the sum.
            let now = self.series.get(series);
            if let Some(now) = now.filter(|now| *now < last) {
                fallen.push(format!("{series} fell from {last} to {now}"));
            }
        }
        for (name, last) in &before.sums {
            let now = self.sums.get(name).copied().unwrap_or(0.0);
            // Sums of decimal fractions are rounded in their last digits.
            if now < last * (1.0 - 1e-9) {
                fallen.push(format!("the sum of {name} fell from {last} to {now}"));
            }
        }
        fallen
    }
}

/// Returns the memory of a process in bytes by name (`/proc/PID/smaps_rollup`, proc(5)): `Rss` is all of its resident
/// memory, `Anonymous` its heap.
fn memory(pid: u32) -> BTreeMap<String, u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let kilobytes = value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        Some((name.to_owned(), kilobytes * 1024))
    });
    lines.collect()
}

fn length() -> Duration {
    let seconds = env::var("STALLSCOPE_SOAK_SECONDS").map_or(60, |text| {
        text.parse().unwrap_or_else(|_| {
            panic!("STALLSCOPE_SOAK_SECONDS is `{text}`; expected seconds, such as 1800")
        })
    });
    Duration::from_secs(seconds)
}

#[test]
#[ignore = "needs root and BPF: attaches the probes and makes a thousand cgroups a minute"]
fn memory_is_flat_and_no_counter_falls() {
    let length = length();
    let agent = Serving::start(["--doctor", "off"]);
    let page = Page::open(&agent.address);
    let mut churn = Churn::start();
    let started = Instant::now();
    let mut before = Counters::default();
    let mut settled: Option<(u64, u64)> = None;
    let mut minute = 0;
    let mut text = String::new();
    for second in 0.. {
        if started.elapsed() >= length {
            break;
        }
        let (status, scrape) = agent.get("/metrics");
        assert_eq!(status, 200, "{scrape}");
        text = scrape;
        let now = Counters::of(&text);
        let fallen = now.fallen(&before);
        assert!(fallen.is_empty(), "second {second}: {fallen:#?}");
        before = now;
        page.ask(&agent, second);
        let memory = memory(agent.pid());
        let resident = memory["Rss"];
        if started.elapsed() >= SETTLED {
            let (low, high) = settled.get_or_insert((resident, resident));
            *low = resident.min(*low);
            *high = resident.max(*high);
        }
        if started.elapsed().as_secs() / 60 >= minute {
            minute = started.elapsed().as_secs() / 60 + 1;
            println!(
                "{} scrapes in {:?}: resident {:.1} MB, of it heap {:.1} MB; {}",
                second + 1,
                started.elapsed(),
                resident as f64 / 1e6,
                memory["Anonymous"] as f64 / 1e6,
                before.sizes()
            );
        }
        sleep(
            (started + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()),
        );
    }
    let made = churn.end();
    let asked: f64 = before
        .series
        .iter()
        .filter(|(series, _)| {
            series.starts_with("stallscope_http_requests_total") && series.contains("/api/v1/top")
        })
        .map(|(_, value)| value)
        .sum();
    println!(
        "{made} cgroups in {:?}, the page asked {asked} times, memory after five minutes {settled:?}",
        started.elapsed()
    );
    assert!(asked > 0.0, "no page was open");
    let work = before.series.iter().filter(|(series, value)| {
        series.starts_with("stallscope_cpu_seconds_total")
            && series.contains("soak-")
            && **value > 0.0
    });
    assert!(
        work.count() > 0,
        "no cgroup of the churn was counted:\n{text}"
    );
    if length < JUDGED {
        println!("memory is not judged: the soak is shorter than {JUDGED:?}");
        return;
    }
    let (low, high) = settled.unwrap();
    assert!(
        high as f64 <= low as f64 * 1.1,
        "resident memory grew from {low} to {high} bytes after the first five minutes"
    );
}
