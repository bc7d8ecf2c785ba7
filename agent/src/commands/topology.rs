//! `stallscope topology`: packages, dies, NUMA nodes and caches as the agent sees them.

use std::{path::PathBuf, process::ExitCode};

use super::show;
use crate::host::topology::Topology;

/// Show packages, dies, NUMA nodes, caches and distances, each with its source.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope topology
  stallscope topology --json | jq '.levels[] | {level, source}'")]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where sysfs is
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sys: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let topology = Topology::read(&args.sys)?;
    if args.json {
        show(&(serde_json::to_string_pretty(&topology)? + "\n"))?;
    } else {
        show(&topology.to_text())?;
    }
    Ok(ExitCode::SUCCESS)
}
