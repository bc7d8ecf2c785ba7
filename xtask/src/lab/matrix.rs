//! Runs the truths on each selected kernel, and collects the outcomes.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail};

use super::assembly::Maker;
use super::guest::{Guest, Session};
use super::kernels::{self, Kernel};
use super::outcome::{self, Outcome};
use super::{Args, Hierarchy, scaling, table};
use crate::bpf::Arch;
use crate::shell;

/// Name that selects the running kernel of this machine instead of one of the matrix.
const HOST: &str = "host";

/// One machine of the matrix.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Kernel that it boots.
    pub kernel: &'static Kernel,
    /// Cgroup hierarchy that the agent follows.
    pub hierarchy: Hierarchy,
    /// Number of its CPUs.
    pub cpus: u32,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hierarchy = self.hierarchy.name();
        write!(
            f,
            "Linux {}, cgroup {hierarchy}, {} CPUs",
            self.kernel, self.cpus
        )
    }
}

/// Runs the truths, prints the table and returns the exit code.
pub fn run(maker: &Maker, args: &Args, output: &File) -> Result<ExitCode> {
    let printer = Printer {
        json: args.json.then_some(output),
    };
    let mut outcomes = Vec::new();
    if args.on_host() {
        outcomes.extend(host(maker, args, &printer)?);
    }
    let machines = args.machines()?;
    let mut ready = Vec::new();
    for arch in [Arch::Aarch64, Arch::X86_64] {
        let of: Vec<&Machine> = machines.iter().filter(|m| m.kernel.arch == arch).collect();
        if of.is_empty() {
            continue;
        }
        let parts = maker.parts(arch)?;
        // Machines of a kernel are neighbours and boot from the same files.
        for machines in of.chunk_by(|a, b| a.kernel == b.kernel) {
            let guest = maker.guest(machines[0].kernel, &parts, &[])?;
            ready.extend(machines.iter().map(|machine| (**machine, guest.clone())));
        }
    }
    outcomes.extend(side_by_side(queue(ready), args, &printer)?);
    for line in scaling::of(&outcomes) {
        printer.outcome(&line)?;
        outcomes.push(line);
    }
    let mut all = earlier(&args.with)?;
    all.extend(outcomes.iter().cloned());
    conclude(args, &outcomes, &table::of(&newest(all)))
}

/// Removes outcomes that newer ones replace.
fn newest(all: Vec<Outcome>) -> Vec<Outcome> {
    let mut newest: Vec<Outcome> = Vec::new();
    for outcome in all {
        // A replacement takes the old place, so that the table keeps its order.
        match newest.iter().position(|old| outcome.replaces(old)) {
            Some(place) => newest[place] = outcome,
            None => newest.push(outcome),
        }
    }
    newest
}

fn earlier(files: &[PathBuf]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        for line in text.lines() {
            let outcome = Outcome::parse(line);
            outcomes.push(outcome.with_context(|| {
                format!("{} should hold results of `--json`: {line}", path.display())
            })?);
        }
    }
    Ok(outcomes)
}

impl Args {
    /// Returns whether to run on this machine's kernel. It counts as one of the matrix, and users can ask for it alone.
    fn on_host(&self) -> bool {
        let wanted = self.arch.is_none_or(|arch| Arch::host().ok() == Some(arch));
        if self.kernel.is_empty() {
            wanted
        } else {
            self.kernel.iter().any(|kernel| kernel == HOST)
        }
    }

    fn machines(&self) -> Result<Vec<Machine>> {
        let series: Vec<String> = self.kernel.iter().filter(|k| *k != HOST).cloned().collect();
        if series.is_empty() && !self.kernel.is_empty() {
            return Ok(Vec::new());
        }
        // A user who names a kernel means one machine, not one per architecture.
        let arch = self.arch.or((!series.is_empty()).then_some(Arch::Aarch64));
        let mut machines = Vec::new();
        for kernel in kernels::select(arch, &series)? {
            for hierarchy in [Hierarchy::V2, Hierarchy::V1] {
                if self.cgroup.is_some_and(|only| only != hierarchy) {
                    continue;
                }
                let of = |cpus: &u32| Machine {
                    kernel,
                    hierarchy,
                    cpus: *cpus,
                };
                machines.extend(self.cpus.iter().map(of));
            }
        }
        Ok(machines)
    }

    fn jobs(&self) -> usize {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        self.jobs.map_or((cpus / 2).max(1), NonZero::get)
    }
}

/// Output of results, and of text for the reader.
pub struct Printer<'a> {
    /// File for JSON results, set when a program reads them.
    pub json: Option<&'a File>,
}

impl Printer<'_> {
    fn outcome(&self, outcome: &Outcome) -> Result<()> {
        let Some(mut output) = self.json else {
            return Ok(());
        };
        let line = serde_json::to_string(outcome)? + "\n";
        output
            .write_all(line.as_bytes())
            .context("could not write to the output")
    }

    /// Handles a line from the program that runs the truths: a result, or text for the reader.
    fn hear(&self, line: &str, prefix: &str) -> Result<Option<Outcome>> {
        let found = Outcome::parse(line);
        match &found {
            Some(outcome) => self.outcome(outcome)?,
            None => println!("{prefix}{line}"),
        }
        Ok(found)
    }
}

