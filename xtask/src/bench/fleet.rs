//! Cost of a fleet of agents to the Prometheus that scrapes it: a real Prometheus, and agents whose counts are made up.

mod prometheus;
mod queries;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::agent::{request, series};
use super::figure::Figures;
use super::process::Process;
use super::rest::MEGABYTE;
use super::{host, interrupt};
use crate::setup::{Install, Setup};
use crate::shell;
use crate::workspace::{AGENT_PACKAGE, Workspace};

use prometheus::Prometheus;

/// Scrape interval, in seconds.
const SCRAPE_SECONDS: u64 = 15;

/// Time until the rules' rates over five minutes cover five minutes.
const SETTLE: Duration = Duration::from_secs(330);

/// Options of the fleet.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    /// Measure instead what a real Prometheus takes to scrape a fleet of agents whose counts are made up.
    #[arg(long, conflicts_with_all = ["only", "agent"])]
    pub fleet: bool,

    /// Agents of the fleet.
    #[arg(long, default_value_t = 200, requires = "fleet", value_parser = clap::value_parser!(u32).range(1..=2000))]
    agents: u32,

    /// Pods on the node of each, with two containers.
    #[arg(long, default_value_t = 30, requires = "fleet", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pods: u32,

    /// Labels of the fleet's owners.
    #[arg(
        long,
        default_value = "namespace,pod,container,cgroup",
        requires = "fleet"
    )]
    labels: String,

    /// Minutes to measure, after some in which everything is new.
    #[arg(long, default_value_t = 10, requires = "fleet", value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
}

/// Builds the fleet, starts it and a Prometheus, and measures.
pub fn run(workspace: &Workspace, install: Install, args: &FleetArgs, json: bool) -> Result<()> {
    interrupt::on_signals();
    let program = prometheus_program(workspace, install)?;
    let fleet = build(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.target)
        .with_context(|| format!("could not make a folder in {}", workspace.target.display()))?;
    let started = Instant::now();
    let mut figures = Figures::new(json);
    host::header(&mut figures)?;
    measure(
        workspace,
        &program,
        &fleet,
        folder.path(),
        args,
        &mut figures,
    )?;
    figures.finish(started.elapsed());
    Ok(())
}

fn prometheus_program(workspace: &Workspace, install: Install) -> Result<PathBuf> {
    let mut setup = Setup::new(install);
    let folder = setup.promtool(workspace)?;
    setup.finish()?;
    let program = folder.map_err(anyhow::Error::msg)?.join("prometheus");
    ensure!(
        shell::is_program(&program),
        "there is a promtool, but no {}: expected the two side by side, as in Debian's package `prometheus`",
        program.display()
    );
    Ok(program)
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", AGENT_PACKAGE]);
    // Build output must not mix with the figures.
    cargo.args(["--example", "fleet"]).stdout(Stdio::null());
    shell::run(&mut cargo)?;
    Ok(workspace.target.join("release/examples/fleet"))
}

/// Addresses that the fleet listens at.
#[derive(Debug, Deserialize)]
pub struct Addresses {
    agents: Vec<SocketAddr>,
    pod_owners: SocketAddr,
}

fn start_fleet(program: &Path, args: &FleetArgs) -> Result<(Process, Addresses)> {
    let mut command = Command::new(program);
    command
        .args(["--agents", &args.agents.to_string()])
        .args(["--pods", &args.pods.to_string()])
        .args(["--labels", &args.labels])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let mut line = String::new();
    if let Some(output) = process.output() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let addresses = serde_json::from_str(&line)
        .with_context(|| format!("the fleet did not say where it listens, but: {line}"))?;
    Ok((process, addresses))
}

fn measure(
    workspace: &Workspace,
    program: &Path,
    fleet: &Path,
    folder: &Path,
    args: &FleetArgs,
    figures: &mut Figures,
) -> Result<()> {
    let (fleet, addresses) = start_fleet(fleet, args)?;
    eprintln!(
        "==> {} agents with {} pods each are scraped every {SCRAPE_SECONDS} s",
        args.agents, args.pods
    );
    let rules = workspace.root.join("dashboards/fleet-rules.yaml");
    let mut prometheus = Prometheus::start(program, folder, &rules, &addresses)?;
    prometheus.wait_until_all_are_up(args.agents as usize)?;
    interrupt::sleep(SETTLE)?;

    eprintln!("==> measuring for {} minutes", args.minutes);
    let before = Reading::take(&prometheus, &fleet, folder)?;
    interrupt::sleep(Duration::from_secs(args.minutes * 60))?;
    let after = Reading::take(&prometheus, &fleet, folder)?;
    let targets = f64::from(args.agents);
    rates(&before, &after, targets, figures);
    sizes(&prometheus, &addresses, &after, targets, figures)?;
    durations(&prometheus, figures)?;
    disk(&prometheus, folder, figures)?;
    eprintln!("==> queries of a dashboard, over raw and over recorded series");
    queries::measure(&prometheus, Duration::from_secs(args.minutes * 60), figures)
}

