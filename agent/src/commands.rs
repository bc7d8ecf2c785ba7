//! The commands of `stallscope`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::{agent::Config, host::cgroup::Controller, text::printable::lines};

mod bench;
mod client;
mod doctor;
mod explain;
mod logging;
mod names;
mod reference;
mod run;
mod status;
mod top;
mod topology;

/// Address where the agent listens, and where `status` looks for it.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9750";

/// Says which pod, container, service or cgroup lost how much time, to what.
#[derive(Debug, Parser)]
#[command(name = "stallscope", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Top(top::Args),
    Explain(explain::Args),
    Status(status::Args),
    Topology(topology::Args),
    Doctor(doctor::Args),
    #[command(hide = true)]
    Reference(reference::Args),
    #[command(hide = true)]
    Bench(bench::Args),
}

/// Options of the probes, shared by `run` and `status`.
#[derive(clap::Args, Debug)]
struct ProbeArgs {
    /// Where the cgroup hierarchy is mounted, if not found by itself
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The controller to tell cgroups apart by on cgroup v2, if not chosen by itself: cpu, pids or memory
    #[arg(long, value_name = "NAME", value_parser = controller)]
    controller: Option<Controller>,
    /// Cgroups to have room for in the kernel, instead of by their number; grows by itself
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=65536))]
    slots: Option<u32>,
    /// Containers, services and cgroups with series of their own; the others are summed as (other)
    #[arg(long, value_name = "N", default_value_t = Config::default().owners)]
    max_owners: usize,
    /// Series in a scrape at most; those of the containers, services and cgroups that did the least are summed as (other)
    #[arg(long, value_name = "N", default_value_t = Config::default().series)]
    max_series: usize,
    /// Treat a kind of hook (kprobe) or one hook (`fentry/unthrottle_cfs_rq`) as if the kernel refused it; may be repeated
    #[arg(long, value_name = "HOOK")]
    disable_hook: Vec<String>,
}

impl ProbeArgs {
    fn config(self) -> Config {
        Config {
            cgroup_root: self.cgroup_root,
            controller: self.controller,
            slots: self.slots,
            owners: self.max_owners,
            series: self.max_series,
            disabled_hooks: self.disable_hook,
            ..Config::default()
        }
    }
}

fn controller(name: &str) -> Result<Controller, String> {
    Controller::ALL
        .into_iter()
        .find(|controller| controller.name() == name)
        .ok_or_else(|| "expected cpu, pids or memory".to_owned())
}

impl Cli {
    /// Parses the command line and runs its command.
    #[must_use]
    pub fn main() -> ExitCode {
        let error = match Self::try_parse() {
            Ok(cli) => return cli.run(),
            Err(error) => error,
        };
        // Help goes to standard output. If an output is closed, the error cannot be reported.
        let _ = error.print();
        match error.exit_code() {
            0 => ExitCode::SUCCESS,
            // To a caller of `doctor`, 2 would mean that the audit found problems.
            _ if std::env::args_os()
                .nth(1)
                .is_some_and(|arg| arg == "doctor") =>
            {
                ExitCode::from(doctor::FAILED)
            }
            code => ExitCode::from(u8::try_from(code).unwrap_or(2)),
        }
    }

    /// Runs the command. Exit codes: 0 for success, 1 for failure, 2 for an invalid command line; `doctor` has its own.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Run(args) => run::run(args),
            Command::Top(args) => top::run(args),
            Command::Explain(args) => explain::run(&args),
            Command::Status(args) => status::run(args),
            Command::Topology(args) => topology::run(&args),
            Command::Doctor(args) => Ok(doctor::run(&args)),
            Command::Reference(args) => reference::run(&args),
            Command::Bench(args) => bench::run(&args),
        };
        result.unwrap_or_else(|error| {
            complain(&format!("stallscope: {}", lines(&format!("{error:#}"))));
            ExitCode::FAILURE
        })
    }
}

/// Prints to standard output. A closed pipe is no error: its reader has read enough.
///
/// # Errors
/// When writing fails for another reason.
fn show(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error; if that is closed, the error cannot be reported.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
