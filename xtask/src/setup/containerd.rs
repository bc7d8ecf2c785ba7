//! Tools for the tests with a real container runtime: containerd, runc, and a static busybox to make images of.
//!
//! Nothing is installed, because a package would start services on this machine. Set-up unpacks missing packages for
//! the tests alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::foreign_packages::{self, Download, Foreign};
use super::{Missing, Setup};
use crate::bpf::Arch;
use crate::build::elf;
use crate::shell;
use crate::workspace::Workspace;

/// Programs of the runtime, which belong together.
const RUNTIME: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];
const BUSYBOX: &str = "busybox";
const SUITES: &[&str] = &["bookworm", "bookworm-security"];
/// Folders of programs in packages.
const BINS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

impl Setup {
    /// Finds or fetches the programs. Returns the folder that holds all of them; none when some may not be fetched.
    pub fn container_runtime(&mut self, workspace: &Workspace) -> Result<Option<PathBuf>> {
        let arch = Arch::host()?;
        let place = workspace.tools().join("containers");
        let programs = place.join("bin");
        fs::create_dir_all(&programs)
            .with_context(|| format!("could not make {}", programs.display()))?;
        let runtime = RUNTIME.map(|name| (name, installed(name)));
        if !answers(&programs) && runtime.iter().all(|(_, path)| path.is_some()) {
            for (name, path) in runtime {
                link(&path.unwrap_or_default(), &programs.join(name))?;
            }
        }
        let mut packages = Vec::new();
        if !answers(&programs) {
            packages.extend(["containerd", "runc"]);
        }
        if elf::check_static(&programs.join(BUSYBOX), arch).is_err() {
            packages.push("busybox-static");
        }
        if packages.is_empty() {
            return Ok(Some(programs));
        }
        let missing = Missing {
            what: packages.join(", "),
            why: "tests run pods in a container runtime of their own",
            takes: "seconds",
            command: format!("unpacked to {}, not installed", place.display()),
        };
        let fetched = self.need(missing, || unpack(&packages, arch, &place))?;
        Ok(fetched.then_some(programs))
    }
}

/// Returns whether the runtime is there and starts.
fn answers(programs: &Path) -> bool {
    RUNTIME.iter().all(|name| programs.join(name).exists())
        && ["containerd", "runc"]
            .iter()
            .all(|name| shell::stdout(Command::new(programs.join(name)).arg("--version")).is_ok())
}

/// Finds a program on this machine. Users other than root have no `sbin` in their `PATH`.
fn installed(name: &str) -> Option<PathBuf> {
    shell::which(name).or_else(|| {
        ["/usr/sbin", "/usr/local/sbin", "/sbin"]
            .map(|folder| Path::new(folder).join(name))
            .into_iter()
            .find(|path| shell::is_program(path))
    })
}

fn link(program: &Path, place: &Path) -> Result<()> {
    // The old file may be a dangling link.
    let _ = fs::remove_file(place);
    symlink(program, place).with_context(|| format!("could not make {}", place.display()))
}

fn unpack(packages: &[&str], arch: Arch, place: &Path) -> Result<()> {
    let apt = Foreign::open(&place.join("apt"), arch.debian(), SUITES)?;
    apt.update()?;
    let root = place.join("root");
    for name in packages {
        let mut found = apt.packages(name)?;
        found.retain(|package| package.name == *name);
        let file = found
            .iter()
            .find_map(|package| match apt.download(name, &package.version) {
                Ok(Download::Gone) => None,
                Ok(Download::File(file)) => Some(Ok(file)),
                Err(error) => Some(Err(error)),
            });
        let file =
            file.with_context(|| format!("the mirror has no {name} for {}", arch.debian()))?;
        foreign_packages::unpack(&file?, &root)?;
    }
    for name in RUNTIME.iter().chain(&[BUSYBOX]) {
        let unpacked = BINS.map(|bin| root.join(bin).join(name));
        if let Some(program) = unpacked.into_iter().find(|path| shell::is_program(path)) {
            link(&program, &place.join("bin").join(name))?;
        }
    }
    if answers(&place.join("bin")) {
        return Ok(());
    }
    anyhow::bail!(
        "the programs below {} do not start; does this machine lack a library of theirs, such as libseccomp2?",
        root.display()
    )
}
