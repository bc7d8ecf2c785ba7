//! Assembly of machines: kernels, programs and the files they boot from.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::busybox;
use super::guest::{self, Guest};
use super::initramfs::Contents;
use super::kernels::{self, Fetched, Kernel};
use crate::bpf::Arch;
use crate::build::{self, Profile};
use crate::setup::{Install, Setup};
use crate::workspace::{AGENT_PACKAGE, Workspace};

/// Package of the program that runs the truths.
pub const LAB_PACKAGE: &str = "stallscope-lab";

/// Builder of machines from the sources of a workspace.
pub struct Maker<'a> {
    /// Sources of the programs.
    pub workspace: &'a Workspace,
    /// Permission to install missing tools.
    pub install: Install,
    /// True to build programs without optimisation.
    pub debug: bool,
}

/// Programs that go into machines of one architecture.
pub struct Parts {
    agent: PathBuf,
    lab: PathBuf,
    busybox: PathBuf,
}

impl Maker<'_> {
    /// Finds a kernel of the matrix, or fetches it.
    pub fn kernel(&self, kernel: &Kernel) -> Result<Fetched> {
        let mut setup = Setup::new(self.install);
        let fetched = kernels::fetch(&mut setup, kernel, &kernels::cache()?)?;
        setup.finish()?;
        fetched.context("the kernel is neither here nor missing; this is a fault of `cargo xtask`")
    }

    /// Builds or fetches the programs for machines of an architecture.
    pub fn parts(&self, arch: Arch) -> Result<Parts> {
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

    /// Builds the agent as it is released, and the program that runs the truths.
    pub fn programs(&self, arch: Arch) -> Result<[PathBuf; 2]> {
        let profile = Profile::of(self.debug);
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

    /// Prepares a machine that is ready to boot, without orders.
    pub fn guest(&self, kernel: &'static Kernel, parts: &Parts, exec: &[PathBuf]) -> Result<Guest> {
        let fetched = self.kernel(kernel)?;
        let modules = fetched.modules(guest::modules(kernel.arch))?;
        let contents = Contents {
            init: &parts.lab,
            agent: &parts.agent,
            busybox: &parts.busybox,
            modules: &modules,
            exec,
        };
        let folder = self.folder()?;
        let initramfs = folder.join(format!("{}.cpio", kernel.name()));
        contents.write(&initramfs)?;
        Ok(Guest {
            kernel,
            image: fetched.image,
            initramfs,
            disk: guest::disk(&folder)?,
            cpus: super::CPUS,
            order: String::new(),
            port: None,
        })
    }
}
