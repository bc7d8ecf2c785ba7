//! Build of a kernel from Debian's source and a configuration in this repository.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};

use super::{Fetched, Kernel, image, put, remove};
use crate::bpf::Arch;
use crate::dist::digest::sha256;
use crate::setup::foreign_packages::{self, Download, Foreign};
use crate::setup::{Missing, Setup, apt};
use crate::shell;

/// Inputs of a kernel's build.
#[derive(Debug, Eq, PartialEq)]
pub struct Recipe {
    /// Debian package of the source.
    pub package: &'static str,
    /// Lines that are added to the smallest configuration of the architecture (`make tinyconfig`).
    pub config: &'static str,
}

/// Recipe of a kernel with 64 KiB pages, of which Debian has no package.
pub const ARM64_64K: Recipe = Recipe {
    package: "linux-source-6.12",
    config: include_str!("arm64-64k.config"),
};

/// File in the cache with the version that was built, and the digest of all inputs.
const MADE_OF: &str = "made-of";

/// Programs of a kernel's build, with their packages.
const TOOLS: [(&str, &str); 8] = [
    ("make", "make"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("xz", "xz-utils"),
    ("pahole", "dwarves"),
];

/// Headers of libraries that the build's own programs need, with their packages.
const LIBRARIES: [(&str, &str); 2] = [
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
];

impl Recipe {
    /// Returns the digest of a build's inputs: the source version, the configuration, and the method of assembly.
    fn digest(&self, version: &str) -> String {
        let all = format!("1\n{}={version}\n{}", self.package, self.config);
        sha256(all.as_bytes())
    }

    /// Returns whether the kernel in this folder was built from the current recipe.
    pub fn made(&self, folder: &Path) -> bool {
        let text = fs::read_to_string(folder.join(MADE_OF)).unwrap_or_default();
        text.split_once(' ')
            .is_some_and(|(version, digest)| self.digest(version) == digest.trim_end())
    }
}

/// Installs the build tools. Returns false when something is missing and may not be installed.
///
/// # Errors
/// When a tool cannot be installed.
pub fn tools(setup: &mut Setup) -> Result<bool> {
    let programs = TOOLS
        .iter()
        .filter(|(program, _)| shell::which(program).is_none());
    let libraries = LIBRARIES
        .iter()
        .filter(|(header, _)| !Path::new(header).exists());
    let packages: Vec<String> = programs
        .chain(libraries)
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if packages.is_empty() {
        return Ok(true);
    }
    let missing = Missing {
        what: packages.join(", "),
        why: "a kernel of the lab is built from source",
        takes: "about a minute",
        command: apt::install_line(&packages),
    };
    setup.need(missing, || apt::install(&packages))
}

/// Builds the newest version of the source into `folder`. An interrupted build continues where it stopped.
///
/// # Errors
/// When the source is not available or does not know an option of the configuration, or the build fails.
pub fn build(
    kernel: &Kernel,
    recipe: &Recipe,
    apt: &Foreign,
    partial: &Path,
    folder: &Path,
) -> Result<()> {
    if kernel.arch != Arch::Aarch64 {
        bail!("the lab builds kernels for arm64 only");
    }
    let version = newest(recipe, apt)?;
    let source = partial.join("source");
    unpack(recipe, &version, apt, partial, &source)?;
    configure(recipe, &source)?;
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    shell::run(
        Command::new("nice")
            .args(["-n", "10", "make", "-s", &format!("-j{jobs}")])
            .args(OPTIONS)
            .arg("Image")
            .current_dir(&source),
    )
    .context("the kernel did not build")?;
    let release = shell::stdout(make(&source).arg("kernelrelease"))?;
    keep(recipe, &version, release.trim(), &source, folder)
}

const OPTIONS: [&str; 2] = ["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"];

fn make(source: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("-s").args(OPTIONS).current_dir(source);
    command
}

fn newest(recipe: &Recipe, apt: &Foreign) -> Result<String> {
    let packages = apt.packages(recipe.package)?;
    packages
        .into_iter()
        .filter(|package| package.name == recipe.package)
        .map(|package| package.version)
        .max_by_key(|version| super::release::numbers(version))
        .with_context(|| format!("the mirror has no package {}", recipe.package))
}

fn unpack(
    recipe: &Recipe,
    version: &str,
    apt: &Foreign,
    partial: &Path,
    source: &Path,
) -> Result<()> {
    let mark = partial.join("source-of");
    if fs::read_to_string(&mark).is_ok_and(|of| of == version) && source.join("Makefile").exists() {
        return Ok(());
    }
    let Download::File(package) = apt.download(recipe.package, version)? else {
        bail!(
            "{} {version} is listed, but the mirror does not have it",
            recipe.package
        );
    };
    let root = partial.join("root");
    remove(&root)?;
    remove(source)?;
    foreign_packages::unpack(&package, &root)?;
    put(&source.join(".unpacked"), |path| fs::write(path, ""))?;
    let archive = root.join(format!("usr/src/{}.tar.xz", recipe.package));
    shell::run(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .args(["--strip-components=1", "-C"])
            .arg(source),
    )?;
    remove(&root)?;
    put(&mark, |path| fs::write(path, version))
}

/// Writes the configuration, unless it is there already: a newer file would rebuild everything.
fn configure(recipe: &Recipe, source: &Path) -> Result<()> {
    let (config, mark) = (source.join(".config"), source.join(".configured"));
    if !fs::read_to_string(&mark).is_ok_and(|of| of == recipe.config) {
        shell::stdout(make(source).arg("tinyconfig"))?;
        let least = fs::read_to_string(&config).context("there is no .config")?;
        put(&config, |path| {
            fs::write(path, format!("{least}\n{}", recipe.config))
        })?;
        shell::stdout(make(source).arg("olddefconfig"))?;
        put(&mark, |path| fs::write(path, recipe.config))?;
    }
    let written = fs::read_to_string(&config).context("there is no .config")?;
    let lost = lost(recipe.config, &written);
    if !lost.is_empty() {
        bail!(
            "this source does not know these options, or what they depend on is off: {}",
            lost.join(", ")
        );
    }
    Ok(())
}

/// Returns the options of `wanted` that `written` lacks.
fn lost<'a>(wanted: &'a str, written: &str) -> Vec<&'a str> {
    let written: Vec<&str> = written.lines().collect();
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !written.contains(line))
        .collect()
}

