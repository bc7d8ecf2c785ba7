//! `stallscope run`: the agent.

mod ending;
mod handlers;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

use super::{DEFAULT_LISTEN, ProbeArgs, logging, names::NameArgs};
use crate::{
    agent::{Agent, Config, actor},
    host::preflight,
    ledger::history::Limits,
    server::{self, AllowedHost, Hosts},
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

/// An interval; none means never.
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
    // The audit takes some CPU time, and its files rarely change.
    match found {
        Some(seconds) if seconds >= 10 => Ok(Interval(Some(Duration::from_secs(seconds)))),
        _ => Err("expected 10s or more, such as 30m or 1h, or off".to_owned()),
    }
}

/// Runs until a signal arrives or a part of the agent ends. The caller then has to end the process at once, whatever
/// threads hang.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let log = logging::start_queued("info").context("cannot start the thread of the log")?;
    ending::log_panics();
    let asked = ending::watch()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let served = catch_unwind(AssertUnwindSafe(|| runtime.block_on(serve(args, asked))))
        .unwrap_or_else(|_| Err(anyhow!("the server panicked: see the log")));
    // A task that hangs must not delay the exit.
    runtime.shutdown_background();
    log.flush(match &served {
        Ok(()) => ending::LAST_WORDS,
        Err(error) => {
            log.say(&format!("stallscope: {error:#}"));
            ending::REASON
        }
    });
    Ok(served.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

async fn serve(args: Args, asked: oneshot::Receiver<()>) -> anyhow::Result<()> {
    // Binds the port first: a second agent then fails before it costs anything.
    let listener = server::bind(&args.listen)?;
    preflight::check(Path::new("/proc"), Path::new("/sys"))?;
    preflight::raise_memlock_limit();
    let registry = prometheus::Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry
        .register(Box::new(process))
        .context("cannot watch the agent's own process")?;
    logging::register(&registry).context("cannot count lost log lines")?;
    let config = Config {
        names: args.names.choose(args.drop_capabilities)?,
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
        // Sealing comes before other threads start, since each has its own capabilities; the threads that run by now
        // have dropped theirs.
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
    let (topology, reads) = (agent.topology().clone(), agent.reads().clone());
    let (agent, ended) = actor::start(agent)?;
    let handlers = handlers::handlers(&agent, &topology, &reads);
    let shutdown = async {
        if asked.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tracing::info!(address = %args.listen, "serving /metrics");
    let config = server::Config {
        hosts: Hosts::new(args.allowed_host),
        ..server::Config::default()
    };
    tokio::select! {
        served = server::serve(config, listener, handlers, &registry, shutdown) => served,
        why = ended => Err(anyhow!(
            "the agent's thread has ended: {}",
            why.unwrap_or_else(|_| "for no reason that is known".to_owned())
        )),
    }
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
