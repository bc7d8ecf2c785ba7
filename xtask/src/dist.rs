//! `cargo xtask dist`: makes a release in `dist/`.

mod archive;
mod contents;
pub mod digest;
mod image;
mod licences;
mod native;
mod parts;
mod proof;
mod release;
mod sbom;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bpf::{self, Arch};
use crate::build::{self, Build, Profile};
use crate::cross::{self, Linkage};
use crate::setup::compiler::BPF_TARGET;
use crate::setup::{self, Bpf, Install};
use crate::steps::Steps;
use crate::workspace::{AGENT_PACKAGE, Workspace};
use digest::sha256;
use image::Agent;
use licences::Licensed;
use native::Library;
use parts::{Parts, Side};
use release::Release;

/// Make a release in dist/: static agents, a container image, bills of materials, licences, checksums.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only for this architecture; for both when not given.
    #[arg(long, value_enum)]
    arch: Option<Arch>,

    /// Take agents built without optimisation, which is quicker, to try this out.
    #[arg(long)]
    debug: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask dist                 for x86-64 and arm64
  cargo xtask dist --arch arm64    for one of them
  cargo xtask dist --debug         the same without optimisation, in a quarter of the time
  cd dist && sha256sum -c SHA256SUMS

Environment:
  SOURCE_DATE_EPOCH    the date of all files in seconds since 1970, instead of the commit's";

/// File name of the image's archive.
const IMAGE: &str = "stallscope.oci.tar";
/// File name of the page with the licences of other projects.
const OTHERS: &str = "stallscope-licences.txt";
/// File name of the checksums.
const SUMS: &str = "SHA256SUMS";
/// File names of the workspace's own licences.
const OWN: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// Builds and packs a release, reads it back, and tries everything that this machine can run.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let archs = args
        .arch
        .map_or_else(|| vec![Arch::X86_64, Arch::Aarch64], |arch| vec![arch]);
    let mut files = Files::default();
    let release = make(
        workspace,
        install,
        &archs,
        Profile::of(args.debug),
        &mut files,
    )?;
    let folder = folder(workspace);
    files.write(&folder)?;
    for (name, bytes) in &files.0 {
        println!(
            "{:>10.1} MB  {}",
            bytes.len() as f64 / 1e6,
            workspace.shown(&folder.join(name))
        );
    }
    let mut steps = Steps::default();
    proof::run(&mut steps, workspace, &release, &archs);
    steps.finish()
}

fn make(
    workspace: &Workspace,
    install: Install,
    archs: &[Arch],
    profile: Profile,
    files: &mut Files,
) -> Result<Release> {
    let mut agents = Vec::new();
    let mut licensed = Vec::new();
    let release = Release::find(workspace)?;
    for arch in archs {
        let made = one(workspace, install, *arch, profile, &release)?;
        let name = file_name(*arch);
        files.add(format!("{name}.cdx.json"), made.bill);
        files.add(name, made.agent.bytes.clone());
        agents.push(made.agent);
        licensed.extend(made.licensed);
    }
    release.check_unchanged(&Release::find(workspace)?)?;
    let others = licences::page(licensed).into_bytes();
    let mut texts = own_licences(workspace)?;
    texts.insert(OTHERS.to_owned(), others.clone());
    println!("==> image for {}", names(archs));
    files.add(IMAGE, image::pack(&release, &agents, &texts)?);
    files.add(OTHERS, others);
    Ok(release)
}

/// Reads the workspace's own licences, by name.
fn own_licences(workspace: &Workspace) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |name: &str| {
        let path = workspace.root.join(name);
        let text = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        Ok((name.to_owned(), text))
    };
    OWN.into_iter().map(read).collect()
}

