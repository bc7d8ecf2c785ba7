//! `cargo xtask bench`: measures the agent's overhead in one run and prints it beside its targets.
//!
//! Every figure is a ratio or comes from accounting (CPU time, memory, the kernel's BPF statistics). Wall time says
//! nothing on a machine that does other things as well, so no figure is judged by it.

mod agent;
mod cgroups;
mod control;
mod estimate;
mod figure;
mod fleet;
mod host;
mod interrupt;
mod load;
mod process;
mod programs;
mod rest;
mod scrape;
mod toggled;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::build;
use crate::setup::Install;
use crate::shell;
use crate::workspace::Workspace;

use self::figure::Figures;

/// Measure what the agent costs, and print each figure with its target. Needs root.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print one JSON object a figure on standard output, and everything else on standard error.
    #[arg(long)]
    json: bool,

    /// Measure for less than two minutes instead of less than eight; the errors are twice as large.
    #[arg(long)]
    quick: bool,

    /// Measure only this; may be repeated.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Group>,

    /// Measure this agent instead of building one, to compare two.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,

    #[command(flatten)]
    fleet: fleet::FleetArgs,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench                                every figure, with targets
  cargo xtask bench --quick --only toggled         whether a change of a program shows
  cargo xtask bench --json > figures.jsonl         for a script
  cargo xtask bench --agent /tmp/stallscope-old    the same of another build
  cargo xtask bench --fleet --agents 50 --pods 110 what a fleet costs a real Prometheus, without root

What each figure is and how it is measured: docs/cost.md, and docs/scale.md for the fleet";

/// Figures that are measured together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Group {
    /// Time of each program against an empty one, by the kernel's BPF statistics.
    Programs,
    /// CPU time of a context switch with programs attached and without.
    Toggled,
    /// CPU time of a message among many tasks, with the agent's programs and without.
    Messaging,
    /// CPU time of a page fault, with the agent's programs and without.
    Faults,
    /// The most kernel memory the maps can take on 128 CPUs.
    Maps,
    /// The agent's CPU time and memory when nobody asks it anything.
    Rest,
    /// CPU time and size of a scrape, and memory, at 10, 100 and 1000 cgroups.
    Scrape,
}

impl Args {
    /// Returns whether an agent is given, so that nothing needs building.
    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }
}

/// Builds the agent, then measures it as root.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    if args.fleet.fleet {
        return fleet::run(workspace, install, &args.fleet, args.json);
    }
    let agent = {
        // Build output must not mix with the figures on standard output.
        let _redirected = args.json.then(ToStderr::begin).transpose()?;
        build::run(workspace, install, &build::Args::default())?
    };
    measure_as_root(args, &agent)
}

/// Measures the given agent.
pub fn run_given(args: &Args) -> Result<()> {
    let Some(agent) = &args.agent else {
        bail!("no agent given");
    };
    let agent = agent
        .canonicalize()
        .with_context(|| format!("no agent at {}", agent.display()))?;
    measure_as_root(args, &agent)
}

fn measure_as_root(args: &Args, agent: &Path) -> Result<()> {
    if shell::is_root() {
        return measure(args, agent);
    }
    let allowed = shell::which("sudo").is_some()
        && shell::stdout(Command::new("sudo").args(["-n", "true"])).is_ok();
    if !allowed {
        bail!(
            "measuring needs root, for BPF programs and cgroups: you are not root, and `sudo -n` is refused; run this as root, or allow sudo without a password"
        );
    }
    let this = std::env::current_exe().context("this program does not know where it is")?;
    let mut command = Command::new("sudo");
    command.args(["-n", "--"]).arg(this).arg("bench");
    command.arg("--agent").arg(agent);
    if args.json {
        command.arg("--json");
    }
    if args.quick {
        command.arg("--quick");
    }
    for name in args.only.iter().filter_map(Group::to_possible_value) {
        command.args(["--only", name.get_name()]);
    }
    Err(command.exec()).context("could not start sudo")
}

fn measure(args: &Args, agent: &Path) -> Result<()> {
    interrupt::on_signals();
    cgroups::remove_stale();
    let started = Instant::now();
    let mut figures = Figures::new(args.json);
    let probes = [
        Group::Programs,
        Group::Toggled,
        Group::Messaging,
        Group::Faults,
    ];
    host::header(&mut figures)?;
    if probes.into_iter().any(|group| args.wants(group)) {
        let cpus = host::cpus()?;
        // This process and the agent it controls stay off the CPU of the loads.
        load::pin(cpus.other)?;
        let mut control = control::Control::start(agent)?;
        control.warn_of_others(&mut figures)?;
        if args.wants(Group::Programs) {
            programs::measure(&mut control, cpus, args.quick, &mut figures)?;
        }
        if args.wants(Group::Toggled) {
            toggled::ping_pong(&mut control, cpus, args.quick, &mut figures)?;
        }
        if args.wants(Group::Messaging) {
            toggled::messaging(&mut control, args.quick, &mut figures)?;
        }
        if args.wants(Group::Faults) {
            toggled::faults(&mut control, cpus, args.quick, &mut figures)?;
        }
        control.warn_of_others(&mut figures)?;
        control.end()?;
        load::unpin()?;
    }
    if args.wants(Group::Maps) {
        rest::map_bound(agent, &mut figures)?;
    }
    if args.wants(Group::Rest) {
        rest::measure(agent, args.quick, &mut figures)?;
    }
    if args.wants(Group::Scrape) {
        scrape::measure(agent, args.quick, &mut figures)?;
    }
    figures.finish(started.elapsed());
    Ok(())
}

/// Sends standard output to standard error, until dropped.
struct ToStderr(i32);

impl ToStderr {
    fn begin() -> Result<Self> {
        // SAFETY: both take descriptors that this process has, and no memory.
        let kept = unsafe { libc::dup(1) };
        // SAFETY: takes a descriptor that `dup` made and one that this process has, and no memory.
        if kept < 0 || unsafe { libc::dup2(2, 1) } < 0 {
            return Err(std::io::Error::last_os_error())
                .context("could not redirect standard output");
        }
        Ok(Self(kept))
    }
}

impl Drop for ToStderr {
    fn drop(&mut self) {
        // SAFETY: `begin` made the descriptor, and only this closes it.
        unsafe {
            libc::dup2(self.0, 1);
            libc::close(self.0);
        }
    }
}
