//! Making machines: kernels, programs and the files they boot from.

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

/// The package of the program that brings the truths about.
pub const LAB_PACKAGE: &str = "stallscope-lab";

/// Makes machines from the sources of a workspace.
pub struct Maker<'a> {
    /// The sources.
    pub workspace: &'a Workspace,
    /// Whether what is missing may be installed.
    pub install: Install,
    /// Whether programs are built without optimisation.
    pub debug: bool,
}

/// What is put into machines of one architecture.
pub struct Parts {
    agent: PathBuf,
    lab: PathBuf,
    busybox: PathBuf,
}

impl Maker<'_> {
    /// A kernel of the matrix, which is fetched if it is not here.
    pub fn kernel(&self, kernel: &Kernel) -> Result<Fetched> {
        let mut setup = Setup::new(self.install);
        let fetched = kernels::fetch(&mut setup, kernel, &kernels::cache()?)?;
        setup.finish()?;
        fetched.context("the kernel is neither here nor missing; this is a fault of `cargo xtask`")
    }

    /// What is put into machines of an architecture.
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

    /// The agent as it is released, and the program that brings the truths about.
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

    /// A machine that is ready to boot, without orders.
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
