//! The kernel side: one BPF object per program, for each architecture.

mod strip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::cross;
use crate::setup::Bpf;
use crate::setup::compiler::{self, BPF_TARGET, Route};
use crate::setup::tools::packaged_clippy;
use crate::shell;
use crate::workspace::{self, BPF_PACKAGE, Workspace};

/// The architectures whose kernels the agent runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Arch {
    /// x86-64; `amd64` will do
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// ARM64; `arm64` will do
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// Returns this machine's architecture.
    pub fn host() -> Result<Self> {
        let name = std::env::consts::ARCH;
        Self::from_str(name, false).ok().with_context(|| {
            format!("this machine is {name}, but Stallscope runs on x86_64 and aarch64; name one with --arch")
        })
    }

    /// Returns Rust's name of the architecture.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Returns Debian's name of the architecture, which container images use as well.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Returns the Rust target triple of the agent.
    pub fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// Builds every program for one architecture and puts the objects, stripped of debug information, into the folder from
/// which the agent's build embeds them.
pub fn build(workspace: &Workspace, bpf: &Bpf, arch: Arch) -> Result<()> {
    let objects = workspace.target.join("bpf").join(arch.name());
    fs::create_dir_all(&objects)
        .with_context(|| format!("could not make {}", objects.display()))?;
    if workspace.bpf_bins.is_empty() {
        println!("==> BPF objects: {BPF_PACKAGE} has no programs");
        return remove_stale(&objects, &[]);
    }
    println!(
        "==> BPF objects for {}: {}",
        arch.name(),
        workspace.bpf_bins.join(", ")
    );
    shell::run(&mut cargo(workspace, bpf, arch, Tool::Build))
        .context("the kernel side did not build")?;
    for name in &workspace.bpf_bins {
        let built = build_folder(workspace, arch)
            .join(BPF_TARGET)
            .join("release")
            .join(name);
        copy_stripped(&built, &objects.join(format!("{name}.o")))?;
    }
    remove_stale(&objects, &workspace.bpf_bins)
}

/// Returns Cargo's message about each crate of the kernel side, in JSON lines. Quick once it is built.
pub fn messages(workspace: &Workspace, bpf: &Bpf, arch: Arch) -> Result<String> {
    shell::stdout(cargo(workspace, bpf, arch, Tool::Build).args(["--message-format", "json"]))
}

/// Lints every program with the Clippy of the compiler that builds it.
pub fn clippy(workspace: &Workspace, bpf: &Bpf, arch: Arch) -> Result<()> {
    shell::run(cargo(workspace, bpf, arch, Tool::Clippy).args(["--", "-D", "warnings"]))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tool {
    Build,
    Clippy,
}

fn build_folder(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.target.join("bpf-build").join(arch.name())
}

fn cargo(workspace: &Workspace, bpf: &Bpf, arch: Arch, tool: Tool) -> Command {
    let verb = match tool {
        Tool::Build => "build",
        Tool::Clippy => "clippy",
    };
    let mut command = match (bpf.compiler.route, tool) {
        (Route::Rustup, _) => {
            let mut command = compiler::nightly("cargo");
            command.args([verb, "-Zbuild-std=core"]);
            command
        }
        (Route::Packages, Tool::Build) => {
            let mut command = workspace::cargo();
            command.arg(verb);
            command
        }
        // The path keeps Cargo from running the Clippy of another compiler.
        (Route::Packages, Tool::Clippy) => {
            let mut command = Command::new(packaged_clippy(&bpf.compiler));
            shell::forget_this_package(&mut command);
            command.arg(verb);
            command
        }
    };
    if bpf.compiler.route == Route::Packages {
        // It is a release compiler, but the kernel side needs unstable features of the language.
        command
            .env("RUSTC", &bpf.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1");
    }
    command
        .args(["--package", BPF_PACKAGE, "--bins", "--release"])
        .args(["--target", BPF_TARGET, "--target-dir"])
        .arg(build_folder(workspace, arch))
        // Incremental builds split a crate into units whose calls the loader resolves to the wrong function.
        .env("CARGO_INCREMENTAL", "0")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(workspace, arch, &bpf.linker),
        );
    workspace.scoped(command)
}

/// Returns the compiler flags of the kernel side, joined as Cargo expects them so that a path may contain spaces.
fn rustflags(workspace: &Workspace, arch: Arch, linker: &Path) -> String {
    let mut flags = vec![
        // The architecture decides which registers hold a program's arguments.
        format!("--cfg=bpf_target_arch=\"{}\"", arch.name()),
        "--check-cfg=cfg(bpf_target_arch,values(\"x86_64\",\"aarch64\"))".to_owned(),
        // The linker makes BTF from the debug information. Without it maps have no types and globals no names.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    // Type information contains the names of source files: an object built elsewhere would differ.
    flags.extend(cross::remapped(workspace));
    flags.join("\u{1f}")
}

/// Copies an object without its debug information, and only if the result differs, so that an unchanged object does not
/// rebuild the agent.
fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    let built = fs::read(from).with_context(|| {
        format!(
            "the build left no object at {}; was its output moved?",
            from.display()
        )
    })?;
    let new = strip::without_dwarf(&built).with_context(|| {
        format!(
            "cannot use {}; did another linker than bpf-linker write it?",
            from.display()
        )
    })?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("could not write {}", to.display()))
}

