//! `stallscope run`: the agent.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{DEFAULT_LISTEN, ProbeArgs, names::NameArgs, start_logging};
use crate::{
    agent::{Agent, Config},
    api::{Refusal, Request},
    history::Limits,
    preflight,
    server::{self, AllowedHost, Handlers, Hosts},
};

/// Measure this host and serve what is found over HTTP.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope run
  stallscope run --listen 0.0.0.0:9750
  stallscope run --pod-source api --node-name worker-1 --labels namespace,workload
  curl -s http://127.0.0.1:9750/metrics | grep stall_seconds

Needs CAP_BPF and CAP_PERFMON, or root. RUST_LOG=stallscope=debug says more;
RUST_LOG=stallscope::kernel=debug also shows messages of the kernel side.")]
pub(super) struct Args {
    /// Address and port to serve /metrics, /healthz, /readyz and the page on
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN)]
    listen: String,
    /// A name under which the server may be asked, beside its addresses, localhost and the name of this machine:
    /// NAME, *.DOMAIN for all names below, or * for any. Others are refused, since a web page can let a name of its
    /// own point here. May be given several times
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<AllowedHost>,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    names: NameArgs,
    /// Give up all capabilities once the probes are attached, as far as this kernel allows it: the tables cannot be
    /// enlarged then, so --slots is at least 4000 unless given
    #[arg(long)]
    drop_capabilities: bool,
    /// How much of the past to keep for the page, top and explain: up to 24h, or 0 for nothing
    #[arg(long, value_name = "LENGTH", default_value = "1h", value_parser = history_length)]
    history: Duration,
    /// Memory of that at most, in MiB; what is oldest leaves first, and no container has more than 64 KiB
    #[arg(long, value_name = "MIB", default_value_t = Limits::default().bytes >> 20, value_parser = history_memory)]
    history_memory: usize,
    /// How often to audit the node and export what is found: a number with s, m or h, or off
    #[arg(long, value_name = "INTERVAL", default_value = "1h", value_parser = interval)]
    doctor: Interval,
    /// Where the host's root directory is, for the audit and for explanations: in a container, where it is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    doctor_root: PathBuf,
}

/// How often; none for never.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Interval(Option<Duration>);

fn history_length(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 3600);
    let length = match text {
        "0" => Some(Duration::ZERO),
        text => humantime::parse_duration(text).ok(),
    };
    match length {
        Some(length) if length.is_zero() || (Duration::from_secs(60)..=day).contains(&length) => {
            Ok(length)
        }
        _ => Err("expected 1m to 24h, such as 30m or 1h, or 0 for no history".to_owned()),
    }
}

fn history_memory(text: &str) -> Result<usize, String> {
    let mebibytes = text.parse().ok().filter(|mib| (1..=1024).contains(mib));
    mebibytes.ok_or_else(|| "expected 1 to 1024 MiB".to_owned())
}

fn interval(text: &str) -> Result<Interval, String> {
    if text == "off" {
        return Ok(Interval(None));
    }
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let found = units.iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(*seconds)
    });
    // The audit takes a moment of CPU time, and what it reads changes rarely.
    match found {
        Some(seconds) if seconds >= 10 => Ok(Interval(Some(Duration::from_secs(seconds)))),
        _ => Err("expected 10s or more, such as 30m or 1h, or off".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    start_logging("info");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(serve(args));
    // A scrape that hangs in the kernel must not hold the exit.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(args: Args) -> anyhow::Result<()> {
    // The port first: a second agent says so before it costs anything.
    let listener = server::bind(&args.listen)?;
    preflight::check(Path::new("/proc"), Path::new("/sys"))?;
    preflight::raise_memlock_limit();
    let registry = prometheus::Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry
        .register(Box::new(process))
        .context("cannot watch the agent's own process")?;
    let config = Config {
        names: args.names.choose()?,
        trees: args.names.trees(),
        labels: args.names.labels.clone(),
        sealed: args.drop_capabilities,
        history: Limits {
            length: args.history,
            bytes: args.history_memory << 20,
        },
        root: args.doctor_root,
        ..args.probes.config()
    };
    let mut agent = Agent::start(config, registry.clone())?;
    if args.drop_capabilities {
        // Before there are other threads, each of which would have capabilities of its own.
        match agent.seal() {
            Ok(()) => tracing::info!("gave up all capabilities"),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "capabilities are kept: without them the agent could not go on measuring here"
            ),
        }
    }
    agent.start_names()?;
    if let Interval(Some(every)) = args.doctor {
        agent.start_doctor(every)?;
    }
    agent.tick();
    agent.ready().map_err(anyhow::Error::msg)?;
    let agent = Arc::new(Mutex::new(agent));
    tokio::spawn(keep_time(Arc::clone(&agent)));
    tracing::info!(address = %args.listen, "serving /metrics");
    let server = server::Config {
        hosts: Hosts::new(args.allowed_host),
        ..server::Config::default()
    };
    server::serve(server, listener, handlers(&agent), &registry, shutdown()?).await
}

/// Looks after the agent when it is time, and soon after a cgroup came or went: one that lives shorter than the time
/// between two looks would stay without a name.
async fn keep_time(agent: Arc<Mutex<Agent>>) {
    /// The least time between two looks, however much comes and goes.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut changes = lock(&agent).changes();
    loop {
        let next = {
            let mut agent = lock(&agent);
            agent.tick();
            agent.next_tick()
        };
        tokio::time::sleep(PAUSE).await;
        let wait = tokio::time::sleep(next.saturating_sub(PAUSE));
        match &changes {
            None => wait.await,
            Some(fd) => tokio::select! {
                () = wait => {}
                ready = fd.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => changes = None,
                },
            },
        }
        // In fallback nothing is ever readable, and a duplicate would hold on to the watches.
        changes = changes.filter(|_| lock(&agent).follows_changes());
    }
}

fn handlers(agent: &Arc<Mutex<Agent>>) -> Handlers {
    let (collect, ready, status) = (Arc::clone(agent), Arc::clone(agent), Arc::clone(agent));
    let topology = serde_json::to_value(lock(agent).topology()).unwrap_or_default();
    let ask =
        |answer: fn(&Agent, &Request) -> Result<serde_json::Value, Refusal>| -> server::Answer {
            let agent = Arc::clone(agent);
            Arc::new(move |request| answer(&lock(&agent), request))
        };
    Handlers {
        topology,
        answers: server::Answers {
            top: ask(|agent, request| Ok(json(agent.top(request)?))),
            timeline: ask(|agent, request| Ok(json(agent.timeline(request)?))),
            explain: ask(|agent, request| Ok(json(agent.explain(request)?))),
        },
        collect: Arc::new(move |format| lock(&collect).collect(format)),
        ready: Arc::new(move || lock(&ready).ready()),
        status: Arc::new(move || {
            let report = lock(&status).status();
            serde_json::to_value(report).unwrap_or_default()
        }),
    }
}

fn json(answer: impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(answer).unwrap_or_default()
}

/// A scrape that panicked leaves counters that are still right.
fn lock(agent: &Mutex<Agent>) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends with SIGINT or SIGTERM.
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("shutting down");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_a_least_length() {
        let seconds = |text| interval(text).map(|every| every.0.map(|every| every.as_secs()));
        assert_eq!(seconds("1h"), Ok(Some(3600)));
        assert_eq!(seconds("90s"), Ok(Some(90)));
        assert_eq!(seconds("off"), Ok(None));
        for text in [
            "",
            "1",
            "9s",
            "-1h",
            "h",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
