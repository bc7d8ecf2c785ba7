//! bpf-linker: finds one that fits the compiler, or builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::compiler::{self, fits, linked_llvm};
use super::{Missing, Setup, apt};
use crate::shell;
use crate::workspace::{self, Workspace};

/// Version to build when none is found. Found linkers must be of the same minor release.
const VERSION: &str = "0.13.0";
/// LLVM versions that this release can be built against.
const LLVMS: [u32; 3] = [21, 22, 23];

impl Setup {
    /// Finds or builds a linker for a compiler of that LLVM. The LLVM is unknown only when nothing may be installed.
    pub(super) fn linker(
        &mut self,
        workspace: &Workspace,
        llvm: Option<u32>,
    ) -> Result<Option<PathBuf>> {
        // Any linker reads an LLVM of 0: only with the compiler does it show which one fits.
        if let Some(linker) = find(workspace, llvm.unwrap_or(0)) {
            return Ok(Some(linker));
        }
        let Some(llvm) = llvm else {
            let missing = Missing {
                what: format!("bpf-linker {VERSION}"),
                why: "it links the kernel side, and has to know the compiler's LLVM, which is missing too",
                takes: "about two minutes",
                command: "run this again once the compiler is there".to_owned(),
            };
            self.need(missing, || Ok(()))?;
            return Ok(None);
        };
        if !LLVMS.contains(&llvm) {
            bail!(
                "the BPF compiler uses LLVM {llvm}, but bpf-linker {VERSION} can be built for LLVM {LLVMS:?} only; \
                 install a compiler with one of these, or choose the other route with STALLSCOPE_BPF_TOOLCHAIN"
            );
        }
        let prefix = self.llvm(llvm)?;
        let usual = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        let prefix = prefix.unwrap_or(usual);
        let install = install_command(workspace, llvm, &prefix);
        let missing = Missing {
            what: format!("bpf-linker {VERSION}"),
            why: "it links the kernel side into BPF objects with BTF",
            takes: "about a minute",
            command: format!("LLVM_PREFIX={} {}", prefix.display(), shell::line(&install)),
        };
        if !self.need(missing, || shell::run(&mut { install }))? {
            return Ok(None);
        }
        let built = own(workspace);
        starts(&built)
            .map(|_| Some(built.clone()))
            .with_context(|| format!("{} was built but does not start", built.display()))
    }

    /// Finds or installs the development files of that LLVM. None when they may not be installed.
    fn llvm(&mut self, major: u32) -> Result<Option<PathBuf>> {
        if let Some(prefix) = compiler::llvm_prefix(major) {
            return Ok(Some(prefix));
        }
        let package = format!("llvm-{major}-dev");
        let missing = Missing {
            what: package.clone(),
            why: "bpf-linker is built against the LLVM of the BPF compiler",
            takes: "about a minute",
            command: apt::install_line(std::slice::from_ref(&package)),
        };
        let installed = self.need(missing, || {
            if !apt::offers(&package) {
                bail!(
                    "no package source here has it; install LLVM {major} with its shared library and put \
                     its llvm-config in PATH, or choose the other compiler with STALLSCOPE_BPF_TOOLCHAIN"
                );
            }
            apt::install(std::slice::from_ref(&package))
        })?;
        if !installed {
            return Ok(None);
        }
        let prefix = compiler::llvm_prefix(major)
            .with_context(|| format!("{package} is installed, but brought no llvm-config"))?;
        Ok(Some(prefix))
    }
}

/// Returns whether a linker for a compiler of that LLVM is here or available.
pub(super) fn obtainable(workspace: &Workspace, llvm: u32) -> bool {
    find(workspace, llvm).is_some()
        || (LLVMS.contains(&llvm)
            && (compiler::llvm_prefix(llvm).is_some() || apt::offers(&format!("llvm-{llvm}-dev"))))
}

fn own(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bin/bpf-linker")
}

fn find(workspace: &Workspace, llvm: u32) -> Option<PathBuf> {
    let mut candidates = shell::all_in_path("bpf-linker");
    candidates.extend(workspace::cargo_home().map(|home| home.join("bin/bpf-linker")));
    candidates.push(own(workspace));
    candidates.into_iter().find(|linker| {
        starts(linker).is_ok_and(|version| same_release(&version))
            && fs::read(linker).is_ok_and(|bytes| fits(linked_llvm(&bytes), llvm))
    })
}

/// Asks a linker for its version, which also shows that its libraries are there.
fn starts(linker: &Path) -> Result<String> {
    if !shell::is_program(linker) {
        bail!("{} is not a program", linker.display());
    }
    shell::stdout(Command::new(linker).arg("--version"))
}

/// Returns whether `bpf-linker --version` names the minor release this project is tested with, at any patch level.
fn same_release(version: &str) -> bool {
    let minor = |text: &str| {
        let mut parts = text.split('.');
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    };
    version
        .trim()
        .strip_prefix("bpf-linker ")
        .is_some_and(|found| minor(found) == minor(VERSION))
}

fn install_command(workspace: &Workspace, llvm: u32, prefix: &Path) -> Command {
    let mut command = workspace::cargo();
    // It is built against the shared library: static LLVM needs archives that distributions do not ship.
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(workspace.tools())
        .arg("--force")
        .env("LLVM_PREFIX", prefix);
    command
}

#[cfg(test)]
mod tests {
    use super::same_release;

    #[test]
    fn another_release_of_the_linker_is_not_taken() {
        assert!(same_release("bpf-linker 0.13.0\n"));
        assert!(same_release("bpf-linker 0.13.4"));
        assert!(!same_release("bpf-linker 0.12.9"));
        assert!(!same_release("bpf-linker 0.130.0"));
        assert!(!same_release("ld 2.40"));
    }
}
