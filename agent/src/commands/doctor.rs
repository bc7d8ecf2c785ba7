//! `stallscope doctor`: the node audit.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::{DEFAULT_LISTEN, client::metrics, complain, show, status::ask};
use crate::{
    agent::{Agent, Config},
    doctor::{self, Live, Node, Report, Root},
    host::preflight,
    text::printable::lines,
};

/// Exit code when there was no audit: 1 and 2 state the result of one.
pub(super) const FAILED: u8 = 3;

/// Audit how this node is set up.
///
/// Reads files only, and most without root; as root it also tries whether programs attach to functions, unless an agent
/// runs here that knows. Exits with 0 when there is nothing but infos, 1 with warnings, 2 with problems, 3 when it could
/// not audit at all (a command line that cannot be understood included).
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope doctor
  stallscope doctor --json | jq '.findings[] | {check, severity, title}'
  stallscope doctor --agent 127.0.0.1:9750
  stallscope doctor --report evidence-of-node-7
  stallscope doctor --root evidence-of-node-7
  stallscope doctor --diff node-7.json node-8.json")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the audit and every file it was made from to this new directory, for a ticket; it can be audited with --root
    #[arg(long, value_name = "DIR", conflicts_with = "diff")]
    report: Option<PathBuf>,
    /// Audit the files below this directory instead of the running host
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "diff")]
    root: PathBuf,
    /// Ask the agent at this address, and no other, what it found out about this host
    #[arg(long, value_name = "ADDR:PORT", conflicts_with_all = ["root", "diff"])]
    agent: Option<String>,
    /// Compare two audits (files of --json): what differs, and what of it matters; exits with 1 if something does
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"])]
    diff: Option<Vec<PathBuf>>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let done = match &args.diff {
        Some(files) => diff(files, args.json),
        None => audit(args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("stallscope: {}", lines(&format!("{error:#}"))));
            ExitCode::from(FAILED)
        }
    }
}

fn audit(args: &Args) -> anyhow::Result<u8> {
    let root = Root::open(&args.root).with_context(|| {
        format!(
            "cannot list {}: expected a directory with proc, sys and etc below it",
            args.root.display()
        )
    })?;
    let live = match &args.agent {
        Some(address) => told(address)?,
        None if root.is_host() => told(DEFAULT_LISTEN).unwrap_or_else(|_| try_out()),
        None => Live::of_report(&root),
    };
    let node = Node::read(root, live);
    let report = doctor::audit(&node);
    if let Some(dir) = &args.report {
        let files = doctor::write_evidence(&node, &report, dir)?;
        complain(&format!(
            "wrote report.json, report.txt and {files} files of evidence to {}",
            dir.display()
        ));
    }
    print(&report, args.json)?;
    Ok(report.exit_code())
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(report)? + "\n"
    } else {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        report.to_text(colours)
    };
    show(&text)
}

fn diff(files: &[PathBuf], json: bool) -> anyhow::Result<u8> {
    let read = |path: &Path| -> anyhow::Result<serde_json::Value> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is no JSON: expected what `stallscope doctor --json` prints",
                path.display()
            )
        })
    };
    let (first, second) = (read(&files[0])?, read(&files[1])?);
    let differences = doctor::compare(&first, &second)?;
    let matter = differences
        .iter()
        .any(|difference| difference.matters.is_some());
    show(&if json {
        serde_json::to_string_pretty(&differences)? + "\n"
    } else {
        doctor::compared_text(&differences)
    })?;
    Ok(u8::from(matter))
}

/// Returns what the agent at an address knows of its host.
fn told(address: &str) -> anyhow::Result<Live> {
    let mut live = Live::default();
    live.learn_types();
    live.learn_status(&ask(address)?);
    live.learn_metrics(&metrics(address)?);
    Ok(live)
}

/// Attaches the probes for a moment, which takes root, and returns what that shows of this host.
fn try_out() -> Live {
    let mut live = Live::default();
    live.learn_types();
    match attach() {
        Ok(status) => live.learn_status(&status),
        Err(error) => tracing::debug!(error = format!("{error:#}"), "cannot try trampolines"),
    }
    live
}

fn attach() -> anyhow::Result<serde_json::Value> {
    preflight::check(Path::new("/proc"), Path::new("/sys"))?;
    preflight::raise_memlock_limit();
    let config = Config {
        slots: Some(2),
        ..Config::default()
    };
    let agent = Agent::start(config, prometheus::Registry::new())?;
    Ok(serde_json::to_value(agent.status())?)
}
