//! Kernels of the lab: Debian's own, fetched once and kept unpacked, and one that is built from Debian's source. None
//! is ever installed.

mod btf;
mod built;
mod image;
mod modules;
mod packed;
mod release;

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::bpf::Arch;
use crate::setup::foreign_packages::{self, Download, Foreign, Package};
use crate::setup::{Missing, Setup};

pub use btf::update as update_btf;
use built::Recipe;
pub use modules::Module;
use modules::Tree;

/// A kernel of the matrix.
#[derive(Debug, Eq, PartialEq)]
pub struct Kernel {
    /// Series, such as `6.12`. The lab uses its newest release.
    pub series: &'static str,
    /// Difference from the series' usual kernel: `64k` for its pages, `rt` for `PREEMPT_RT`, else empty.
    variant: &'static str,
    /// Architecture of the kernel.
    pub arch: Arch,
    /// Page size in bytes.
    pub page_size: u32,
    /// Debian suites that have the kernel.
    suites: &'static [&'static str],
    /// Debian's name of the kernel's configuration, with which its release ends.
    flavour: &'static str,
    /// Recipe to build the kernel, where Debian has no package of it.
    recipe: Option<&'static Recipe>,
}

const BULLSEYE: &[&str] = &["bullseye", "bullseye-security"];
const BOOKWORM: &[&str] = &["bookworm", "bookworm-security"];
const TRIXIE: &[&str] = &["trixie", "trixie-security"];
const SID: &[&str] = &["sid"];

const fn arm64(
    series: &'static str,
    page_size: u32,
    suites: &'static [&'static str],
    flavour: &'static str,
) -> Kernel {
    Kernel {
        series,
        variant: "",
        arch: Arch::Aarch64,
        page_size,
        suites,
        flavour,
        recipe: None,
    }
}

const fn amd64(series: &'static str, suites: &'static [&'static str]) -> Kernel {
    Kernel {
        series,
        variant: "",
        arch: Arch::X86_64,
        page_size: 4096,
        suites,
        flavour: "cloud-amd64",
        recipe: None,
    }
}

/// Describes a kernel that the lab boots only when it is named.
const fn variant(variant: &'static str, flavour: &'static str, of: &Kernel) -> Kernel {
    Kernel {
        variant,
        flavour,
        ..*of
    }
}

/// Kernels of the matrix, on which every measurement is proven, then those that the lab boots only when they are named.
static KERNELS: [Kernel; 10] = [
    arm64("5.10", 4096, BULLSEYE, "arm64"),
    arm64("6.1", 4096, BOOKWORM, "arm64"),
    arm64("6.12", 16384, TRIXIE, "arm64-16k"),
    arm64("7.2", 16384, SID, "arm64-16k"),
    amd64("5.10", BULLSEYE),
    amd64("6.12", TRIXIE),
    amd64("7.2", SID),
    Kernel {
        recipe: Some(&built::ARM64_64K),
        ..variant("64k", "64k", &arm64("6.12", 65536, TRIXIE, ""))
    },
    variant("rt", "rt-arm64", &arm64("6.12", 4096, TRIXIE, "")),
    variant("rt", "rt-amd64", &amd64("6.12", TRIXIE)),
];

/// Returns the kernels that a full run boots, arm64 first, old before new.
pub fn matrix() -> &'static [Kernel] {
    let usual = KERNELS.partition_point(|kernel| kernel.variant.is_empty());
    &KERNELS[..usual]
}

/// Returns the kernels of this architecture and series; either may be left open. Variants of a series are left out
/// unless they are named, as `6.12-rt`.
///
/// # Errors
/// When there is no such kernel. The error names those there are.
pub fn select(arch: Option<Arch>, series: &[String]) -> Result<Vec<&'static Kernel>> {
    let fits = |kernel: &&Kernel| {
        arch.is_none_or(|arch| arch == kernel.arch)
            && if series.is_empty() {
                kernel.variant.is_empty()
            } else {
                series.contains(&kernel.label())
            }
    };
    let unknown = series.iter().find(|series| {
        !KERNELS
            .iter()
            .any(|kernel| kernel.label() == **series && arch.is_none_or(|arch| arch == kernel.arch))
    });
    if let Some(series) = unknown {
        let of_arch = arch.map_or_else(String::new, |arch| format!(" for {}", debian(arch)));
        let all: Vec<String> = KERNELS.iter().map(Kernel::to_string).collect();
        bail!(
            "the lab has no kernel {series}{of_arch}; it has {}",
            all.join(", ")
        );
    }
    Ok(KERNELS.iter().filter(fits).collect())
}

