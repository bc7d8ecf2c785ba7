//! `stallscope explain`: why a pod lost time, and what to change.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{DEFAULT_LISTEN, client, show};
use crate::explain::Report;

/// Say why a pod, service or cgroup lost time, and what to change.
///
/// Asks the agent that runs here. Causes are ranked, compared with what is usual for the same pod, with their evidence
/// and with commands for this host.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope explain --worst
  stallscope explain --pod shop/cart-0
  stallscope explain --pod shop/cart-0 --at 2026-03-01T03:12:00Z --window 5m
  stallscope explain --cgroup /system.slice/nginx.service --at -10m
  stallscope explain --worst --json | jq -r '.causes[0].cause'")]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
    /// Of the pod, this container only
    #[arg(long, value_name = "NAME", requires = "pod")]
    container: Option<String>,
    /// Where the window ends: a time such as 2026-03-01T03:12:00Z, Unix seconds, or an age such as -5m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// How long the window is
    #[arg(long, value_name = "LENGTH", default_value = "60s")]
    window: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Ask the agent at this address
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN)]
    agent: String,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Subject {
    /// The pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod)]
    pod: Option<(String, String)>,
    /// The cgroup, as the label `cgroup` has it
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Whoever lost most in the window
    #[arg(long)]
    worst: bool,
}

fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME, such as shop/cart-0".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = client::get(&args.agent, &client::path("/api/v1/explain", &args.query()))?;
    if args.json {
        show(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    } else {
        let report: Report = serde_json::from_value(answer)
            .with_context(|| format!("the agent at {} is of another version", args.agent))?;
        show(&report.to_text())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn query(&self) -> Vec<(&str, &str)> {
        let mut query = vec![("window", self.window.as_str())];
        query.extend(self.at.as_deref().map(|at| ("at", at)));
        if let Some((namespace, name)) = &self.subject.pod {
            query.extend([("namespace", namespace.as_str()), ("pod", name)]);
        }
        query.extend(self.container.as_deref().map(|name| ("container", name)));
        query.extend(self.subject.cgroup.as_deref().map(|path| ("cgroup", path)));
        query.extend(self.subject.worst.then_some(("worst", "1")));
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_a_namespace_and_a_name() {
        let found = pod("shop/cart-0").expect("a pod");
        assert_eq!(found, ("shop".to_owned(), "cart-0".to_owned()));
        for text in ["", "cart-0", "/cart-0", "shop/", "a/b/c"] {
            assert!(pod(text).is_err(), "{text}");
        }
    }
}
