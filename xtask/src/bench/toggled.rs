//! CPU time per operation with programs attached and without, alternating many times a second.
//!
//! Other load on the machine changes slowly against that, and cancels out in the differences of neighbours. These
//! figures include the cost of a program outside of itself (the tracepoint's call, caches), which the BPF statistics do
//! not.

use std::time::Duration;

use anyhow::Result;

use super::control::{Control, NOTHING, Set};
use super::estimate::{jackknife, trimmed_mean};
use super::figure::Figures;
use super::host::Cpus;
use super::interrupt;
use super::load::Load;

const EMPTY: Set = Set {
    empty: "sched_switch",
    ours: "-",
};
const OURS: Set = Set {
    empty: "-",
    ours: "sched_switch",
};
const ALL: Set = Set {
    empty: "-",
    ours: "*",
};

/// Limit of attempts, as a multiple of the blocks wanted: some attempts are disturbed.
const ATTEMPTS: usize = 2;
/// Minimum blocks for a figure.
const ENOUGH: usize = 10;

/// Nanoseconds per operation in each state, the mean of two windows.
type Block = Vec<f64>;

/// Goes through the states forth and back, `blocks` times. Each block holds two pairs of any two states.
fn alternate(
    control: &mut Control,
    load: &Load,
    states: &[Set],
    blocks: usize,
    window: Duration,
    figures: &mut Figures,
) -> Result<Option<Vec<Block>>> {
    // After each change of programs, the code of the hook is not yet in the caches.
    const SETTLE: Duration = Duration::from_millis(2);
    let mut done = Vec::new();
    let mut disturbed = 0;
    let mut tried = 0;
    while done.len() < blocks && tried < blocks * ATTEMPTS {
        tried += 1;
        let mut block = vec![0.0; states.len()];
        let mut complete = true;
        let counted = control.counted_runs()?;
        let forth = 0..states.len();
        for at in forth.clone().chain(forth.rev()) {
            control.set(states[at], false)?;
            interrupt::sleep(SETTLE)?;
            let before = load.snapshot()?;
            interrupt::sleep(window)?;
            match load.snapshot()?.ns_per_operation(before) {
                Some(ns) => block[at] += ns / 2.0,
                None => complete = false,
            }
        }
        if control.counted_runs()? != counted {
            // BPF statistics of others put their clock reads into the measurement.
            disturbed += 1;
        } else if complete {
            // A window in which the load did not run says nothing.
            done.push(block);
        }
    }
    control.set(NOTHING, false)?;
    if disturbed != 0 {
        figures.note(format!(
            "warning: somebody else had the kernel's BPF statistics on: {disturbed} of {tried} measurements left out"
        ));
    }
    if done.len() < ENOUGH {
        figures.note(
            "warning: no figure, for lack of undisturbed measurements: run it again".to_owned(),
        );
        return Ok(None);
    }
    Ok(Some(done))
}

fn extra(blocks: &[Block], state: usize) -> f64 {
    let differences: Vec<f64> = blocks.iter().map(|b| b[state] - b[0]).collect();
    trimmed_mean(&differences)
}

fn ratio(blocks: &[Block], state: usize) -> f64 {
    let ratios: Vec<f64> = blocks.iter().map(|b| b[state] / b[0]).collect();
    trimmed_mean(&ratios)
}

fn base(blocks: &[Block]) -> f64 {
    let base: Vec<f64> = blocks.iter().map(|b| b[0]).collect();
    trimmed_mean(&base)
}

/// Measures the cost of a context switch.
pub fn ping_pong(
    control: &mut Control,
    cpus: Cpus,
    quick: bool,
    figures: &mut Figures,
) -> Result<()> {
    eprintln!("==> a context switch, by toggling");
    let load = Load::ping_pong(cpus.load)?;
    let states = [NOTHING, EMPTY, OURS, ALL];
    let pairs = if quick { 80 } else { 300 };
    let window = Duration::from_millis(25);
    let Some(blocks) = alternate(control, &load, &states, pairs / 2, window, figures)? else {
        return Ok(());
    };
    let mut add = |name: &str, unit, statistic: &dyn Fn(&[Block]) -> f64| {
        figures.estimate(name, jackknife(&blocks, statistic), unit);
    };
    add("ping_pong_cpu_ratio", "ratio", &|b| ratio(b, 3));
    add("ping_pong_ours_cpu_ratio", "ratio", &|b| ratio(b, 2));
    add("ping_pong_empty_cpu_ratio", "ratio", &|b| ratio(b, 1));
    add("sched_switch_toggled_ratio", "ratio", &|b| {
        extra(b, 2) / extra(b, 1)
    });
    add("sched_switch_toggled_ns", "ns", &|b| extra(b, 2));
    add("sched_switch_toggled_empty_ns", "ns", &|b| extra(b, 1));
    add("ping_pong_base_ns", "ns", &base);
    Ok(())
}

/// Measures the cost of a message among many tasks.
pub fn messaging(control: &mut Control, quick: bool, figures: &mut Figures) -> Result<()> {
    eprintln!("==> messages among many tasks, by toggling");
    let load = Load::messaging()?;
    let (blocks, window) = if quick { (30, 50) } else { (120, 75) };
    let window = Duration::from_millis(window);
    let states = [NOTHING, ALL];
    let Some(blocks) = alternate(control, &load, &states, blocks, window, figures)? else {
        return Ok(());
    };
    let estimate = jackknife(&blocks, |b| ratio(b, 1));
    figures.estimate("messaging_cpu_ratio", estimate, "ratio");
    figures.estimate("messaging_base_ns", jackknife(&blocks, base), "ns");
    Ok(())
}

/// Measures the cost of a page fault.
pub fn faults(control: &mut Control, cpus: Cpus, quick: bool, figures: &mut Figures) -> Result<()> {
    eprintln!("==> a page fault, by toggling");
    let load = Load::faults(cpus.load)?;
    let blocks = if quick { 40 } else { 150 };
    let window = Duration::from_millis(25);
    let states = [NOTHING, ALL];
    let Some(blocks) = alternate(control, &load, &states, blocks, window, figures)? else {
        return Ok(());
    };
    let estimate = jackknife(&blocks, |b| ratio(b, 1));
    figures.estimate("faults_cpu_ratio", estimate, "ratio");
    figures.estimate("faults_base_ns", jackknife(&blocks, base), "ns");
    Ok(())
}
