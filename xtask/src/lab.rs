//! `cargo xtask lab`: boots real kernels in virtual machines, makes stalls on purpose, and compares what the agent
//! exports with the kernel's own measurements. Each such comparison is called a truth.

mod assembly;
mod busybox;
mod guest;
mod initramfs;
mod interactive;
pub mod kernels;
mod matrix;
mod mutants;
mod outcome;
mod scaling;
mod table;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::bpf::Arch;
use crate::setup::Install;
use crate::shell;
use crate::workspace::Workspace;
pub use assembly::LAB_PACKAGE;
use assembly::Maker;

/// Default number of a machine's CPUs.
const CPUS: u32 = 8;

/// Boot real kernels in virtual machines and hold the agent against their truth.
///
/// Fetches Debian's kernels, builds the agent, boots each kernel under software emulation with CPUs in
/// four NUMA nodes, runs the truths in it and prints a table. Fails when a truth failed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Args {
    /// Only kernels of this architecture; both when not given, or arm64 when a kernel is.
    #[arg(long)]
    arch: Option<Arch>,

    /// Only kernels of this series, such as 6.12, or `host` for the one that runs here; 6.12-64k and 6.12-rt are
    /// booted only when they are named; repeatable.
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    kernel: Vec<String>,

    /// Only truths whose name contains this; repeatable.
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,

    /// Only with this cgroup hierarchy; both, one boot each, when not given.
    #[arg(long, value_enum)]
    cgroup: Option<Hierarchy>,

    /// CPUs of the machine, in four NUMA nodes or as many as there are CPUs; several make a machine each.
    #[arg(long, value_name = "N", num_args = 1.., default_values_t = [CPUS], value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Vec<u32>,

    /// Machines that run side by side; each keeps two of this machine's CPUs busy.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,

    /// Print one JSON object a truth, and everything else on the error output.
    #[arg(long)]
    json: bool,

    /// Build without optimisation, which is quicker; figures for users come from optimised builds.
    #[arg(long)]
    debug: bool,

    /// Write the table to this file too.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,

    /// Results of earlier runs, as `--json` printed them: what is not run again is in the table too.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "table")]
    with: Vec<PathBuf>,

    /// A prompt in the machine, with the agent running and its port forwarded.
    #[arg(long, conflicts_with_all = ["exec", "test", "json", "cgroup", "table"])]
    shell: bool,

    /// Copy these files into the machine, run the first as root with the agent up, and end with its status.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["test", "json", "table"])]
    exec: Vec<PathBuf>,

    /// Break the probes on purpose, in every way that is listed, and fail unless the truths find each.
    #[arg(long, conflicts_with_all = ["exec", "shell", "json"])]
    mutants: bool,

    /// Only fetch the kernels, and say where they are.
    #[arg(long, conflicts_with_all = ["exec", "shell", "test", "json", "table"])]
    fetch: bool,

    /// Cut the type information of every kernel down to what the agent asks, for the tests.
    #[arg(long, conflicts_with_all = ["exec", "shell", "test", "json", "table", "fetch", "kernel", "arch"])]
    update_btf: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask lab                                    every truth on every kernel
  cargo xtask lab --arch arm64 --kernel 6.12         one machine
  cargo xtask lab --kernel 6.12 --test adds_up       some truths
  cargo xtask lab --kernel 6.12 --test map_memory --cpus 2 8 16
                                                     the maps' memory, and the line to 128 CPUs
  cargo xtask lab --kernel host                      the truths on this machine's own kernel
  cargo xtask lab --kernel 6.12-rt                   a PREEMPT_RT kernel; 6.12-64k is built first, with 64 KiB pages
  cargo xtask lab --kernel 6.12 --shell              a four-node ARM64 machine with live metrics
  cargo xtask lab --kernel 7.2 --exec ./check.sh     what a program of yours sees in it
  cargo xtask lab --kernel 6.12 --mutants --debug    that broken probes are found
  cargo xtask lab --fetch                            only fetch the kernels
  cargo xtask lab --update-btf                       renew what `cargo xtask test` knows of their types";

/// Cgroup hierarchy of a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Hierarchy {
    /// One for each controller.
    V1,
    /// The unified one.
    V2,
}

impl Hierarchy {
    /// Returns the hierarchy's name in the machine and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Runs the verb.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<ExitCode> {
    // With `--json` or `--exec`, standard output carries only the results.
    let output = if args.json || !args.exec.is_empty() {
        shell::quiet_output()?
    } else {
        shell::duplicate_output()?
    };
    if args.update_btf {
        return kernels::update_btf(workspace, install, &kernels::cache()?)
            .map(|()| ExitCode::SUCCESS);
    }
    let maker = Maker {
        workspace,
        install,
        debug: args.debug,
    };
    if args.fetch {
        return fetch(&maker, args).map(|()| ExitCode::SUCCESS);
    }
    if args.mutants {
        return mutants::run(&maker, args);
    }
    if args.shell {
        return interactive::shell(&maker, args).map(|()| ExitCode::SUCCESS);
    }
    if let Some(first) = args.exec.first() {
        return interactive::exec(&maker, args, first, output).map(ExitCode::from);
    }
    matrix::run(&maker, args, &output)
}

impl Args {
    /// Returns the kernel of a single machine, of architecture `arch` unless the arguments name another.
    fn kernel(&self, arch: Arch) -> Result<&'static kernels::Kernel> {
        let arch = self.arch.unwrap_or(arch);
        let found = kernels::select(Some(arch), &self.kernel)?;
        found.last().copied().context("the lab has no such kernel")
    }

    fn cpus(&self) -> u32 {
        self.cpus.first().copied().unwrap_or(CPUS)
    }
}

fn fetch(maker: &Maker, args: &Args) -> Result<()> {
    for kernel in kernels::select(args.arch, &args.kernel)? {
        let fetched = maker.kernel(kernel)?;
        println!(
            "{kernel}: {} in {} (pages of {} bytes)",
            fetched.release,
            kernels::cache()?.join(kernel.name()).display(),
            kernel.page_size
        );
    }
    Ok(())
}

/// Returns a program of the emulator's packages, found in `PATH`.
fn which(program: &str) -> Result<Command> {
    shell::which(program)
        .map(Command::new)
        .with_context(|| format!("there is no {program}"))
}
