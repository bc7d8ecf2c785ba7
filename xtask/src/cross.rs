//! What Cargo needs to build for an architecture: a linker and a standard library, if it is not this machine's.

mod unpacked;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf::Arch;
use crate::setup::compiler::{self, Compiler};
use crate::setup::{Install, Missing, Setup, apt};
use crate::shell;
use crate::workspace::{self, Workspace};
pub use unpacked::Unpacked;

/// What Cargo is told to build for an architecture.
#[derive(Debug)]
pub struct Cross {
    arch: Arch,
    linkage: Linkage,
    /// None on a machine of that architecture, whose own linker will do.
    linker: Option<&'static str>,
    /// A packaged compiler with a foreign sysroot; none when the default compiler has the target itself.
    foreign: Option<Foreign>,
    /// A newer C library than the one that came with the linker.
    libc: Option<Unpacked>,
}

/// How a program comes by the C library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Linkage {
    /// From the machine it runs on.
    Dynamic,
    /// It carries its own and needs no file but itself.
    Static,
}

#[derive(Debug)]
struct Foreign {
    compiler: Compiler,
    sysroot: PathBuf,
    std: Unpacked,
}

/// Finds or installs it.
pub fn prepare(
    workspace: &Workspace,
    install: Install,
    arch: Arch,
    linkage: Linkage,
) -> Result<Cross> {
    let mut cross = Cross {
        arch,
        linkage,
        linker: None,
        foreign: None,
        libc: None,
    };
    if Arch::host().ok() == Some(arch) {
        return Ok(cross);
    }
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
    cross.linker = Some(linker);
    cross.foreign = setup.standard_library(workspace, arch)?;
    if linkage == Linkage::Static {
        cross.libc = setup.static_libc(workspace, arch)?;
    }
    setup.finish()?;
    Ok(cross)
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

const WHY: &str = "the agent for the other architecture needs a standard library for it";

impl Setup {
    /// The default compiler's own target comes first, then rustup, then the package of the other architecture.
    fn standard_library(&mut self, workspace: &Workspace, arch: Arch) -> Result<Option<Foreign>> {
        let default = compiler::sysroot(&mut Command::new("rustc"))?;
        if has_target(&default, arch) {
            return Ok(None);
        }
        if let Some(compiler) = compiler::packaged() {
            let std = standard_package(workspace, arch)?;
            std.fetch(self, workspace, WHY)?;
            let sysroot = std.folder.join("usr");
            return Ok(Some(Foreign {
                compiler,
                sysroot,
                std,
            }));
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

    /// This machine's C library as it is for the other architecture.
    ///
    /// The one that comes with the linker is of the day the distribution was released, without the fixes since,
    /// and a static program keeps the library it was linked with.
    fn static_libc(&mut self, workspace: &Workspace, arch: Arch) -> Result<Option<Unpacked>> {
        let Some(libc) = Unpacked::twin(workspace, arch, "libc6-dev") else {
            return Ok(None);
        };
        let why = "a static program carries the C library, which should have the latest fixes";
        libc.fetch(self, workspace, why)?;
        Ok(Some(libc))
    }
}

fn has_target(sysroot: &Path, arch: Arch) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(arch.triple())
        .join("lib")
        .is_dir()
}

/// The package of the installed compiler's standard library: the versions must be equal to the letter.
fn standard_package(workspace: &Workspace, arch: Arch) -> Result<Unpacked> {
    ["libstd-rust-web-dev", "libstd-rust-dev"]
        .into_iter()
        .find_map(|package| Unpacked::twin(workspace, arch, package))
        .context(
            "the packaged Rust compiler has no libstd-rust-web-dev or libstd-rust-dev beside it; reinstall its package",
        )
}

impl Cross {
    /// The compiler.
    pub fn rustc(&self) -> &Path {
        self.foreign
            .as_ref()
            .map_or(Path::new("rustc"), |foreign| &foreign.compiler.rustc)
    }

    /// The linker, which is also a C compiler.
    pub fn linker(&self) -> &'static str {
        self.linker.unwrap_or("cc")
    }

    /// The package with the standard library, when that is not the compiler's own.
    pub fn std(&self) -> Option<&Unpacked> {
        self.foreign.as_ref().map(|foreign| &foreign.std)
    }

    /// The package with the C library, when that is not the linker's own.
    pub fn libc(&self) -> Option<&Unpacked> {
        self.libc.as_ref()
    }

    /// Adds it to a `cargo build`; returns the folder in which Cargo then leaves a folder for each profile.
    pub fn apply(&self, workspace: &Workspace, cargo: &mut Command) -> PathBuf {
        if self.linker.is_none() && self.linkage == Linkage::Dynamic {
            return workspace.target.clone();
        }
        let triple = self.arch.triple();
        cargo.args(["--target", triple]).env(
            "STALLSCOPE_BPF_DIR",
            workspace.target.join("bpf").join(self.arch.name()),
        );
        if let Some(linker) = self.linker {
            let under = triple.replace('-', "_");
            cargo
                .env(
                    format!("CARGO_TARGET_{}_LINKER", under.to_uppercase()),
                    linker,
                )
                .env(format!("CC_{under}"), linker);
        }
        if let Some(foreign) = &self.foreign {
            cargo.env("RUSTC", &foreign.compiler.rustc);
        }
        if self.linkage == Linkage::Static {
            // Some crates have parts in C, compiled by the crate `cc`.
            let flags = format!("CFLAGS_{}", triple.replace('-', "_"));
            cargo
                .env(flags, remapped_c(workspace))
                .env("CC_SHELL_ESCAPED_FLAGS", "1");
        }
        let flags = self.flags(workspace);
        if !flags.is_empty() {
            cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        }
        let target = self.target(workspace);
        cargo.env("CARGO_TARGET_DIR", &target);
        target.join(triple)
    }

    /// A folder for each compiler and set of flags: in one they would build everything anew at each change.
    fn target(&self, workspace: &Workspace) -> PathBuf {
        match self.linkage {
            Linkage::Static => workspace.target.join("static").join(self.arch.name()),
            Linkage::Dynamic if self.foreign.is_some() => workspace.target.join("cross"),
            Linkage::Dynamic => workspace.target.clone(),
        }
    }

    fn flags(&self, workspace: &Workspace) -> Vec<String> {
        let mut flags = Vec::new();
        if let Some(foreign) = &self.foreign {
            flags.push(format!("--sysroot={}", foreign.sysroot.display()));
        }
        if self.linkage == Linkage::Static {
            flags.push("-Ctarget-feature=+crt-static".to_owned());
            if let Some(libc) = &self.libc {
                // The linker looks for start files and libraries there before it looks in its own folders.
                flags.push(format!("-Clink-arg=-B{}", libc.libraries().display()));
            }
            // These programs travel: where they were built says nothing elsewhere, and would make them differ.
            flags.extend(remapped(workspace));
        }
        flags
    }
}

/// Flags that keep this machine's paths out of what is built; the last that fits a path counts.
pub fn remapped(workspace: &Workspace) -> Vec<String> {
    renamed(workspace)
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

/// The same for a C compiler, as a shell would read it.
fn remapped_c(workspace: &Workspace) -> String {
    let flags = renamed(workspace)
        .into_iter()
        .map(|(from, to)| format!("'-ffile-prefix-map={}={to}'", from.display()));
    flags.collect::<Vec<_>>().join(" ")
}

/// Folders of this machine, and what stands for them.
fn renamed(workspace: &Workspace) -> Vec<(PathBuf, &'static str)> {
    // Relative to the workspace, where Cargo starts compilers, so that whoever looks for a source still finds it.
    let mut folders = vec![
        (workspace.root.clone(), "."),
        (workspace.target.clone(), "./target"),
    ];
    folders.extend(workspace::cargo_home().map(|home| (home, "/cargo")));
    folders
}

#[cfg(test)]
mod tests {
    use super::{Cross, Linkage};
    use crate::bpf::Arch;
    use crate::workspace::Workspace;
    use std::collections::HashMap;
    use std::path::Path;
    use std::process::Command;

    fn applied(
        linker: Option<&'static str>,
        linkage: Linkage,
    ) -> (String, HashMap<String, String>) {
        let workspace = Workspace {
            root: "/src".into(),
            target: "/out".into(),
            bpf_bins: Vec::new(),
        };
        let cross = Cross {
            arch: Arch::Aarch64,
            linkage,
            linker,
            foreign: None,
            libc: None,
        };
        let mut cargo = Command::new("cargo");
        let folder = cross.apply(&workspace, &mut cargo);
        let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        let environment = cargo
            .get_envs()
            .map(|(name, value)| (text(name), value.map(text).unwrap_or_default()))
            .collect();
        (text(folder.as_os_str()), environment)
    }

    #[test]
    fn a_build_for_this_machine_is_a_plain_one() {
        let (folder, environment) = applied(None, Linkage::Dynamic);
        assert_eq!(Path::new(&folder), Path::new("/out"));
        assert!(environment.is_empty(), "{environment:?}");
    }

    #[test]
    fn static_builds_have_flags_and_a_folder_of_their_own() {
        let (folder, environment) = applied(None, Linkage::Static);
        assert_eq!(folder, "/out/static/aarch64/aarch64-unknown-linux-gnu");
        assert_eq!(environment["CARGO_TARGET_DIR"], "/out/static/aarch64");
        assert_eq!(environment["STALLSCOPE_BPF_DIR"], "/out/bpf/aarch64");
        let flags: Vec<&str> = environment["CARGO_ENCODED_RUSTFLAGS"]
            .split('\u{1f}')
            .collect();
        assert!(flags.contains(&"-Ctarget-feature=+crt-static"));
        assert!(flags.contains(&"--remap-path-prefix=/src=."));
        let flags = &environment["CFLAGS_aarch64_unknown_linux_gnu"];
        assert!(flags.contains("'-ffile-prefix-map=/src=.'"), "{flags}");
    }

    #[test]
    fn another_architecture_gets_its_linker() {
        let (folder, environment) = applied(Some("aarch64-linux-gnu-gcc"), Linkage::Dynamic);
        assert_eq!(folder, "/out/aarch64-unknown-linux-gnu");
        let linker = "aarch64-linux-gnu-gcc";
        assert_eq!(
            environment["CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"],
            linker
        );
        assert_eq!(environment["CC_aarch64_unknown_linux_gnu"], linker);
        assert!(!environment.contains_key("CARGO_ENCODED_RUSTFLAGS"));
    }
}
