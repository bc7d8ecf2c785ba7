//! Shell of a machine: busybox, from Debian's package for its architecture.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::bpf::Arch;
use crate::setup::foreign_packages::{self, Download, Foreign};
use crate::setup::{Missing, Setup};

const PACKAGE: &str = "busybox-static";
const SUITES: &[&str] = &["bookworm", "bookworm-security"];

/// Finds busybox in the cache or fetches it. None when it is missing and may not be fetched.
pub fn fetch(setup: &mut Setup, arch: Arch, cache: &Path) -> Result<Option<PathBuf>> {
    let place = cache.join(format!("busybox-{}", arch.debian()));
    if place.exists() {
        return Ok(Some(place));
    }
    let missing = Missing {
        what: format!("{PACKAGE} for {}", arch.debian()),
        why: "the lab's machines need a shell",
        takes: "seconds",
        command: format!("fetched from Debian to {}, not installed", place.display()),
    };
    let fetched = setup.need(missing, || install(arch, cache, &place))?;
    Ok(fetched.then_some(place))
}

fn install(arch: Arch, cache: &Path, place: &Path) -> Result<()> {
    let partial = cache.join(format!(".busybox-{}.partial", arch.debian()));
    let apt = Foreign::open(&partial.join("apt"), arch.debian(), SUITES)?;
    apt.update()?;
    let root = partial.join("root");
    let mut packages = apt.packages(PACKAGE)?;
    packages.retain(|package| package.name == PACKAGE);
    for package in &packages {
        if let Download::File(file) = apt.download(PACKAGE, &package.version)? {
            foreign_packages::unpack(&file, &root)?;
            let binary = ["usr/bin/busybox", "bin/busybox"]
                .map(|path| root.join(path))
                .into_iter()
                .find(|path| path.is_file())
                .with_context(|| format!("{PACKAGE} holds no busybox"))?;
            fs::rename(&binary, place)
                .with_context(|| format!("could not write {}", place.display()))?;
            return fs::remove_dir_all(&partial)
                .with_context(|| format!("could not remove {}", partial.display()));
        }
    }
    bail!("the mirror has no {PACKAGE} for {}", arch.debian())
}