/// Returns Debian's name of an architecture.
fn debian(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.label(), debian(self.arch))
    }
}

impl Kernel {
    /// Returns a name for files, such as `arm64-6.12`.
    pub fn name(&self) -> String {
        format!("{}-{}", debian(self.arch), self.label())
    }

    /// Returns the name by which users ask for the kernel: its series and variant, such as `6.12-64k`.
    pub fn label(&self) -> String {
        if self.variant.is_empty() {
            self.series.to_owned()
        } else {
            format!("{}-{}", self.series, self.variant)
        }
    }
}

/// A fetched and unpacked kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetched {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Image that QEMU's `-kernel` boots.
    pub image: PathBuf,
    /// Folder `lib/modules/RELEASE` with the modules that guests may need.
    pub modules: PathBuf,
    /// Build configuration.
    pub config: PathBuf,
    /// Type information (BTF).
    pub btf: PathBuf,
}

impl Fetched {
    fn at(folder: &Path, release: &str) -> Self {
        Self {
            release: release.to_owned(),
            image: folder.join("image"),
            modules: folder.join("lib/modules").join(release),
            config: folder.join("config"),
            btf: folder.join("vmlinux.btf"),
        }
    }

    /// Finds the kernel in the cache, if it is there and complete.
    pub fn find(kernel: &Kernel, cache: &Path) -> Option<Self> {
        let folder = cache.join(kernel.name());
        let release = fs::read_to_string(folder.join("release")).ok()?;
        let found = Self::at(&folder, release.trim());
        let parts = [&found.image, &found.modules, &found.config, &found.btf];
        let whole = parts.iter().all(|part| part.exists());
        let current = kernel.recipe.is_none_or(|recipe| recipe.made(&folder));
        (whole && current).then_some(found)
    }

    /// Returns modules with their dependencies, in the order of insertion. Built-in ones are left out.
    ///
    /// # Errors
    /// When this kernel has no such module, or one cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        Tree::open(&self.modules)?
            .in_order(names)
            .with_context(|| format!("Linux {}", self.release))
    }
}

/// Returns the folder of unpacked kernels: `STALLSCOPE_LAB_CACHE`, else `stallscope/lab` in the user's cache folder.
///
/// # Errors
/// When the environment names no such folder.
pub fn cache() -> Result<PathBuf> {
    cache_of(|name| env::var_os(name).filter(|value| !value.is_empty()))
}

fn cache_of(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf> {
    if let Some(folder) = variable("STALLSCOPE_LAB_CACHE") {
        return std::path::absolute(folder).context("STALLSCOPE_LAB_CACHE names no folder");
    }
    // A relative XDG_CACHE_HOME must be ignored (XDG Base Directory Specification).
    let caches = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))
        .context("neither HOME nor XDG_CACHE_HOME is set; name a folder for the lab's kernels in STALLSCOPE_LAB_CACHE")?;
    Ok(caches.join("stallscope/lab"))
}

/// Finds a kernel in the cache or fetches it. None when it is missing and may not be fetched.
///
/// # Errors
/// When the kernel cannot be fetched or is not as it should be.
pub fn fetch(setup: &mut Setup, kernel: &Kernel, cache: &Path) -> Result<Option<Fetched>> {
    if let Some(found) = Fetched::find(kernel, cache) {
        return Ok(Some(found));
    }
    let place = cache.join(kernel.name());
    let (why, takes, how) = match kernel.recipe {
        None => (
            "the lab boots Debian's own kernels",
            "a minute or two",
            "fetched from Debian and unpacked to",
        ),
        Some(_) => (
            "no package of Debian's has a kernel like this",
            "eleven minutes of one CPU",
            "built from Debian's source into",
        ),
    };
    if kernel.recipe.is_some() && !built::tools(setup)? {
        return Ok(None);
    }
    let missing = Missing {
        what: format!("Linux {kernel}"),
        why,
        takes,
        command: format!("{how} {}, not installed", place.display()),
    };
    if !setup.need(missing, || install(kernel, cache))? {
        return Ok(None);
    }
    Fetched::find(kernel, cache)
        .map(Some)
        .with_context(|| format!("Linux {kernel} was unpacked and is not in the cache"))
}