/// Runs the truths on this machine's own kernel.
fn host(maker: &Maker, args: &Args, printer: &Printer) -> Result<Vec<Outcome>> {
    let [agent, lab] = maker.programs(Arch::host()?)?;
    println!("==> the truths on this machine's own kernel");
    let mut command = shell::Privilege::find().command(&lab)?;
    command.args(["truths", "--json", "--agent"]).arg(&agent);
    for test in &args.test {
        command.args(["--test", test]);
    }
    let mut outcomes = Vec::new();
    let ended = shell::lines(&mut command, |line| {
        let Some(mut outcome) = Outcome::parse(line) else {
            println!("{line}");
            return Ok(());
        };
        // Suffixes that builders add to the kernel's version say nothing about this one.
        let version = outcome.kernel.split('-').next().unwrap_or_default();
        outcome.kernel = format!("{version} (host)");
        printer.outcome(&outcome)?;
        outcomes.push(outcome);
        Ok(())
    })?;
    if !ended.success() && !outcomes.iter().any(Outcome::failed) {
        bail!("the truths could not be run here: {ended}");
    }
    Ok(outcomes)
}

/// A machine with its place among the results.
type Ready = (usize, Machine, Guest);

/// Orders the machines so that architectures take turns: machines of one keep all CPUs busy and those of the other only
/// one, so the two go well side by side.
fn queue(machines: Vec<(Machine, Guest)>) -> VecDeque<Ready> {
    let mut turns = [0, 0];
    let mut queue: Vec<_> = machines
        .into_iter()
        .enumerate()
        .map(|(place, (machine, guest))| {
            let turn = &mut turns[usize::from(machine.kernel.arch == Arch::X86_64)];
            *turn += 1;
            (*turn, (place, machine, guest))
        })
        .collect();
    queue.sort_by_key(|(turn, _)| *turn);
    queue.into_iter().map(|(_, ready)| ready).collect()
}

/// Boots the machines, some at a time. The results are in the order of their places.
fn side_by_side(ready: VecDeque<Ready>, args: &Args, printer: &Printer) -> Result<Vec<Outcome>> {
    let (all, jobs) = (ready.len(), args.jobs());
    let mut results: Vec<Option<Result<Vec<Outcome>>>> = Vec::new();
    results.resize_with(all, || None);
    let work = Mutex::new((ready, results));
    // No thread panics while it holds the lock, and the data is complete in any case.
    let lock = || {
        work.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    thread::scope(|scope| {
        for _ in 0..jobs.min(all) {
            scope.spawn(|| {
                loop {
                    let (nth, (place, machine, guest)) = {
                        let (ready, _) = &mut *lock();
                        let Some(next) = ready.pop_front() else {
                            return;
                        };
                        (all - ready.len(), next)
                    };
                    println!("==> [{nth}/{all}] {machine}");
                    let prefix = if jobs > 1 {
                        machine.prefix()
                    } else {
                        String::new()
                    };
                    let booted = boot(machine, guest, &args.test, printer, &prefix);
                    lock().1[place] = Some(booted);
                }
            });
        }
    });
    let (_, results) = work
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let each: Result<Vec<Vec<Outcome>>> = results.into_iter().flatten().collect();
    Ok(each?.concat())
}

impl Machine {
    fn prefix(&self) -> String {
        format!(
            "{} {} {}| ",
            self.kernel.arch.debian(),
            self.kernel.label(),
            self.hierarchy.name()
        )
    }
}

/// Boots a machine that runs the truths, and reports the running one as lost if the machine ends early.
pub fn boot(
    machine: Machine,
    mut guest: Guest,
    tests: &[String],
    printer: &Printer,
    prefix: &str,
) -> Result<Vec<Outcome>> {
    let version = machine.hierarchy.name();
    guest.cpus = machine.cpus;
    guest.order = format!("lab.mode=truths lab.cgroup={version}");
    if !tests.is_empty() {
        guest.order = format!("{} lab.tests={}", guest.order, tests.join(","));
    }
    let mut running = outcome::BOOT.to_owned();
    let mut outcomes = Vec::new();
    let session = guest.run(|line| {
        if let Some(name) = outcome::begun(line) {
            name.clone_into(&mut running);
        }
        outcomes.extend(printer.hear(line, prefix)?);
        Ok(())
    })?;
    let fine = match session {
        Session::Ended(0) => true,
        Session::Ended(_) => outcomes.iter().any(Outcome::failed),
        Session::Hung | Session::Crashed(_) => false,
    };
    if !fine {
        let at = (version, machine.cpus);
        let lost = Outcome::lost(machine.kernel, at, &running, &session.to_string());
        printer.outcome(&lost)?;
        outcomes.push(lost);
    }
    Ok(outcomes)
}

fn conclude(args: &Args, outcomes: &[Outcome], text: &str) -> Result<ExitCode> {
    println!("\n{text}");
    table::write(args.table.as_deref(), text)?;
    if outcomes.is_empty() {
        bail!("no truth was run");
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.failed()).collect();
    for outcome in &failed {
        println!("FAILED {outcome}");
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
