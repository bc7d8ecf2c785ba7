//! Cost of a scrape, by the number of cgroups.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::agent::{Agent, series, sum};
use super::cgroups::Cgroups;
use super::estimate::mean_of;
use super::figure::Figures;
use super::rest::MEGABYTE;
use super::{interrupt, load};

const COUNTS: [usize; 3] = [10, 100, 1000];
const SCRAPES: usize = 20;

/// Path that an open page requests every two seconds.
const TOP: &str = "/api/v1/top?window=60s";

/// Targets for the kernel memory of the maps in megabytes: on up to two CPUs, and on more, up to 128.
const MAPS_SMALL: f64 = 16.0;
const MAPS_LARGE: f64 = 64.0;

/// Measures at each number of cgroups.
pub fn measure(program: &Path, quick: bool, figures: &mut Figures) -> Result<()> {
    let mut cgroups = Cgroups::new()?;
    for count in COUNTS {
        eprintln!("==> scrapes at {count} cgroups");
        cgroups.grow(count)?;
        // A new agent for each size keeps the sizes independent.
        let agent = Agent::start(program)?;
        at(&agent, &cgroups, count, quick, figures)?;
    }
    Ok(())
}

/// Requests a path repeatedly. Returns the agent's CPU time of each answer in milliseconds, and the last answer.
fn ask(agent: &Agent, path: &str, idle: f64) -> Result<(Vec<f64>, String)> {
    let mut costs = Vec::new();
    let mut text = String::new();
    for _ in 0..SCRAPES {
        let (start, before) = (Instant::now(), agent.cpu_ns()?);
        text = agent.get(path)?;
        // The agent still works for a moment after the answer has left.
        interrupt::sleep(Duration::from_millis(30))?;
        let cpu = (agent.cpu_ns()? - before) as f64;
        costs.push((cpu - idle * start.elapsed().as_secs_f64()) / 1e6);
    }
    Ok((costs, text))
}

fn at(
    agent: &Agent,
    cgroups: &Cgroups,
    count: usize,
    quick: bool,
    figures: &mut Figures,
) -> Result<()> {
    cgroups.visit()?;
    interrupt::sleep(Duration::from_secs(2))?;
    // The first scrape grows buffers, and shows that every cgroup is there.
    let text = agent.get("/metrics")?;
    let seen = text
        .lines()
        .filter(|line| line.starts_with("stallscope_cpu_seconds_total{"))
        .filter(|line| line.contains(&format!("/stallscope-bench-{}/", std::process::id())))
        .count();
    ensure!(
        seen >= count,
        "a task ran in {count} cgroups, but a scrape shows {seen}"
    );
    let idle = agent.idle_ns_per_second(Duration::from_secs(if quick { 4 } else { 12 }))?;
    let (costs, text) = ask(agent, "/metrics", idle)?;
    let name = |figure: &str| format!("{figure}_{count}_cgroups");
    figures.estimate(name("scrape_cpu"), mean_of(&costs), "ms");
    let (costs, top) = ask(agent, TOP, idle)?;
    figures.estimate(name("top_cpu"), mean_of(&costs), "ms");
    figures.number(name("top_size"), top.len() as f64, "bytes");
    figures.number(name("scrape_size"), text.len() as f64, "bytes");
    figures.number(name("scrape_series"), series(&text) as f64, "series");
    figures.number(name("idle_cpu"), idle / 1e9 * 100.0, "% of a CPU");
    let (resident, anonymous) = agent.resident()?;
    figures.number(name("rss"), resident as f64 / MEGABYTE, "MB");
    if Some(&count) == COUNTS.last() {
        figures.number(name("rss_anonymous"), anonymous as f64 / MEGABYTE, "MB");
        let target = if load::allowed_cpus()?.len() <= 2 {
            MAPS_SMALL
        } else {
            MAPS_LARGE
        };
        let maps = sum(&text, "stallscope_map_memory_bytes") / MEGABYTE;
        figures.number_against("map_memory", maps, "MB", target);
    }
    Ok(())
}