/// Fetches and unpacks into a folder beside the final one, so that the final folder is always complete.
fn install(kernel: &Kernel, cache: &Path) -> Result<()> {
    let partial = cache.join(format!(".{}.partial", kernel.name()));
    fs::create_dir_all(&partial)
        .with_context(|| format!("could not make {}", partial.display()))?;
    let _lock = lock(&cache.join(format!(".{}.lock", kernel.name())))?;
    // Another run may have fetched the kernel while it held the lock.
    if Fetched::find(kernel, cache).is_some() {
        return remove(&partial);
    }
    let apt = Foreign::open(&partial.join("apt"), debian(kernel.arch), kernel.suites)?;
    apt.update()?;
    let folder = partial.join("kernel");
    remove(&folder)?;
    if let Some(recipe) = kernel.recipe {
        built::build(kernel, recipe, &apt, &partial, &folder)?;
    } else {
        let (release, packages) = download_newest(kernel, &apt)?;
        let root = partial.join("root");
        remove(&root)?;
        for package in &packages {
            foreign_packages::unpack(package, &root)?;
        }
        assemble(kernel, &release, &root, &folder)?;
    }
    let place = cache.join(kernel.name());
    remove(&place)?;
    fs::rename(&folder, &place)
        .with_context(|| format!("could not move {} to {}", folder.display(), place.display()))?;
    remove(&partial)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for other runs that fetch the same kernel. The lock ends with the file, and with the process.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("could not make {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("could not lock {}", path.display()))?;
    Ok(file)
}

/// Fetches all packages of the newest release that the mirror still has: its lists name some that are gone.
fn download_newest(kernel: &Kernel, apt: &Foreign) -> Result<(String, Vec<PathBuf>)> {
    let packages = apt.packages(&format!("linux-image-{}", kernel.series))?;
    let images = release::newest_first(kernel, &packages);
    for image in &images {
        if let Some(files) = download(apt, image)? {
            return Ok((image.release.to_owned(), files));
        }
        println!(
            "set-up: {} is listed, but the mirror does not have it; trying the next older release",
            image.package.name
        );
    }
    bail!(
        "{} has no package linux-image-{}*-{} that can be fetched ({} listed)",
        kernel.suites.join(", "),
        kernel.series,
        kernel.flavour,
        images.len()
    )
}

/// Fetches an image's package and the packages of its parts. None if the mirror lacks one.
fn download(apt: &Foreign, image: &release::Image<'_>) -> Result<Option<Vec<PathBuf>>> {
    let Package { name, version, .. } = image.package;
    let parts = std::iter::once((name, version)).chain(image.parts());
    let mut files = Vec::new();
    for (name, version) in parts {
        match apt.download(name, version)? {
            Download::File(file) => files.push(file),
            Download::Gone => return Ok(None),
        }
    }
    Ok(Some(files))
}

/// Copies the files that the lab needs out of unpacked packages.
fn assemble(kernel: &Kernel, release: &str, root: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let parts = Fetched::at(folder, release);
    let modules = find(
        root,
        &[
            format!("lib/modules/{release}"),
            format!("usr/lib/modules/{release}"),
        ],
    )?;
    let image = find(
        root,
        &[
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ],
    )?;
    let config = find(
        root,
        &[
            format!("boot/config-{release}"),
            format!("usr/lib/modules/{release}/config"),
        ],
    )?;
    let bytes = fs::read(&image).with_context(|| format!("could not read {}", image.display()))?;
    let btf = image::check(&bytes, kernel.arch == Arch::X86_64)
        .and_then(|()| image::btf(&bytes))
        .with_context(|| format!("the image of Linux {release}"))?;
    put(&parts.btf, |to| fs::write(to, btf))?;
    put(&parts.image, |to| fs::rename(&image, to))?;
    put(&parts.config, |to| fs::rename(&config, to))?;
    keep_modules(&modules, &parts.modules)?;
    put(&folder.join("release"), |to| {
        fs::write(to, format!("{release}\n"))
    })
}

fn keep_modules(from: &Path, to: &Path) -> Result<()> {
    let tree = Tree::open(from)?;
    let kept = tree.kept(from)?;
    let lists = ["modules.builtin", "modules.order"].map(|list| from.join(list));
    for file in kept.into_iter().chain(lists.iter().map(|list| &**list)) {
        let place = to.join(file.strip_prefix(from)?);
        put(&place, |to| fs::rename(file, to))?;
    }
    Ok(())
}

/// Returns the first of these paths that exists in an unpacked package.
fn find(root: &Path, paths: &[String]) -> Result<PathBuf> {
    paths
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "the packages hold no {}; has Debian moved it?",
                paths.join(", nor ")
            )
        })
}

