//! `cargo xtask lab`: real kernels in virtual machines, where stalls are made on purpose and what the
//! agent exports is held against the kernel's own truth.

mod busybox;
mod guest;
mod initramfs;
pub mod kernels;
mod mutants;
mod outcome;
mod scaling;
mod table;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::bpf::Arch;
use crate::build::{self, Profile, elf};
use crate::setup::{Install, Setup};
use crate::shell;
use crate::workspace::{AGENT_PACKAGE, Workspace};
use guest::{Guest, Session};
use initramfs::Contents;
use kernels::{Fetched, Kernel};
use outcome::{Outcome, Verdict};

/// CPUs of a machine unless told otherwise.
const CPUS: u32 = 8;

/// The package of the program that brings the truths about.
const LAB_PACKAGE: &str = "stallscope-lab";

/// Boot real kernels in virtual machines and hold the agent against their truth.
///
/// Fetches Debian's kernels, builds the agent, boots each kernel under software emulation with CPUs in
/// four NUMA nodes, runs the truths in it and prints a table. Fails when a truth failed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only kernels of this architecture.
    #[arg(long)]
    arch: Option<Arch>,

    /// Only kernels of this series, such as 6.12, or `host` for the one that runs here; repeatable.
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

    /// Print one JSON object a truth, and everything else on the error output.
    #[arg(long)]
    json: bool,

    /// Build without optimisation, which is quicker; figures for users come from optimised builds.
    #[arg(long)]
    debug: bool,

    /// Write the table to this file too.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,

    /// A prompt in the machine, with the agent running and its port forwarded.
    #[arg(long, conflicts_with_all = ["exec", "test", "json", "cgroup", "table"])]
    shell: bool,

    /// Copy these files into the machine, run the first as root with the agent up, and end with its status.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["test", "json", "table"])]
    exec: Vec<PathBuf>,

    /// Break the probes on purpose, in every way that is listed, and fail unless the truths find each.
    #[arg(long, conflicts_with_all = ["exec", "shell", "json", "table"])]
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
  cargo xtask lab --kernel 6.12 --shell              a four-node ARM64 machine with live metrics
  cargo xtask lab --kernel 7.2 --exec ./check.sh     what a program of yours sees in it
  cargo xtask lab --kernel 6.12 --mutants --debug    that broken probes are found
  cargo xtask lab --fetch                            only fetch the kernels
  cargo xtask lab --update-btf                       renew what `cargo xtask test` knows of their types";

/// The cgroup hierarchy of a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Hierarchy {
    /// One for each controller.
    V1,
    /// The unified one.
    V2,
}

impl Hierarchy {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Runs the verb.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<ExitCode> {
    // What programs are to read is alone on the output.
    let output = if args.json || !args.exec.is_empty() {
        quiet_output()?
    } else {
        duplicate_output()?
    };
    if args.update_btf {
        return kernels::update_btf(workspace, install, &kernels::cache()?)
            .map(|()| ExitCode::SUCCESS);
    }
    let lab = Lab {
        workspace,
        install,
        args,
        output,
    };
    if args.fetch {
        return lab.fetch().map(|()| ExitCode::SUCCESS);
    }
    if args.mutants {
        return lab.mutants();
    }
    if args.shell {
        return lab.shell().map(|()| ExitCode::SUCCESS);
    }
    if let Some(first) = args.exec.first() {
        return lab.exec(first).map(ExitCode::from);
    }
    lab.truths()
}

fn duplicate_output() -> Result<File> {
    use std::os::fd::AsFd as _;
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    Ok(File::from(output.context("could not share the output")?))
}

/// From here on what is printed goes to the error output; returns the output itself.
fn quiet_output() -> Result<File> {
    let output = duplicate_output()?;
    rustix::stdio::dup2_stdout(std::io::stderr()).context("could not redirect the output")?;
    Ok(output)
}

struct Lab<'a> {
    workspace: &'a Workspace,
    install: Install,
    args: &'a Args,
    output: File,
}

