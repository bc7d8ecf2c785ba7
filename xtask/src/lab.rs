//! `cargo xtask lab`: Debian's kernels, and what is checked on them.

pub mod kernels;

use std::time::Instant;

use anyhow::Result;

use crate::bpf::Arch;
use crate::setup::{Install, Setup};
use crate::workspace::Workspace;

const EXAMPLES: &str = "\
Examples:
  cargo xtask lab --fetch                                fetch every kernel of the matrix
  cargo xtask lab --fetch --kernel 6.12 --arch aarch64   fetch one
  cargo xtask lab --update-btf                           renew what `cargo xtask test` knows of their types";

/// Fetch the kernels of the lab.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only fetch the kernels, and say where they are.
    #[arg(long, required_unless_present = "update_btf")]
    fetch: bool,

    /// Cut the type information of every kernel down to what the agent asks, for the tests.
    #[arg(long, conflicts_with_all = ["fetch", "kernel", "arch"])]
    update_btf: bool,

    /// The series of kernels, such as 6.12; repeatable.
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,

    /// The architecture of the kernels.
    #[arg(long)]
    arch: Option<Arch>,
}

/// Runs the verb.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let cache = kernels::cache()?;
    if args.update_btf {
        return kernels::update_btf(workspace, install, &cache);
    }
    let mut setup = Setup::new(install);
    for kernel in kernels::select(args.arch, &args.kernel)? {
        let start = Instant::now();
        let Some(fetched) = kernels::fetch(&mut setup, kernel, &cache)? else {
            continue;
        };
        let modules = fetched.modules(&["virtio_mmio", "virtio_pci", "virtio_blk"])?;
        println!(
            "{kernel}: {} in {} (pages of {} bytes, {} modules for a disk; {:.3?})",
            fetched.release,
            cache.join(kernel.name()).display(),
            kernel.page_size,
            modules.len(),
            start.elapsed()
        );
    }
    setup.finish()
}