/// One reading of the measured Prometheus and of the fleet.
struct Reading {
    at: Instant,
    samples: f64,
    cpu_ns: u64,
    fleet_cpu_ns: u64,
    resident: u64,
    head_series: f64,
    wal: u64,
}

impl Reading {
    fn take(prometheus: &Prometheus, fleet: &Process, folder: &Path) -> Result<Self> {
        let own = prometheus.own_metrics()?;
        Ok(Self {
            at: Instant::now(),
            samples: own.sum("prometheus_tsdb_head_samples_appended_total"),
            cpu_ns: prometheus.process.cpu_ns()?,
            fleet_cpu_ns: fleet.cpu_ns()?,
            resident: prometheus.process.resident()?.0,
            head_series: own.sum("prometheus_tsdb_head_series"),
            wal: bytes_below(&folder.join("data/wal"))?,
        })
    }
}

fn rates(before: &Reading, after: &Reading, targets: f64, figures: &mut Figures) {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let samples = after.samples - before.samples;
    let scrapes = seconds / SCRAPE_SECONDS as f64 * targets;
    let cpu = (after.cpu_ns - before.cpu_ns) as f64;
    let fleet = (after.fleet_cpu_ns - before.fleet_cpu_ns) as f64;
    figures.number("samples_per_second", samples / seconds, "samples/s");
    figures.number("head_series", after.head_series, "series");
    figures.number("prometheus_cpu", cpu / seconds / 1e7, "% of a CPU");
    figures.number("prometheus_cpu_per_scrape", cpu / scrapes / 1e6, "ms");
    figures.number("prometheus_cpu_per_sample", cpu / samples / 1e3, "us");
    figures.number("prometheus_rss", after.resident as f64 / MEGABYTE, "MB");
    let each = after.resident as f64 / after.head_series;
    figures.number("prometheus_rss_per_head_series", each, "bytes");
    // Cutting the head into blocks shrinks the log, but happens only every two hours.
    let wal = after.wal.saturating_sub(before.wal) as f64;
    figures.number("wal_per_sample", wal / samples, "bytes");
    figures.number("fleet_cpu_per_scrape", fleet / scrapes / 1e6, "ms");
}

/// Reports the sizes of one target and of all series that the rules record.
fn sizes(
    prometheus: &Prometheus,
    addresses: &Addresses,
    after: &Reading,
    targets: f64,
    figures: &mut Figures,
) -> Result<()> {
    let first = addresses.agents.first().context("there is no agent")?;
    let text = request(*first, "GET", "/metrics")?;
    let count = series(&text) as f64;
    figures.number("scrape_size", text.len() as f64, "bytes");
    figures.number("scrape_size_per_series", text.len() as f64 / count, "bytes");
    let per_target = prometheus.value(r#"avg(scrape_samples_scraped{job="stallscope"})"#)?;
    figures.number("series_per_target", per_target, "series");
    let live = per_target * targets;
    figures.number("head_series_over_live", after.head_series / live, "ratio");
    let recorded = prometheus.value(r#"count({__name__=~".+:stallscope_.+"})"#)?;
    figures.number("recorded_series", recorded, "series");
    figures.number("recorded_over_raw", recorded / live, "ratio");
    Ok(())
}

fn durations(prometheus: &Prometheus, figures: &mut Figures) -> Result<()> {
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let query = format!(r#"quantile({quantile}, scrape_duration_seconds{{job="stallscope"}})"#);
        let seconds = prometheus.value(&query)?;
        figures.number(format!("scrape_duration_{name}"), seconds * 1e3, "ms");
    }
    for (group, seconds) in prometheus.rule_groups()? {
        figures.number(format!("rules_{group}"), seconds * 1e3, "ms");
    }
    Ok(())
}

/// Writes the head as a block, as Prometheus does every two hours, and reports the size of that block.
fn disk(prometheus: &Prometheus, folder: &Path, figures: &mut Figures) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stats {
        num_samples: f64,
        num_series: f64,
    }
    #[derive(Deserialize)]
    struct Meta {
        stats: Stats,
    }
    let snapshot = folder.join("data/snapshots").join(prometheus.snapshot()?);
    let (mut chunks, mut index, mut samples, mut series) = (0, 0, 0.0, 0.0);
    for entry in fs::read_dir(&snapshot).context("no snapshot")? {
        let block = entry?.path();
        let meta = fs::read_to_string(block.join("meta.json"))?;
        let Stats {
            num_samples,
            num_series,
        } = serde_json::from_str::<Meta>(&meta)?.stats;
        samples += num_samples;
        series += num_series;
        chunks += bytes_below(&block.join("chunks"))?;
        index += fs::metadata(block.join("index"))?.len();
    }
    if samples <= 0.0 {
        bail!("the snapshot at {} holds nothing", snapshot.display());
    }
    figures.number("block_samples_per_series", samples / series, "samples");
    figures.number("chunks_per_sample", chunks as f64 / samples, "bytes");
    figures.number("index_per_series", index as f64 / series, "bytes");
    Ok(())
}

/// Returns the bytes of all files of a folder.
fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        // A file that was removed meanwhile takes no space.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += if metadata.is_dir() {
            bytes_below(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}