/// One machine of the matrix.
#[derive(Clone, Copy)]
struct Machine {
    kernel: &'static Kernel,
    hierarchy: Hierarchy,
    cpus: u32,
}

/// What is put into machines of one architecture.
struct Parts {
    agent: PathBuf,
    lab: PathBuf,
    busybox: PathBuf,
}

impl Lab<'_> {
    fn fetch(&self) -> Result<()> {
        for kernel in kernels::select(self.args.arch, &self.args.kernel)? {
            let fetched = self.kernel(kernel)?;
            println!(
                "{kernel}: {} in {} (pages of {} bytes)",
                fetched.release,
                kernels::cache()?.join(kernel.name()).display(),
                kernel.page_size
            );
        }
        Ok(())
    }

    fn kernel(&self, kernel: &Kernel) -> Result<Fetched> {
        let mut setup = Setup::new(self.install);
        let fetched = kernels::fetch(&mut setup, kernel, &kernels::cache()?)?;
        setup.finish()?;
        fetched.context("the kernel is neither here nor missing; this is a fault of `cargo xtask`")
    }

    fn parts(&self, arch: Arch) -> Result<Parts> {
        let mut setup = Setup::new(self.install);
        guest::emulator(&mut setup, arch)?;
        let busybox = busybox::fetch(&mut setup, arch, &kernels::cache()?)?;
        setup.finish()?;
        let busybox = busybox.context("busybox is neither here nor missing")?;
        let [agent, lab] = self.programs(arch)?;
        Ok(Parts {
            agent,
            lab,
            busybox,
        })
    }

    /// The agent as it is released, and the program that brings the truths about.
    fn programs(&self, arch: Arch) -> Result<[PathBuf; 2]> {
        let profile = if self.args.debug {
            Profile::Debug
        } else {
            Profile::Release
        };
        let packages = [AGENT_PACKAGE, LAB_PACKAGE];
        let built = build::static_binaries(self.workspace, self.install, arch, &packages, profile)?;
        <[PathBuf; 2]>::try_from(built)
            .map_err(|_| anyhow::anyhow!("two programs were to be built"))
    }

    fn folder(&self) -> Result<PathBuf> {
        let folder = self.workspace.target.join("lab");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        Ok(folder)
    }

    fn guest(
        &self,
        kernel: &'static Kernel,
        parts: &Parts,
        order: &str,
        network: bool,
    ) -> Result<Guest> {
        let fetched = self.kernel(kernel)?;
        let modules = fetched.modules(guest::modules(kernel.arch, network))?;
        let contents = Contents {
            init: &parts.lab,
            agent: &parts.agent,
            busybox: &parts.busybox,
            modules: &modules,
            exec: &self.args.exec,
        };
        let folder = self.folder()?;
        let initramfs = folder.join(format!("{}.cpio", kernel.name()));
        contents.write(&initramfs)?;
        let disk = guest::disk(&folder)?;
        Ok(Guest {
            kernel,
            image: fetched.image,
            initramfs,
            disk,
            cpus: self.args.cpus.first().copied().unwrap_or(CPUS),
            order: order.to_owned(),
            network,
        })
    }

    /// The one machine for a shell or a program: of the architecture asked for, else ARM64.
    fn single(&self, arch: Arch) -> Result<&'static Kernel> {
        let arch = self.args.arch.unwrap_or(arch);
        let found = kernels::select(Some(arch), &self.args.kernel)?;
        found.last().copied().context("the lab has no such kernel")
    }

    fn shell(&self) -> Result<()> {
        let kernel = self.single(Arch::Aarch64)?;
        let parts = self.parts(kernel.arch)?;
        let guest = self.guest(kernel, &parts, "lab.mode=shell", true)?;
        println!(
            "==> Linux {kernel}, {} CPUs in four NUMA nodes; the agent's page will be at http://127.0.0.1:{}\n    `exit` or Ctrl-A X switches it off",
            guest.cpus,
            guest::PORT
        );
        guest.interactive()
    }

    fn exec(&self, first: &Path) -> Result<u8> {
        let program =
            std::fs::read(first).with_context(|| format!("could not read {}", first.display()))?;
        let arch = if elf::is_for(&program, Arch::X86_64) {
            Arch::X86_64
        } else {
            Arch::Aarch64
        };
        let kernel = self.single(arch)?;
        let parts = self.parts(kernel.arch)?;
        let guest = self.guest(kernel, &parts, "lab.mode=exec", false)?;
        let mut output = self.output.try_clone()?;
        let mut on = false;
        let session = guest.run(|line| {
            match line {
                "@lab output" => on = true,
                "@lab output-end" => on = false,
                line if on => writeln!(output, "{line}")?,
                line => eprintln!("{line}"),
            }
            Ok(())
        })?;
        match session {
            Session::Ended(code) => Ok(u8::try_from(code).unwrap_or(125)),
            other => bail!("{kernel}: {other}"),
        }
    }

    fn truths(&self) -> Result<ExitCode> {
        let (host, series) = self.split_host();
        let mut outcomes = Vec::new();
        if host {
            self.host(&mut outcomes)?;
        }
        if !host || !series.is_empty() {
            let chosen = kernels::select(self.args.arch, &series)?;
            for arch in [Arch::Aarch64, Arch::X86_64] {
                let kernels: Vec<_> = chosen.iter().filter(|k| k.arch == arch).collect();
                if kernels.is_empty() {
                    continue;
                }
                let parts = self.parts(arch)?;
                for kernel in kernels {
                    self.boots(kernel, &parts, &mut outcomes)?;
                }
                for line in scaling::of(&outcomes, arch.debian()) {
                    self.hear(&serde_json::to_string(&line)?, &mut outcomes)?;
                }
            }
        }
        self.conclude(&outcomes)
    }

    /// Whether `host` is among the kernels, and the others. Without any, the host is one of the matrix.
    fn split_host(&self) -> (bool, Vec<String>) {
        let series: Vec<String> = self
            .args
            .kernel
            .iter()
            .filter(|kernel| *kernel != "host")
            .cloned()
            .collect();
        let host = series.len() < self.args.kernel.len();
        (host, series)
    }

    fn host(&self, outcomes: &mut Vec<Outcome>) -> Result<()> {
        let arch = Arch::host()?;
        let [agent, lab] = self.programs(arch)?;
        println!("==> the truths on this machine's own kernel");
        let mut command = shell::Privilege::find().command(&lab)?;
        command.args(["truths", "--json", "--agent"]).arg(&agent);
        for test in &self.args.test {
            command.args(["--test", test]);
        }
        let ended = shell::lines(&mut command, |line| self.hear(line, outcomes))?;
        if !ended.success() && !outcomes.iter().any(|o| o.verdict == Verdict::Failed) {
            bail!("the truths could not be run here: {ended}");
        }
        Ok(())
    }

    /// Boots a kernel once for each hierarchy and number of CPUs that is asked for.
    fn boots(
        &self,
        kernel: &'static Kernel,
        parts: &Parts,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<()> {
        for hierarchy in [Hierarchy::V2, Hierarchy::V1] {
            if self.args.cgroup.is_some_and(|only| only != hierarchy) {
                continue;
            }
            for cpus in &self.args.cpus {
                let machine = Machine {
                    kernel,
                    hierarchy,
                    cpus: *cpus,
                };
                self.boot(machine, parts, &self.args.test, outcomes)?;
            }
        }
        Ok(())
    }

    fn boot(
        &self,
        machine: Machine,
        parts: &Parts,
        tests: &[String],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<()> {
        let Machine {
            kernel,
            hierarchy,
            cpus,
        } = machine;
        let version = hierarchy.name();
        let mut order = format!("lab.mode=truths lab.cgroup={version}");
        if !tests.is_empty() {
            order = format!("{order} lab.tests={}", tests.join(","));
        }
        println!("==> Linux {kernel}, cgroup {version}, {cpus} CPUs");
        let mut guest = self.guest(kernel, parts, &order, false)?;
        guest.cpus = cpus;
        let mut running = String::from("(boot)");
        let before = outcomes.len();
        let session = guest.run(|line| {
            if let Some(name) = outcome::begun(line) {
                name.clone_into(&mut running);
            }
            self.hear(line, outcomes)
        })?;
        let explained = outcomes[before..]
            .iter()
            .any(|o| o.verdict == Verdict::Failed);
        let fine = match session {
            Session::Ended(0) => true,
            Session::Ended(_) => explained,
            Session::Hung | Session::Crashed(_) => false,
        };
        if !fine {
            let lost = Outcome::lost(kernel, (version, cpus), &running, &session.to_string());
            self.hear(&serde_json::to_string(&lost)?, outcomes)?;
        }
        Ok(())
    }

    /// Breaks the probes in every way that is listed and has the truths find each.
    fn mutants(&self) -> Result<ExitCode> {
        let kernel = self.single(Arch::Aarch64)?;
        let copy = mutants::Copy::make(self.workspace)?;
        let broken = Lab {
            workspace: &copy.workspace,
            install: self.install,
            args: self.args,
            output: self.output.try_clone()?,
        };
        let fits = |truth: &str| self.args.test.iter().any(|t| truth.contains(t.as_str()));
        let mut survivors = Vec::new();
        let mut table =
            String::from("| what is wrong | truth that has to fail | caught |\n|---|---|---|\n");
        for mutant in mutants::MUTANTS {
            if !self.args.test.is_empty() && !fits(mutant.truth) {
                continue;
            }
            println!("==> mutant: {}", mutant.wrong);
            copy.breaks(mutant)?;
            let parts = broken.parts(kernel.arch)?;
            let machine = Machine {
                kernel,
                hierarchy: self.args.cgroup.unwrap_or(Hierarchy::V2),
                cpus: self.args.cpus.first().copied().unwrap_or(CPUS),
            };
            let mut outcomes = Vec::new();
            broken.boot(machine, &parts, &[mutant.truth.to_owned()], &mut outcomes)?;
            let caught = outcomes
                .iter()
                .find(|o| o.test == mutant.truth && o.verdict == Verdict::Failed);
            let how = caught.map_or("**no**", |o| o.detail.as_str());
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {} | {} | {how} |", mutant.wrong, mutant.truth);
            if caught.is_none() {
                survivors.push(mutant.wrong);
            }
        }
        println!("\n{table}");
        if !survivors.is_empty() {
            bail!("not caught: {}", survivors.join("; "));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A line of those who run the truths: for the reader, or a result.
    fn hear(&self, line: &str, outcomes: &mut Vec<Outcome>) -> Result<()> {
        let Some(outcome) = Outcome::parse(line) else {
            println!("{line}");
            return Ok(());
        };
        if self.args.json {
            writeln!(&self.output, "{line}").context("could not write to the output")?;
        }
        outcomes.push(outcome);
        Ok(())
    }

    fn conclude(&self, outcomes: &[Outcome]) -> Result<ExitCode> {
        let text = table::of(outcomes);
        println!("\n{text}");
        if let Some(path) = &self.args.table {
            std::fs::write(path, &text)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        if outcomes.is_empty() {
            bail!("no truth was run");
        }
        let failed: Vec<&Outcome> = outcomes
            .iter()
            .filter(|o| o.verdict == Verdict::Failed)
            .collect();
        for outcome in &failed {
            println!("FAILED {outcome}");
        }
        Ok(if failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A program of the emulator's packages, found in `PATH`.
fn which(program: &str) -> Result<Command> {
    shell::which(program)
        .map(Command::new)
        .with_context(|| format!("there is no {program}"))
}
