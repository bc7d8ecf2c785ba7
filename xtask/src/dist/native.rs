//! Libraries in an agent that are not crates: they come with the compilers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use purl::GenericPurlBuilder;

use super::parts::Side;
use crate::bpf::Arch;
use crate::cross::{Cross, Unpacked};
use crate::setup::Bpf;
use crate::setup::compiler::{self, BPF_TARGET};
use crate::shell;

/// A library that is not a crate.
#[derive(Clone, Debug)]
pub struct Library {
    /// Name of the library.
    pub name: &'static str,
    /// Version of the library; none when unknown.
    pub version: Option<String>,
    /// Package of the library, as a package URL.
    pub package: Option<String>,
    /// Licence of the library, as an SPDX expression.
    pub licence: &'static str,
    /// Side of the kernel boundary that contains the library.
    pub side: Side,
    /// Files with the licence text.
    pub texts: Vec<PathBuf>,
}

const RUST: &str = "MIT OR Apache-2.0";
const GLIBC: &str = "LGPL-2.1-or-later";
const LIBGCC: &str = "GPL-3.0-or-later WITH GCC-exception-3.1";
/// Folder of the licence texts that Debian's packages refer to only by name.
const COMMON: &str = "/usr/share/common-licenses";

/// Returns the libraries in the agent of an architecture.
pub fn libraries(cross: &Cross, bpf: &Bpf, arch: Arch) -> Result<Vec<Library>> {
    let own = |name: &str| own_package(cross, name);
    let libc = match cross.libc() {
        Some(libc) => Some(Package::unpacked(libc)),
        None => own("libc.a"),
    };
    Ok(vec![
        rust(
            "rust-std",
            cross.rustc(),
            cross.std(),
            arch.triple(),
            Side::Agent,
        )?,
        rust(
            "rust-core",
            &bpf.compiler.rustc,
            None,
            BPF_TARGET,
            Side::Kernel,
        )?,
        library("glibc", libc, GLIBC, Side::Agent),
        library("libgcc", own("libgcc_eh.a"), LIBGCC, Side::Agent),
    ])
}

fn library(
    name: &'static str,
    package: Option<Package>,
    licence: &'static str,
    side: Side,
) -> Library {
    Library {
        name,
        version: package.as_ref().map(|package| package.version.clone()),
        package: package.as_ref().and_then(|package| package.url.clone()),
        licence,
        side,
        texts: package
            .and_then(|package| package.copyright)
            .into_iter()
            .chain(common(licence))
            .collect(),
    }
}

/// Returns the file with the whole text of a licence, which a release has to include where a package has only its name.
fn common(licence: &str) -> Option<PathBuf> {
    let name = match licence {
        GLIBC => "LGPL-2.1",
        LIBGCC => "GPL-3",
        _ => return None,
    };
    let path = Path::new(COMMON).join(name);
    path.is_file().then_some(path)
}

/// Returns the standard library of a compiler for a target, from a package or from rustup.
fn rust(
    name: &'static str,
    rustc: &Path,
    unpacked: Option<&Unpacked>,
    target: &str,
    side: Side,
) -> Result<Library> {
    let sysroot = compiler::sysroot(&mut Command::new(rustc))?;
    let package = match unpacked {
        Some(unpacked) => Some(Package::unpacked(unpacked)),
        None => Package::owner(&sysroot.join("lib/rustlib").join(target)),
    };
    if package.is_some() {
        return Ok(library(name, package, RUST, side));
    }
    let version = shell::stdout(Command::new(rustc).arg("-vV"))?
        .lines()
        .find_map(|line| line.strip_prefix("release: ").map(str::to_owned));
    let texts = sysroot.join("share/doc/rust/licenses");
    Ok(Library {
        package: version
            .as_deref()
            .map(|version| url("generic", None, name, version, None))
            .transpose()?,
        version,
        texts: ["MIT.txt", "Apache-2.0.txt"]
            .map(|file| texts.join(file))
            .into_iter()
            .filter(|file| file.is_file())
            .collect(),
        ..library(name, None, RUST, side)
    })
}

/// Returns the package of a library that the linker uses.
fn own_package(cross: &Cross, name: &str) -> Option<Package> {
    let mut linker = Command::new(cross.linker());
    linker.arg(format!("-print-file-name={name}"));
    let path = PathBuf::from(shell::stdout(&mut linker).ok()?.trim_end());
    Package::owner(&path)
}

