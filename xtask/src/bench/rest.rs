//! The idle agent, and the upper bound of its maps' memory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::agent::Agent;
use super::figure::Figures;
use super::interrupt;
use crate::shell;

/// Bytes of a megabyte, the unit of all memory figures.
pub const MEGABYTE: f64 = 1e6;

/// Measures CPU time and memory of the idle agent.
pub fn measure(program: &Path, quick: bool, figures: &mut Figures) -> Result<()> {
    eprintln!("==> the agent at rest");
    let agent = Agent::start(program)?;
    // The agent is not idle while it starts.
    interrupt::sleep(Duration::from_secs(3))?;
    let time = Duration::from_secs(if quick { 20 } else { 60 });
    let idle = agent.idle_ns_per_second(time)?;
    figures.number("rest_cpu", idle / 1e9 * 100.0, "% of a CPU");
    let (resident, anonymous) = agent.resident()?;
    figures.number("rest_rss", resident as f64 / MEGABYTE, "MB");
    figures.number("rest_rss_anonymous", anonymous as f64 / MEGABYTE, "MB");
    Ok(())
}

/// Reports the most kernel memory that the maps can take on a large host.
pub fn map_bound(program: &Path, figures: &mut Figures) -> Result<()> {
    #[derive(Deserialize)]
    struct Bound {
        bytes: f64,
    }
    eprintln!("==> kernel memory of the maps on 128 CPUs");
    let mut command = Command::new(program);
    command.args(["bench", "map-bound", "--cpus", "128"]);
    let answer = shell::stdout(&mut command)?;
    let bound: Bound = serde_json::from_str(&answer)
        .with_context(|| format!("another agent's answer: {answer}"))?;
    figures.number("map_memory_bound_128_cpus", bound.bytes / MEGABYTE, "MB");
    Ok(())
}
