//! `cargo xtask build`: the BPF objects, then the agent that carries them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::bpf::{self, Arch};
use crate::cross;
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
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask build                   target/release/stallscope
  cargo xtask build --debug           target/debug/stallscope
  cargo xtask build --arch aarch64    for the other architecture; prints where it is";

/// Builds, and returns the path of the agent.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<PathBuf> {
    let host = Arch::host();
    let arch = match args.arch {
        Some(arch) => arch,
        None => *host.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let foreign = host.ok() != Some(arch);
    let bpf = setup::bpf(workspace, install)?;
    let cross = if foreign {
        Some(cross::prepare(workspace, install, arch)?)
    } else {
        None
    };
    bpf::build(workspace, &bpf, arch)?;

    println!("==> agent");
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--package", AGENT_PACKAGE, "--bin", AGENT_PACKAGE]);
    let mut folder = workspace.target.clone();
    if let Some(cross) = cross {
        folder = cross.apply(workspace, &mut cargo);
        folder.push(arch.triple());
    }
    if args.debug {
        folder.push("debug");
    } else {
        cargo.arg("--release");
        folder.push("release");
    }
    shell::run(&mut cargo).context("the agent did not build")?;
    let agent = folder.join(AGENT_PACKAGE);
    println!("built {}", workspace.shown(&agent));
    Ok(agent)
}
