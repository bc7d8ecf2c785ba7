//! Building the agent for the other architecture: a linker, and a standard library for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf::Arch;
use crate::setup::compiler::{self, Compiler};
use crate::setup::{Install, Missing, Setup, apt};
use crate::shell;
use crate::workspace::Workspace;

/// What Cargo is told to build for another architecture.
#[derive(Debug)]
pub struct Cross {
    arch: Arch,
    linker: &'static str,
    /// A packaged compiler with a foreign sysroot; none when the default compiler has the target itself.
    foreign: Option<Foreign>,
}

#[derive(Debug)]
struct Foreign {
    compiler: Compiler,
    sysroot: PathBuf,
}

/// Finds or installs it.
pub fn prepare(workspace: &Workspace, install: Install, arch: Arch) -> Result<Cross> {
    let mut setup = Setup::new(install);
    let (linker, packages) = linker(arch);
    if shell::which(linker).is_none() {
        let packages = packages.map(str::to_owned);
        let missing = Missing {
            what: packages.join(" and "),
            why: "a C compiler and C library link the agent for the other architecture",
            takes: "about a minute",
            command: apt::install_line(&packages),
        };
        setup.need(missing, || apt::install(&packages))?;
    }
    let foreign = setup.standard_library(workspace, arch)?;
    setup.finish()?;
    Ok(Cross {
        arch,
        linker,
        foreign,
    })
}

/// The linker of an architecture, and Debian's packages of it.
fn linker(arch: Arch) -> (&'static str, [&'static str; 2]) {
    match arch {
        Arch::X86_64 => (
            "x86_64-linux-gnu-gcc",
            ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
        ),
        Arch::Aarch64 => (
            "aarch64-linux-gnu-gcc",
            ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        ),
    }
}

/// Debian's name of an architecture.
fn debian(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

const WHY: &str = "the agent for the other architecture needs a standard library for it";

impl Setup {
    /// The default compiler's own target comes first, then rustup, then the package of the other architecture.
    fn standard_library(&mut self, workspace: &Workspace, arch: Arch) -> Result<Option<Foreign>> {
        let default = compiler::sysroot(&mut Command::new("rustc"))?;
        if has_target(&default, arch) {
            return Ok(None);
        }
        if let Some(compiler) = compiler::packaged() {
            let (package, version) = package()?;
            let folder = workspace
                .tools()
                .join(format!("std-{}-{version}", arch.name()));
            let sysroot = folder.join("usr");
            if !has_target(&sysroot, arch) {
                let missing = Missing {
                    what: format!("{package} {version} for {}", debian(arch)),
                    why: WHY,
                    takes: "about a minute",
                    command: format!(
                        "fetched and unpacked to {}, not installed",
                        workspace.shown(&folder)
                    ),
                };
                self.need(missing, || unpack(arch, package, &version, &folder))?;
            }
            return Ok(Some(Foreign { compiler, sysroot }));
        }
        let missing = Missing {
            what: format!("the target {}", arch.triple()),
            why: WHY,
            takes: "seconds",
            command: format!("rustup target add {}", arch.triple()),
        };
        self.need(missing, || {
            if shell::which("rustup").is_none() {
                bail!("the Rust compiler is from neither rustup nor a Debian package; install the target the way it was installed");
            }
            shell::run(Command::new("rustup").args(["target", "add", arch.triple()])).context(
                "rustup could not fetch it; on a closed network use Debian's rustc-web and libstd-rust-web-dev-bpf",
            )
        })?;
        Ok(None)
    }
}

fn has_target(sysroot: &Path, arch: Arch) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(arch.triple())
        .join("lib")
        .is_dir()
}

/// The installed compiler's package of the standard library, and its version: they must be equal to the letter.
fn package() -> Result<(&'static str, String)> {
    for package in ["libstd-rust-web-dev", "libstd-rust-dev"] {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${Version}", package]);
        if let Ok(version) = shell::stdout(&mut query)
            && !version.is_empty()
        {
            return Ok((package, version));
        }
    }
    bail!(
        "the packaged Rust compiler has no libstd-rust-web-dev or libstd-rust-dev beside it; reinstall its package"
    )
}

/// Fetches a package of another architecture and unpacks it.
///
/// apt is given a state of its own, so that this machine does not gain an architecture.
fn unpack(arch: Arch, package: &str, version: &str, folder: &Path) -> Result<()> {
    let state = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(part))
            .with_context(|| format!("could not make {}", state.display()))?;
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        let name = debian(arch);
        command
            .arg("-qq")
            .args(["-o", &format!("APT::Architecture={name}")])
            .args(["-o", &format!("APT::Architectures::={name}")])
            .args([
                "-o",
                &format!("Dir::State::Lists={}", state.join("lists").display()),
            ])
            .args(["-o", "Dir::State::status=/dev/null"])
            // apt's own user may not write here, and apt would warn about doing without it.
            .args(["-o", "APT::Sandbox::User=root"])
            .args([
                "-o",
                &format!("Dir::Cache={}", state.join("cache").display()),
            ])
            .current_dir(folder);
        command
    };
    shell::run(apt().arg("update"))?;
    shell::run(apt().args(["download", &format!("{package}={version}")]))?;
    let file = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt left no package in {}", folder.display()))?;
    shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder))?;
    fs::remove_file(&file)
        .and_then(|()| fs::remove_dir_all(&state))
        .with_context(|| format!("could not clear {}", folder.display()))
}

impl Cross {
    /// Adds it to a `cargo build`; returns the target folder that Cargo then uses.
    pub fn apply(&self, workspace: &Workspace, cargo: &mut Command) -> PathBuf {
        let triple = self.arch.triple();
        let under = triple.replace('-', "_");
        let upper = under.to_uppercase();
        cargo
            .args(["--target", triple])
            .env(format!("CARGO_TARGET_{upper}_LINKER"), self.linker)
            .env(format!("CC_{under}"), self.linker)
            .env(
                "STALLSCOPE_BPF_DIR",
                workspace.target.join("bpf").join(self.arch.name()),
            );
        let Some(foreign) = &self.foreign else {
            return workspace.target.clone();
        };
        // A folder of its own: two compilers in one would build everything anew at each change between them.
        let target = workspace.target.join("cross");
        cargo
            .env("RUSTC", &foreign.compiler.rustc)
            .env("CARGO_TARGET_DIR", &target)
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("--sysroot={}", foreign.sysroot.display()),
            );
        target
    }
}
