//! Compilers that can build for BPF, and the linkers that fit them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::shell;

/// Target of the kernel side. Both supported architectures are little-endian.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// Source of a BPF-capable compiler.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// A distribution's compiler with `core` already built for BPF.
    Packages,
    /// A nightly of rustup, which builds `core` from source.
    Rustup,
}

/// A compiler that can build for BPF.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Compiler {
    /// Source of the compiler.
    pub route: Route,
    /// Program of rustc itself, also behind rustup, so that a replaced one is noticed.
    pub rustc: PathBuf,
    /// Folder of `core` for BPF, built or as source.
    pub core: PathBuf,
    /// Major version of the compiler's LLVM, which the linker must be able to read.
    pub llvm: u32,
}

/// Versions from `rustc -vV`.
#[derive(Debug, Eq, PartialEq)]
pub struct Version {
    /// Major and minor release.
    pub release: (u32, u32),
    /// Major version of LLVM.
    pub llvm: u32,
}

/// Parses the answer of `rustc -vV`.
pub fn parse_version(text: &str) -> Option<Version> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let mut release = value("release: ")?.split('.');
    let llvm = value("LLVM version: ")?.split('.').next()?.parse().ok()?;
    let major = release.next()?.parse().ok()?;
    let minor = release.next()?.parse().ok()?;
    Some(Version {
        release: (major, minor),
        llvm,
    })
}

/// Returns the major version of LLVM that a linker loads, from the names of libraries in its file.
///
/// None when it loads none, which means that LLVM is built in.
pub fn linked_llvm(program: &[u8]) -> Option<u32> {
    [b"libLLVM.so.".as_slice(), b"libLLVM-".as_slice()]
        .into_iter()
        .find_map(|name| {
            program
                .windows(name.len())
                .enumerate()
                .filter(|(_, window)| *window == name)
                .find_map(|(at, _)| {
                    let digits: String = program[at + name.len()..]
                        .iter()
                        .map(|byte| char::from(*byte))
                        .take_while(char::is_ascii_digit)
                        .collect();
                    digits.parse().ok()
                })
        })
}

/// Returns whether a linker with that LLVM can read the output of a compiler with this LLVM: newer reads older, never
/// the reverse.
pub fn fits(linker: Option<u32>, compiler: u32) -> bool {
    linker.is_none_or(|linker| linker >= compiler)
}

/// Finds the distribution's compiler, if its BPF library is there too.
pub fn packaged() -> Option<Compiler> {
    let mut candidates = shell::all_in_path("rustc");
    candidates.push(PathBuf::from("/usr/bin/rustc"));
    candidates
        .into_iter()
        .filter(|rustc| shell::is_program(rustc))
        .find_map(|rustc| {
            let sysroot = sysroot(&mut Command::new(&rustc)).ok()?;
            let core = sysroot.join("lib/rustlib").join(BPF_TARGET);
            if !core.is_dir() {
                return None;
            }
            let version = version(&mut Command::new(&rustc)).ok()?;
            Some(Compiler {
                route: Route::Packages,
                rustc,
                core,
                llvm: version.llvm,
            })
        })
}

/// Returns a command that runs a program of rustup's nightly, without letting rustup fetch one.
pub fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", program])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTC")
        .env_remove("CARGO");
    shell::forget_this_package(&mut command);
    command
}

/// Finds rustup's nightly, if the source of `core` is there too.
pub fn rustup_nightly() -> Option<Compiler> {
    shell::which("rustup")?;
    let sysroot = sysroot(&mut nightly("rustc")).ok()?;
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    if !core.is_dir() {
        return None;
    }
    let version = version(&mut nightly("rustc")).ok()?;
    Some(Compiler {
        route: Route::Rustup,
        rustc: sysroot.join("bin/rustc"),
        core,
        llvm: version.llvm,
    })
}

/// Returns the folder of a compiler's libraries.
pub fn sysroot(rustc: &mut Command) -> Result<PathBuf> {
    let sysroot = shell::stdout(rustc.args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim_end()))
}

/// Returns the version of a compiler.
pub fn version(rustc: &mut Command) -> Result<Version> {
    let text = shell::stdout(rustc.arg("-vV"))?;
    parse_version(&text).with_context(|| {
        format!("`rustc -vV` should print a release and an LLVM version, but printed:\n{text}")
    })
}

/// Returns the folder of an LLVM of that major version, if it has the library to link against.
pub fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let usual = Path::new("/usr/lib").join(format!("llvm-{major}"));
    if usual.join("lib/libLLVM.so").exists() && usual.join("bin/llvm-config").exists() {
        return Some(usual);
    }
    [format!("llvm-config-{major}"), "llvm-config".to_owned()]
        .into_iter()
        .find_map(|program| {
            let version = shell::stdout(Command::new(&program).arg("--version")).ok()?;
            if version.split('.').next()?.parse() != Ok(major) {
                return None;
            }
            // Distributions that split LLVM have the program without the library.
            let libraries = shell::stdout(Command::new(&program).arg("--libdir")).ok()?;
            let libraries = Path::new(libraries.trim_end());
            let names = ["libLLVM.so".to_owned(), format!("libLLVM-{major}.so")];
            if !names.iter().any(|name| libraries.join(name).exists()) {
                return None;
            }
            let prefix = shell::stdout(Command::new(&program).arg("--prefix")).ok()?;
            Some(PathBuf::from(prefix.trim_end()))
        })
}

#[cfg(test)]
mod tests {
    use super::{Version, fits, linked_llvm, parse_version};

    #[test]
    fn version_of_stable_and_nightly_compilers() {
        let stable = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = Version {
            release: (1, 96),
            llvm: 22,
        };
        assert_eq!(parse_version(stable), Some(version));
        let nightly = "release: 1.97.0-nightly\nLLVM version: 23.0.0\n";
        assert_eq!(parse_version(nightly).unwrap().release, (1, 97));
        assert_eq!(parse_version("release: 1.97.0\n"), None);
        assert_eq!(parse_version("error: no toolchain"), None);
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_library_names() {
        assert_eq!(linked_llvm(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(linked_llvm(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(linked_llvm(b"libLLVM.so.\0 libLLVM.so.21.1\0"), Some(21));
        assert_eq!(linked_llvm(b"\0libc.so.6\0"), None);
    }

    #[test]
    fn newer_llvm_reads_older_code_and_not_the_reverse() {
        assert!(fits(Some(22), 22));
        assert!(fits(Some(23), 22));
        assert!(!fits(Some(21), 22));
        assert!(fits(None, 22));
    }
}