/// A Debian package.
struct Package {
    version: String,
    url: Option<String>,
    copyright: Option<PathBuf>,
}

impl Package {
    fn unpacked(package: &Unpacked) -> Self {
        let copyright = package
            .folder
            .join("usr/share/doc")
            .join(package.package)
            .join("copyright");
        Self::new(
            package.package,
            &package.version,
            package.arch.debian(),
            copyright,
        )
    }

    /// Returns the package that owns a file; none if no package does.
    fn owner(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let mut search = Command::new("dpkg-query");
        search.arg("-S").arg(path);
        let owners = shell::stdout(&mut search).ok()?;
        let owner = parse_owner(&owners)?;
        let mut show = Command::new("dpkg-query");
        show.args(["-W", "-f", "${Version} ${Architecture}", owner]);
        let shown = shell::stdout(&mut show).ok()?;
        let (version, arch) = shown.split_once(' ')?;
        let name = owner.split(':').next()?;
        let copyright = Path::new("/usr/share/doc").join(name).join("copyright");
        Some(Self::new(name, version, arch, copyright))
    }

    fn new(name: &str, version: &str, arch: &str, copyright: PathBuf) -> Self {
        let vendor = vendor(&fs::read_to_string("/etc/os-release").unwrap_or_default());
        Self {
            version: version.to_owned(),
            url: url("deb", Some(&vendor), name, version, Some(arch)).ok(),
            copyright: copyright.is_file().then_some(copyright),
        }
    }
}

/// Returns the first package of a line such as `libc6-dev:amd64: /usr/lib/libc.a`.
fn parse_owner(line: &str) -> Option<&str> {
    line.split_once(": ")?.0.split(", ").next()
}

/// Returns the distribution's name in package URLs.
fn vendor(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("ID="))
        .map_or("debian", |id| id.trim_matches('"'))
        .to_owned()
}

/// Builds a package URL.
pub fn url(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    version: &str,
    arch: Option<&str>,
) -> Result<String> {
    let mut url = GenericPurlBuilder::new(kind.to_owned(), name).with_version(version);
    if let Some(namespace) = namespace {
        url = url.with_namespace(namespace);
    }
    if let Some(arch) = arch {
        url = url.with_qualifier("arch", arch)?;
    }
    url.build()
        .map(|url| url.to_string())
        .with_context(|| format!("{name} {version} makes no package URL"))
}

#[cfg(test)]
mod tests {
    use super::{COMMON, GLIBC, LIBGCC, Package, RUST, common, library, parse_owner, url, vendor};
    use crate::dist::parts::Side;
    use std::fs;
    use std::path::Path;

    #[test]
    fn package_urls_name_version_and_architecture() {
        let url = url(
            "deb",
            Some("debian"),
            "libc6-dev",
            "2.36-9+deb12u14",
            Some("arm64"),
        )
        .unwrap();
        assert_eq!(url, "pkg:deb/debian/libc6-dev@2.36-9+deb12u14?arch=arm64");
    }

    #[test]
    fn licences_that_a_package_only_names_go_along_in_full() {
        if !Path::new(COMMON).is_dir() {
            return;
        }
        for (licence, title) in [
            (GLIBC, "GNU LESSER GENERAL PUBLIC LICENSE"),
            (LIBGCC, "GNU GENERAL PUBLIC LICENSE"),
        ] {
            let library = library("x", None::<Package>, licence, Side::Agent);
            let text = fs::read_to_string(&library.texts[0]).unwrap();
            assert!(text.contains(title), "{licence}");
        }
        assert!(common(RUST).is_none());
    }

    #[test]
    fn owners_are_read_with_and_without_architecture() {
        assert_eq!(
            parse_owner("libc6-dev:amd64: /usr/lib/libc.a\n"),
            Some("libc6-dev:amd64")
        );
        assert_eq!(parse_owner("gcc-cross: /usr/lib/x.a\n"), Some("gcc-cross"));
        assert_eq!(parse_owner("a, b: /usr/lib\n"), Some("a"));
    }

    #[test]
    fn the_vendor_is_the_distributions_id() {
        assert_eq!(vendor("NAME=x\nID=\"ubuntu\"\n"), "ubuntu");
        assert_eq!(vendor(""), "debian");
    }
}
