//! Tools of builds for an architecture: a linker and a standard library, if it is not this machine's.

mod unpacked_packages;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf::Arch;
use crate::setup::compiler::{self, Compiler};
use crate::setup::{Install, Missing, Setup, apt};
use crate::shell;
use crate::workspace::{self, Workspace};
pub use unpacked_packages::Unpacked;

/// Cargo settings to build for an architecture.
#[derive(Debug)]
pub struct Cross {
    arch: Arch,
    linkage: Linkage,
    /// Linker of the other architecture; none on a machine of that architecture, whose own linker will do.
    linker: Option<&'static str>,
    /// A packaged compiler with a foreign sysroot; none when the default compiler has the target itself.
    foreign: Option<Foreign>,
    /// A newer C library than the one that comes with the linker.
    libc: Option<Unpacked>,
}

/// Linkage of a program with the C library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Linkage {
    /// The program uses the library of the machine it runs on.
    Dynamic,
    /// The program contains the library and needs no other file.
    Static,
}

#[derive(Debug)]
struct Foreign {
    compiler: Compiler,
    sysroot: PathBuf,
    std: Unpacked,
}

/// Finds or installs the tools.
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

/// Returns the linker of an architecture, and the Debian packages that have it.
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
    /// Finds the standard library: the default compiler's own target comes first, then rustup, then the package of the
    /// other architecture.
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

    /// Finds this machine's version of the C library for the other architecture.
    ///
    /// The one that comes with the linker dates from the distribution's release and lacks later fixes, and a static
    /// program keeps the library it was linked with.
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

/// Returns the package of the installed compiler's standard library. The versions must be exactly equal.
fn standard_package(workspace: &Workspace, arch: Arch) -> Result<Unpacked> {
    ["libstd-rust-web-dev", "libstd-rust-dev"]
        .into_iter()
        .find_map(|package| Unpacked::twin(workspace, arch, package))
        .context(
            "the packaged Rust compiler has no libstd-rust-web-dev or libstd-rust-dev beside it; reinstall its package",
        )
}

impl Cross {
    /// Returns the path of the compiler.
    pub fn rustc(&self) -> &Path {
        self.foreign
            .as_ref()
            .map_or(Path::new("rustc"), |foreign| &foreign.compiler.rustc)
    }

    /// Returns the linker, which is also a C compiler.
    pub fn linker(&self) -> &'static str {
        self.linker.unwrap_or("cc")
    }

    /// Returns the package with the standard library, unless it is the compiler's own.
    pub fn std(&self) -> Option<&Unpacked> {
        self.foreign.as_ref().map(|foreign| &foreign.std)
    }

    /// Returns the package with the C library, unless it is the linker's own.
    pub fn libc(&self) -> Option<&Unpacked> {
        self.libc.as_ref()
    }

    /// Adds the tools to a `cargo build`. Returns the folder in which Cargo then leaves a folder for each profile.
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
            // The crate `cc` compiles the C parts of some crates.
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

    /// Returns the target folder. Each compiler and set of flags has its own: in a shared one each change would rebuild
    /// everything.
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
                // The linker searches this folder for start files and libraries before its own folders.
                flags.push(format!("-Clink-arg=-B{}", libc.libraries().display()));
            }
            // These programs run elsewhere: build paths say nothing there, and would make the programs differ.
            flags.extend(remapped(workspace));
        }
        flags
    }
}

/// Returns flags that keep this machine's paths out of the programs. Of several that match a path, the last one counts.
pub fn remapped(workspace: &Workspace) -> Vec<String> {
    renamed(workspace)
        .into_iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

/// Returns the same flags for a C compiler, quoted for a shell.
fn remapped_c(workspace: &Workspace) -> String {
    let flags = renamed(workspace)
        .into_iter()
        .map(|(from, to)| format!("'-ffile-prefix-map={}={to}'", from.display()));
    flags.collect::<Vec<_>>().join(" ")
}

/// Returns folders of this machine and their replacements.
fn renamed(workspace: &Workspace) -> Vec<(PathBuf, &'static str)> {
    // Cargo starts compilers in the workspace. Paths relative to it still lead a debugger to the sources.
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
