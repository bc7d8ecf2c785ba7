//! Time of each program by the kernel's BPF statistics, relative to the empty program on the same hook.
//!
//! Both programs are attached at the same time and see the same events. The one that runs first pays for fetching the
//! arguments into the cache, so their order alternates. The times of both include the kernel's own clock reads.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::control::{Control, NOTHING, Program, Set};
use super::estimate::median_of;
use super::figure::Figures;
use super::host::Cpus;
use super::interrupt;
use super::load::Load;

const EVERYTHING: Set = Set {
    empty: "*",
    ours: "*",
};

/// Minimum runs of a program in a window for its mean to be used.
const LEAST_RUNS: u64 = 100;

/// Measured windows of one program under one load.
#[derive(Clone, Debug, Default)]
struct Windows {
    /// Mean time per run in each window, in nanoseconds.
    ns: Vec<f64>,
    /// Mean time per run of the empty program, in nanoseconds; empty if this hook has none.
    empty_ns: Vec<f64>,
    runs: u64,
}

/// Function that starts a load.
type Start = Box<dyn Fn() -> Result<Load>>;

/// Names of the probe and of the program.
type Key = (String, String);

/// Measures all programs under all loads.
pub fn measure(
    control: &mut Control,
    cpus: Cpus,
    quick: bool,
    figures: &mut Figures,
) -> Result<()> {
    let (windows, length) = if quick { (6, 350) } else { (12, 800) };
    let length = Duration::from_millis(length);
    let mut loads: Vec<(&str, Start)> = vec![
        ("", Box::new(move || Load::ping_pong(cpus.load))),
        (
            "_competitors",
            Box::new(move || Load::competitors(cpus.load)),
        ),
        ("_faults", Box::new(move || Load::faults(cpus.load))),
    ];
    if cpus.load == cpus.other {
        eprintln!("one CPU only: nothing migrates");
    } else {
        let both = [cpus.other, cpus.load];
        loads.push(("_migrations", Box::new(move || Load::migrations(both))));
    }
    let mut results = Vec::new();
    for (name, start) in &loads {
        eprintln!("==> programs by BPF statistics: ping_pong{name}");
        let load = start()?;
        results.push((*name, under(control, windows, length)?));
        drop(load);
    }
    control.set(NOTHING, false)?;
    let programs = control.programs()?;
    for program in programs.iter().filter(|program| program.probe.is_some()) {
        report(program, &programs, &results, figures);
    }
    Ok(())
}

fn under(
    control: &mut Control,
    windows: usize,
    length: Duration,
) -> Result<BTreeMap<Key, Windows>> {
    let mut results: BTreeMap<Key, Windows> = BTreeMap::new();
    for window in 0..windows {
        control.set(NOTHING, false)?;
        control.set(EVERYTHING, window % 2 == 1)?;
        interrupt::sleep(Duration::from_millis(20))?;
        control.statistics(true)?;
        let before = control.programs()?;
        interrupt::sleep(length)?;
        let after = control.programs()?;
        control.statistics(false)?;
        let grown: Vec<(&Program, u64, u64)> = before
            .iter()
            .zip(&after)
            .map(|(then, now)| (now, now.runs - then.runs, now.ns - then.ns))
            .collect();
        for (program, runs, ns) in &grown {
            if program.probe.is_none() || *runs < LEAST_RUNS {
                continue;
            }
            let windows = results.entry(key(program)).or_default();
            windows.runs += runs;
            windows.ns.push(*ns as f64 / *runs as f64);
            let empty = grown
                .iter()
                .find(|(other, runs, _)| {
                    other.probe.is_none() && other.hook == program.hook && *runs >= LEAST_RUNS
                })
                .map(|(_, runs, ns)| *ns as f64 / *runs as f64);
            windows.empty_ns.extend(empty);
        }
    }
    Ok(results)
}

fn key(program: &Program) -> Key {
    (
        program.probe.clone().unwrap_or_default(),
        program.name.clone(),
    )
}

/// Reports a program of `sched_switch` under both loads that switch, and any other under the load that made it run
/// most.
fn report(
    program: &Program,
    all: &[Program],
    results: &[(&str, BTreeMap<Key, Windows>)],
    figures: &mut Figures,
) {
    let shared = all
        .iter()
        .filter(|other| other.probe.is_some() && other.name == program.name)
        .count()
        > 1;
    let name = match &program.probe {
        Some(probe) if shared => format!("{}_{probe}", program.name),
        _ => program.name.clone(),
    };
    let mut seen: Vec<(&str, &Windows)> = results
        .iter()
        .filter_map(|(load, windows)| Some((*load, windows.get(&key(program))?)))
        .filter(|(_, windows)| windows.ns.len() >= 5)
        .collect();
    if program.symbol == "sched_switch" {
        seen.retain(|(load, _)| matches!(*load, "" | "_competitors"));
    } else {
        seen.sort_by_key(|(_, windows)| std::cmp::Reverse(windows.runs));
        seen.truncate(1);
        if let Some((load, _)) = seen.first_mut() {
            *load = "";
        }
    }
    if seen.is_empty() {
        eprintln!("{name}: no load makes it run; no figure");
    }
    for (load, windows) in seen {
        let ns = median_of(&windows.ns);
        if windows.empty_ns.len() == windows.ns.len() {
            let ratios: Vec<f64> = windows
                .ns
                .iter()
                .zip(&windows.empty_ns)
                .map(|(ours, empty)| ours / empty)
                .collect();
            figures.estimate(format!("{name}{load}_ratio"), median_of(&ratios), "ratio");
            let empty = median_of(&windows.empty_ns);
            figures.estimate(format!("{name}{load}_empty_ns"), empty, "ns");
        }
        figures.estimate(format!("{name}{load}_ns"), ns, "ns");
    }
}
