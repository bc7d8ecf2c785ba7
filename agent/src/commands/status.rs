//! `stallscope status`: what each probe does on this host, and why not.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use serde_json::Value;

use super::{DEFAULT_LISTEN, ProbeArgs, client, logging, show};
use crate::{agent::Agent, host::preflight, text::printable::line};

/// Show what each probe does on this host, and why not.
///
/// Asks the agent that runs here; where none runs, attaches every probe for a moment. Exits with 1
/// when a probe that should work here does not.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope status
  stallscope status --json | jq '.probes[] | {probe, state}'
  stallscope status --agent 10.0.0.7:9750
  stallscope status --try")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Ask the agent at this address, and no other
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "try")]
    agent: Option<String>,
    /// Attach every probe for a moment, even if an agent runs
    #[arg(long)]
    r#try: bool,
    #[command(flatten)]
    probes: ProbeArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    logging::start("error");
    let report = match &args.agent {
        Some(address) => ask(address)?,
        None if args.r#try => attach(args.probes)?,
        None => match ask(DEFAULT_LISTEN) {
            Ok(report) => report,
            Err(_) => attach(args.probes)?,
        },
    };
    if args.json {
        show(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        show(&text(&report))?;
    }
    Ok(if healthy(&report) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn attach(probes: ProbeArgs) -> anyhow::Result<Value> {
    preflight::check(Path::new("/proc"), Path::new("/sys"))?;
    preflight::raise_memlock_limit();
    let agent = Agent::start(probes.config(), prometheus::Registry::new())?;
    Ok(serde_json::to_value(agent.status())?)
}

/// Returns the status of a running agent.
pub(super) fn ask(address: &str) -> anyhow::Result<Value> {
    let report = client::get(address, "/api/v1/status")?;
    anyhow::ensure!(
        report["probes"].is_array(),
        "{address} is no Stallscope agent"
    );
    Ok(report)
}

/// Returns whether no probe or hook failed that should work.
fn healthy(report: &Value) -> bool {
    let failed = |value: &Value| value["state"] == "failed";
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    !list(&report["probes"])
        .iter()
        .any(|probe| failed(probe) || list(&probe["hooks"]).iter().any(failed))
}

fn text(report: &Value) -> String {
    let field =
        |value: &Value, name: &str| line(value[name].as_str().unwrap_or_default()).into_owned();
    let detail = |value: &Value| match value["by"].as_array() {
        Some(by) => by
            .iter()
            .filter_map(Value::as_str)
            .map(line)
            .collect::<Vec<_>>()
            .join(" + "),
        None => field(
            value,
            if value["error"].is_string() {
                "error"
            } else {
                "reason"
            },
        ),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "stallscope {} on Linux {}\ncgroups  {}\npods     {}\nnames    {}\ntables   {} slots, {} KiB of kernel memory\n",
        field(report, "version"),
        field(report, "kernel"),
        field(report, "cgroups"),
        field(report, "trees"),
        field(report, "names"),
        report["slots"],
        report["map_bytes"].as_u64().unwrap_or(0) / 1024,
    );
    for probe in report["probes"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "{:<16} {:<12} {}",
            field(probe, "probe"),
            field(probe, "state"),
            field(probe, "summary")
        );
        let hooks = probe["hooks"].as_array().cloned().unwrap_or_default();
        if hooks.is_empty() {
            let _ = writeln!(out, "  {}", detail(probe));
        }
        for hook in &hooks {
            let _ = writeln!(
                out,
                "  {:<36} {:<12} {}",
                field(hook, "hook"),
                field(hook, "state"),
                detail(hook)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_hook_makes_the_host_unhealthy_and_an_unsupported_one_does_not() {
        let report = |state: &str| {
            json!({"probes": [{"probe": "p", "state": "attached", "by": ["tp_btf/x"],
                "hooks": [{"hook": "h", "state": state, "error": "no", "reason": "no"}]}]})
        };
        assert!(healthy(&report("attached")));
        assert!(healthy(&report("unsupported")));
        assert!(!healthy(&report("failed")));
        assert!(text(&report("failed")).contains("failed       no"));
    }

    #[test]
    fn names_steer_no_terminal() {
        let hostile = "a\x1b]0;title\x07\u{9b}2J\nb";
        let shown = text(
            &json!({"names": hostile, "probes": [{"probe": hostile, "state": "attached", "by": [hostile],
            "summary": hostile, "hooks": [{"hook": hostile, "state": "failed", "error": hostile}]}]}),
        );
        assert!(
            shown.contains("a\\x1b]0;title\\x07\\xc2\\x9b2J\\x0ab"),
            "{shown}"
        );
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
