//! Tools of `cargo xtask check` and `fuzz` besides those of the builds: the formatter, Clippy twice, cargo-deny,
//! cargo-fuzz.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::compiler::{self, Compiler, Route};
use super::{Missing, Setup, apt};
use crate::shell;
use crate::workspace::{self, Workspace};

/// Release of cargo-deny to build when none is found.
const DENY_VERSION: &str = "0.20.2";
/// Release of cargo-fuzz to build when none is found.
const FUZZ_VERSION: &str = "0.13.2";

impl Setup {
    /// Finds or installs rustfmt and Clippy for the host's compiler.
    pub fn host_lints(&mut self) -> Result<()> {
        let needed = [
            ("fmt", "rustfmt", "it checks the formatting"),
            ("clippy", "clippy", "it lints the agent"),
        ];
        for (verb, component, why) in needed {
            if answers(workspace::cargo().args([verb, "--version"])) {
                continue;
            }
            if std::env::var_os("RUSTUP_TOOLCHAIN").is_some() {
                let missing = Missing {
                    what: component.to_owned(),
                    why,
                    takes: "seconds",
                    command: format!("rustup component add {component}"),
                };
                self.need(missing, || add_component(component, None))?;
            } else {
                let family = installed_family()?;
                let package = if component == "clippy" {
                    family.clippy
                } else {
                    family.rustfmt
                };
                self.package(package, why)?;
            }
        }
        Ok(())
    }

    /// Finds or installs Clippy of the BPF compiler. Another compiler's Clippy cannot read its `core`.
    pub fn bpf_clippy(&mut self, compiler: &Compiler) -> Result<()> {
        let why = "it lints the kernel side with the compiler that builds it";
        match compiler.route {
            Route::Packages if !shell::is_program(&packaged_clippy(compiler)) => {
                self.package(installed_family()?.clippy, why)
            }
            Route::Rustup if !answers(compiler::nightly("cargo").args(["clippy", "--version"])) => {
                let missing = Missing {
                    what: "clippy for rustup's nightly".to_owned(),
                    why,
                    takes: "seconds",
                    command: "rustup component add clippy --toolchain nightly".to_owned(),
                };
                self.need(missing, || add_component("clippy", Some("nightly")))
                    .map(|_| ())
            }
            Route::Packages | Route::Rustup => Ok(()),
        }
    }

    /// Finds or installs cargo-deny. None when it may not be installed.
    pub fn deny(&mut self, workspace: &Workspace) -> Result<Option<PathBuf>> {
        let why = "it checks licences, advisories and sources of the dependencies";
        self.cargo_tool(workspace, "cargo-deny", DENY_VERSION, why)
    }

    /// Finds or installs cargo-fuzz, with the C++ compiler that builds libFuzzer. None when it may not be installed.
    pub fn fuzzer(&mut self, workspace: &Workspace) -> Result<Option<PathBuf>> {
        if shell::which("c++").is_none() {
            self.package("g++", "it compiles libFuzzer")?;
        }
        let why = "it builds fuzz targets";
        self.cargo_tool(workspace, "cargo-fuzz", FUZZ_VERSION, why)
    }

    /// Finds a Cargo subcommand, or builds it in the target folder. None when it may not be built.
    fn cargo_tool(
        &mut self,
        workspace: &Workspace,
        name: &str,
        version: &str,
        why: &'static str,
    ) -> Result<Option<PathBuf>> {
        let own = workspace.tools().join("bin").join(name);
        let mut candidates = shell::all_in_path(name);
        candidates.extend(workspace::cargo_home().map(|home| home.join("bin").join(name)));
        candidates.push(own.clone());
        let found = candidates
            .into_iter()
            .find(|tool| shell::is_program(tool) && answers(Command::new(tool).arg("--version")));
        if found.is_some() {
            return Ok(found);
        }
        let mut install = workspace::cargo();
        // The dev profile, because the tool runs for a second and would take four times as long to build in release.
        install
            .args(["install", name, "--version", version])
            .args(["--locked", "--debug", "--force", "--root"])
            .arg(workspace.tools());
        let missing = Missing {
            what: format!("{name} {version}"),
            why,
            takes: "one to three minutes",
            command: shell::line(&install),
        };
        let installed = self.need(missing, || shell::run(&mut install))?;
        Ok(installed.then_some(own))
    }

    fn package(&mut self, package: &str, why: &'static str) -> Result<()> {
        let packages = [package.to_owned()];
        let missing = Missing {
            what: package.to_owned(),
            why,
            takes: "seconds",
            command: apt::install_line(&packages),
        };
        self.need(missing, || apt::install(&packages)).map(|_| ())
    }
}

/// Returns `cargo-clippy` beside a packaged compiler. It uses the `clippy-driver` beside itself.
pub fn packaged_clippy(compiler: &Compiler) -> PathBuf {
    compiler.rustc.with_file_name("cargo-clippy")
}

fn installed_family() -> Result<apt::Family> {
    let names: Vec<&str> = apt::FAMILIES.iter().map(|family| family.rustc).collect();
    let installed = apt::policy(&names)?;
    apt::FAMILIES
        .into_iter()
        .find(|family| installed.iter().any(|p| p.name == family.rustc && p.installed))
        .context("the Rust compiler is from neither rustup nor a Debian package; install Clippy and rustfmt the way it was installed")
}

fn add_component(component: &str, toolchain: Option<&str>) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["component", "add", component]);
    if let Some(toolchain) = toolchain {
        command.args(["--toolchain", toolchain]);
    }
    if shell::run(&mut command).is_err() {
        bail!(
            "rustup could not fetch it; a closed network cannot add components, so use a toolchain that has it"
        );
    }
    Ok(())
}

fn answers(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
