//! `cargo xtask build`: builds the BPF objects, then the agent that embeds them.

pub mod elf;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bpf::{self, Arch};
use crate::cross::{self, Cross, Linkage};
use crate::setup::{self, Install};
use crate::shell;
use crate::workspace::{AGENT_PACKAGE, Workspace};

/// Build the agent with its BPF objects inside: target/release/stallscope.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The architecture to build for; this machine's when not given.
    #[arg(long, value_enum)]
    arch: Option<Arch>,

    /// Build without optimisation, which is quicker: target/debug/stallscope.
    #[arg(long)]
    debug: bool,

    /// Link the C library into the agent, so that it runs on any Linux of the architecture.
    #[arg(long = "static")]
    linked_statically: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask build                   target/release/stallscope
  cargo xtask build --debug           target/debug/stallscope
  cargo xtask build --arch aarch64    for the other architecture; prints where it is
  cargo xtask build --static          one file that needs no C library; prints where it is";

/// Cargo profile of a build.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Profile {
    /// Without optimisation: quick to build.
    Debug,
    /// With optimisation: quick to run.
    Release,
}

impl Profile {
    /// Returns the profile that `--debug` chooses.
    pub fn of(debug: bool) -> Self {
        if debug { Self::Debug } else { Self::Release }
    }

    /// Returns the folder in which Cargo leaves the programs.
    fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the agent and returns its path.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<PathBuf> {
    let host = Arch::host();
    let arch = match args.arch {
        Some(arch) => arch,
        None => *host.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let profile = Profile::of(args.debug);
    let packages = [AGENT_PACKAGE];
    let built = if args.linked_statically {
        static_binaries(workspace, install, arch, &packages, profile)?
    } else {
        let build = Build {
            arch,
            profile,
            linkage: Linkage::Dynamic,
            packages: &packages,
        };
        build.run(workspace, install)?
    };
    let agent = built.into_iter().next().context("no agent was built")?;
    println!("built {}", workspace.shown(&agent));
    Ok(agent)
}

/// Builds static programs, which run on any Linux of the architecture. Each package has one program of the package's
/// name. Returns their paths in the order of the packages.
pub fn static_binaries(
    workspace: &Workspace,
    install: Install,
    arch: Arch,
    packages: &[&str],
    profile: Profile,
) -> Result<Vec<PathBuf>> {
    let build = Build {
        arch,
        profile,
        linkage: Linkage::Static,
        packages,
    };
    build.run(workspace, install)
}

/// Settings of a build.
pub struct Build<'a> {
    /// Architecture to build for.
    pub arch: Arch,
    /// Cargo profile.
    pub profile: Profile,
    /// Linkage of the C library.
    pub linkage: Linkage,
    /// Packages with one program each, of the package's name.
    pub packages: &'a [&'a str],
}

impl Build<'_> {
    /// Builds the programs and returns their paths in the order of the packages.
    pub fn run(&self, workspace: &Workspace, install: Install) -> Result<Vec<PathBuf>> {
        if self.packages.contains(&AGENT_PACKAGE) {
            let bpf = setup::bpf(workspace, install)?;
            bpf::build(workspace, &bpf, self.arch)?;
        }
        let cross = cross::prepare(workspace, install, self.arch, self.linkage)?;

        println!("==> {} for {}", self.packages.join(", "), self.arch.name());
        let (mut cargo, folder) = self.cargo(workspace, &cross);
        shell::run(&mut cargo)
            .with_context(|| format!("{} did not build", self.packages.join(", ")))?;
        let built: Vec<PathBuf> = self.packages.iter().map(|name| folder.join(name)).collect();
        if self.linkage == Linkage::Static {
            for program in &built {
                elf::check_static(program, self.arch)?;
            }
        }
        Ok(built)
    }

    /// Returns Cargo's message about each crate of the build, in JSON lines. Quick once it is built.
    pub fn messages(&self, workspace: &Workspace, cross: &Cross) -> Result<String> {
        let (mut cargo, _) = self.cargo(workspace, cross);
        shell::stdout(cargo.args(["--message-format", "json"]))
    }

    /// Returns the build command and the folder in which it leaves the programs.
    fn cargo(&self, workspace: &Workspace, cross: &Cross) -> (Command, PathBuf) {
        let mut cargo = workspace.cargo();
        cargo.arg("build");
        for package in self.packages {
            cargo.args(["--package", package, "--bin", package]);
        }
        if self.profile == Profile::Release {
            cargo.arg("--release");
            if self.linkage == Linkage::Static {
                // Function names stay for backtraces and profilers. Line tables would take ten times the size of the
                // code.
                cargo.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
            }
        }
        let folder = cross
            .apply(workspace, &mut cargo)
            .join(self.profile.folder());
        (cargo, folder)
    }
}