/// Copies the files that the lab needs to their places, as [`super::assemble`] does from packages.
fn keep(recipe: &Recipe, version: &str, release: &str, source: &Path, folder: &Path) -> Result<()> {
    let parts = Fetched::at(folder, release);
    let built = source.join("arch/arm64/boot/Image");
    let bytes = fs::read(&built).with_context(|| format!("could not read {}", built.display()))?;
    let btf = image::check(&bytes, false)
        .and_then(|()| image::btf(&bytes))
        .with_context(|| format!("the image of Linux {release}"))?;
    put(&parts.btf, |to| fs::write(to, btf))?;
    put(&parts.image, |to| fs::write(to, &bytes))?;
    put(&parts.config, |to| {
        fs::copy(source.join(".config"), to).map(|_| ())
    })?;
    put(&parts.modules.join("modules.builtin"), |to| {
        fs::copy(source.join("modules.builtin"), to).map(|_| ())
    })?;
    // The kernel has no modules, so the folder stays empty.
    let modules = parts.modules.join("kernel");
    fs::create_dir_all(&modules)
        .with_context(|| format!("could not make {}", modules.display()))?;
    put(&folder.join("release"), |to| {
        fs::write(to, format!("{release}\n"))
    })?;
    put(&folder.join(MADE_OF), |to| {
        fs::write(to, format!("{version} {}\n", recipe.digest(version)))
    })
}

#[cfg(test)]
mod tests {
    use super::{ARM64_64K, MADE_OF, Recipe, lost};
    use std::fs;

    #[test]
    fn an_option_that_got_lost_is_named() {
        let wanted = "# a comment\nCONFIG_A=y\nCONFIG_NAME=\"-x\"\n";
        assert!(lost(wanted, "CONFIG_NAME=\"-x\"\nCONFIG_A=y\n").is_empty());
        let written = "# CONFIG_A is not set\nCONFIG_NAME=\"-x\"\n";
        assert_eq!(lost(wanted, written), ["CONFIG_A=y"]);
    }

    #[test]
    fn a_kernel_of_another_configuration_is_built_anew() {
        let folder = std::env::temp_dir().join(format!("stallscope-built-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let made_of = format!("6.12.1-1 {}\n", ARM64_64K.digest("6.12.1-1"));
        assert!(!ARM64_64K.made(&folder));
        fs::write(folder.join(MADE_OF), made_of).unwrap();
        assert!(ARM64_64K.made(&folder));
        let other = Recipe {
            config: "CONFIG_SMP=y\n",
            ..ARM64_64K
        };
        assert!(!other.made(&folder));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_machines_drivers_and_the_size_of_pages_are_configured() {
        for option in [
            "ARM64_64K_PAGES",
            "VIRTIO_BLK",
            "VIRTIO_MMIO",
            "DEBUG_INFO_BTF",
        ] {
            let line = format!("\nCONFIG_{option}=y\n");
            assert!(ARM64_64K.config.contains(&line), "{option}");
        }
    }
}