/// Builds the image for tests, with a debug build of the agent and without the licences of others: to run, not to
/// distribute.
///
/// Returns the archive's path. Packs it again only when the agent or this program is newer.
pub fn image_for_tests(workspace: &Workspace, install: Install, arch: Arch) -> Result<PathBuf> {
    let programs =
        build::static_binaries(workspace, install, arch, &[AGENT_PACKAGE], Profile::Debug)?;
    let program = programs.first().context("no agent was built")?;
    let place = program.with_extension("oci.tar");
    let date = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let packer = std::env::current_exe().context("this program has no path")?;
    if date(&place) > date(program).max(date(&packer)) {
        return Ok(place);
    }
    println!("==> image of {}", workspace.shown(program));
    let bytes =
        fs::read(program).with_context(|| format!("could not read {}", program.display()))?;
    let agents = [Agent { arch, bytes }];
    let release = Release::find(workspace)?;
    let image = image::pack(&release, &agents, &own_licences(workspace)?)?;
    fs::write(&place, image).with_context(|| format!("could not write {}", place.display()))?;
    Ok(place)
}

/// Returns the folder of releases.
fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root.join("dist")
}

/// Returns the file name of the agent of an architecture.
fn file_name(arch: Arch) -> String {
    format!("{AGENT_PACKAGE}-linux-{}", arch.debian())
}

fn names(archs: &[Arch]) -> String {
    let names: Vec<&str> = archs.iter().map(|arch| arch.debian()).collect();
    names.join(" and ")
}

/// Parts of a release for one architecture.
struct Made {
    agent: Agent,
    bill: Vec<u8>,
    licensed: Vec<Licensed>,
}

fn one(
    workspace: &Workspace,
    install: Install,
    arch: Arch,
    profile: Profile,
    release: &Release,
) -> Result<Made> {
    let build = Build {
        arch,
        profile,
        linkage: Linkage::Static,
        packages: &[AGENT_PACKAGE],
    };
    let programs = build.run(workspace, install)?;
    let path = programs.first().context("no agent was built")?;
    let bytes = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;

    println!("==> bill of materials for {}", arch.debian());
    let kernel = setup::bpf(workspace, install)?;
    let cross = cross::prepare(workspace, install, arch, Linkage::Static)?;
    let metadata = parts::metadata(workspace, arch.triple())?;
    let mut crates = Parts::new();
    let messages = build.messages(workspace, &cross)?;
    parts::add(
        &mut crates,
        Side::Agent,
        arch.triple(),
        &metadata,
        &messages,
    )?;
    add_kernel_side(&mut crates, workspace, &kernel, arch)?;
    let libraries = native::libraries(&cross, &kernel, arch)?;
    Ok(Made {
        bill: sbom::write(release, &bytes, &crates, &libraries)?,
        agent: Agent { arch, bytes },
        licensed: licensed(&crates, &libraries)?,
    })
}

fn add_kernel_side(
    crates: &mut Parts,
    workspace: &Workspace,
    kernel: &Bpf,
    arch: Arch,
) -> Result<()> {
    let metadata = parts::metadata(workspace, BPF_TARGET)?;
    let messages = bpf::messages(workspace, kernel, arch)?;
    parts::add(crates, Side::Kernel, BPF_TARGET, &metadata, &messages)
}

fn licensed(crates: &Parts, libraries: &[Library]) -> Result<Vec<Licensed>> {
    crates
        .values()
        .filter(|part| !part.is_own())
        .map(Licensed::of_part)
        .chain(libraries.iter().map(Licensed::of_library))
        .collect()
}

/// Files of a release, by name.
#[derive(Debug, Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn add(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.0.insert(name.into(), bytes);
    }

    /// Replaces the files of a previous release with these files and their checksums.
    fn write(&mut self, folder: &Path) -> Result<()> {
        let sums = self.sums();
        self.add(SUMS, sums.into_bytes());
        fs::create_dir_all(folder)
            .and_then(|()| clear(folder))
            .with_context(|| format!("could not clear {}", folder.display()))?;
        for (name, bytes) in &self.0 {
            let path = folder.join(name);
            let program = bytes.starts_with(b"\x7fELF");
            let mode = fs::Permissions::from_mode(if program { 0o755 } else { 0o644 });
            fs::write(&path, bytes)
                .and_then(|()| fs::set_permissions(&path, mode))
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        Ok(())
    }

    /// Returns the checksums in the format of `sha256sum -c`.
    fn sums(&self) -> String {
        let mut sums = String::new();
        for (name, bytes) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(sums, "{}  {name}", sha256(bytes));
        }
        sums
    }
}

/// Removes only the files of a previous release.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(AGENT_PACKAGE) || name == SUMS {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