fn put(path: &Path, act: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| act(path))
        .with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Arch, Fetched, cache_of, matrix, select};
    use std::ffi::OsString;
    use std::fs;
    use std::path::Path;

    #[test]
    fn kernels_are_chosen_by_architecture_and_series() {
        let names = |arch, series: &[&str]| {
            let series: Vec<String> = series.iter().map(|s| (*s).to_owned()).collect();
            select(arch, &series).map(|kernels| {
                let names: Vec<String> = kernels.iter().map(|k| k.name()).collect();
                names.join(" ")
            })
        };
        assert_eq!(names(None, &["6.12"]).unwrap(), "arm64-6.12 amd64-6.12");
        assert_eq!(
            names(Some(Arch::X86_64), &["7.2", "5.10"]).unwrap(),
            "amd64-5.10 amd64-7.2"
        );
        assert_eq!(select(None, &[]).unwrap().len(), matrix().len());
        // The lab boots variants only when they are named, and then alone.
        assert_eq!(matrix().len(), 7);
        assert_eq!(names(None, &["6.12-64k"]).unwrap(), "arm64-6.12-64k");
        assert_eq!(
            names(None, &["6.12-rt"]).unwrap(),
            "arm64-6.12-rt amd64-6.12-rt"
        );
        let error = names(Some(Arch::X86_64), &["6.12", "6.1"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("6.1 for amd64; it has 5.10 for arm64")
                && error.contains("6.12-64k for arm64"),
            "{error}"
        );
    }

    #[test]
    fn the_cache_is_where_the_user_keeps_caches() {
        let cache = |pairs: &[(&str, &str)]| {
            let of = |name: &str| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| OsString::from(value))
            };
            cache_of(of).map(|path| path.display().to_string())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(cache(&[home]).unwrap(), "/home/a/.cache/stallscope/lab");
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/c")]).unwrap(),
            "/c/stallscope/lab"
        );
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "c")]).unwrap(),
            "/home/a/.cache/stallscope/lab"
        );
        assert_eq!(
            cache(&[home, ("STALLSCOPE_LAB_CACHE", "/lab")]).unwrap(),
            "/lab"
        );
        let error = cache(&[]).unwrap_err().to_string();
        assert!(error.contains("STALLSCOPE_LAB_CACHE"), "{error}");
    }

    #[test]
    fn a_kernel_is_in_the_cache_only_whole() {
        let cache = std::env::temp_dir().join(format!("stallscope-cache-{}", std::process::id()));
        let kernel = &matrix()[0];
        let folder = cache.join(kernel.name());
        fs::create_dir_all(folder.join("lib/modules/5.10.0-1-arm64")).unwrap();
        for file in ["image", "config", "vmlinux.btf"] {
            fs::write(folder.join(file), "").unwrap();
        }
        assert_eq!(Fetched::find(kernel, &cache), None);
        fs::write(folder.join("release"), "5.10.0-1-arm64\n").unwrap();
        let found = Fetched::find(kernel, &cache).unwrap();
        assert_eq!(found.release, "5.10.0-1-arm64");
        fs::remove_file(&found.btf).unwrap();
        assert_eq!(Fetched::find(kernel, Path::new(&cache)), None);
        fs::remove_dir_all(cache).unwrap();
    }
}
