//! The kernel memory of every map, on as many CPUs as this machine has.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Truth;
use crate::{Report, World, agent_process::Served};

const MEMORY: &str = "stallscope_map_memory_bytes";
/// CPUs of the host for which the bound is stated.
const CPUS: usize = 128;
/// Stated bound, in bytes.
const BOUND: u64 = 64_000_000;

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "map_memory",
    about: "kernel memory of the maps with as many cgroups as there is room for on 128 CPUs",
    both_hierarchies: false,
    run,
}];

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let (bytes, slots) = bound(world, CPUS)?;
    report.between("bytes stated for 128 CPUs", 0, BOUND, bytes);
    if !world.guest {
        report.leave_out("the maps are measured in machines of 2, 8 and 16 CPUs");
        return Ok(());
    }
    // One of the tables is sized by the number of possible pids, which is large where there are many CPUs.
    fs::write("/proc/sys/kernel/pid_max", "4194304").context("pid_max")?;
    let log = std::env::temp_dir().join("stallscope-lab-map-memory.log");
    let agent = Served::start(
        &world.program,
        "127.0.0.1:9752",
        &log,
        &["--slots", &slots.to_string()],
    )?;
    let scrape = agent.scrape()?;
    for (series, value) in scrape.series(MEMORY, &[]) {
        println!("    {series} {value}");
    }
    let measured = scrape.sum(MEMORY, &[])?;
    let cpus = world.cpus().len();
    // The lab draws a line through this number of several machines.
    report.between(
        format!("bytes of all maps with {slots} slots on {cpus} CPUs"),
        1,
        bytes,
        measured,
    );
    let here = scrape.sum("stallscope_slots", &[crate::label("state", "capacity")])?;
    report.equal("slots", slots, here);
    Ok(())
}

/// Bound of all maps on so many CPUs, in bytes, and the slots for which there is room then.
fn bound(world: &World, cpus: usize) -> Result<(u64, u64)> {
    let output = Command::new(&world.program)
        .args(["bench", "map-bound", "--cpus", &cpus.to_string()])
        .output()
        .context("cannot start the agent")?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("`bench map-bound` printed no JSON: {said}")
    })?;
    let number = |key: &str| {
        answer[key]
            .as_u64()
            .with_context(|| format!("no number {key} in {answer}"))
    };
    Ok((number("bytes")?, number("slots")?))
}