/// Removes objects of deleted programs: the agent would still embed and load them.
fn remove_stale(objects: &Path, names: &[String]) -> Result<()> {
    for entry in
        fs::read_dir(objects).with_context(|| format!("could not list {}", objects.display()))?
    {
        let path = entry?.path();
        let known = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|stem| names.iter().any(|name| name == stem));
        if path.extension().is_some_and(|e| e == "o") && !known {
            fs::remove_file(&path)
                .with_context(|| format!("could not remove the stale {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Arch, Workspace, copy_stripped, remove_stale, rustflags, strip};
    use clap::ValueEnum as _;
    use std::fs;
    use std::path::Path;

    #[test]
    fn both_names_of_an_architecture_are_taken() {
        for arch in Arch::value_variants() {
            assert_eq!(Arch::from_str(arch.name(), false).as_ref(), Ok(arch));
            assert_eq!(Arch::from_str(arch.debian(), false).as_ref(), Ok(arch));
        }
        assert!(Arch::from_str("riscv64", false).is_err());
    }

    #[test]
    fn flags_name_the_architecture_and_keep_spaces_in_paths() {
        let workspace = Workspace {
            root: "/my code".into(),
            target: "/out".into(),
            bpf_bins: Vec::new(),
        };
        let flags = rustflags(&workspace, Arch::Aarch64, Path::new("/my tools/bpf-linker"));
        let flags: Vec<&str> = flags.split('\u{1f}').collect();
        assert!(flags.contains(&"--cfg=bpf_target_arch=\"aarch64\""));
        assert!(flags.contains(&"-Clinker=/my tools/bpf-linker"));
        assert!(flags.contains(&"--remap-path-prefix=/my code=."));
    }

    #[test]
    fn unchanged_objects_keep_their_time_and_stale_ones_go() {
        let folder = std::env::temp_dir().join(format!("stallscope-bpf-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (built, object) = (folder.join("built"), folder.join("a.o"));
        fs::write(&built, strip::tests::object()).unwrap();
        copy_stripped(&built, &object).unwrap();
        let time = || object.metadata().unwrap().modified().unwrap();
        let before = time();
        std::thread::sleep(std::time::Duration::from_millis(20));
        copy_stripped(&built, &object).unwrap();
        assert_eq!(time(), before);
        fs::write(&built, b"#!/bin/sh").unwrap();
        assert!(copy_stripped(&built, &object).is_err());
        fs::write(folder.join("gone.o"), b"").unwrap();
        remove_stale(&folder, &["a".to_owned()]).unwrap();
        assert!(object.exists() && !folder.join("gone.o").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
