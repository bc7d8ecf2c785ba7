//! Debian packages of another architecture, unpacked for the build without installing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bpf::Arch;
use crate::setup::{Missing, Setup, apt};
use crate::shell;
use crate::workspace::Workspace;

/// A package of another architecture.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Name of the package.
    pub package: &'static str,
    /// Exact version of the package.
    pub version: String,
    /// Folder that the package is unpacked to, as if it were `/`.
    pub folder: PathBuf,
    /// Architecture of the package.
    pub arch: Arch,
}

impl Unpacked {
    /// Returns the package of the other architecture with the name and version of one installed here; none when it is
    /// not installed.
    pub fn twin(workspace: &Workspace, arch: Arch, package: &'static str) -> Option<Self> {
        let version = installed_version(package).filter(|_| apt::exists())?;
        let folder = workspace
            .tools()
            .join(format!("{package}-{}-{version}", arch.name()));
        Some(Self {
            package,
            version,
            folder,
            arch,
        })
    }

    /// Returns the folder in which Debian keeps libraries of that architecture.
    pub fn libraries(&self) -> PathBuf {
        self.folder
            .join("usr/lib")
            .join(format!("{}-linux-gnu", self.arch.name()))
    }

    /// Fetches and unpacks the package, unless it is there.
    pub fn fetch(
        &self,
        setup: &mut Setup,
        workspace: &Workspace,
        why: &'static str,
    ) -> Result<bool> {
        if self.folder.is_dir() {
            return Ok(true);
        }
        let missing = Missing {
            what: format!(
                "{} {} for {}",
                self.package,
                self.version,
                self.arch.debian()
            ),
            why,
            takes: "about a minute",
            command: format!(
                "fetched and unpacked to {}, not installed",
                workspace.shown(&self.folder)
            ),
        };
        setup.need(missing, || self.unpack())
    }

    fn unpack(&self) -> Result<()> {
        // The folder gets its final name only when it is complete.
        let folder = self.folder.with_file_name("unpacking");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("could not clear {}", folder.display()))?;
        }
        for part in ["apt/lists/partial", "apt/cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("could not make {}", folder.display()))?;
        }
        let Self {
            package, version, ..
        } = self;
        shell::run(apt_get(self.arch, &folder).arg("update"))?;
        shell::run(apt_get(self.arch, &folder).args(["download", &format!("{package}={version}")]))
            .with_context(|| {
                format!(
                    "the package sources have another {package} than this machine; `apt-get install {package}` brings the two together"
                )
            })?;
        let file = fs::read_dir(&folder)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt left no package in {}", folder.display()))?;
        shell::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&folder))?;
        fs::remove_file(&file)
            .and_then(|()| fs::remove_dir_all(folder.join("apt")))
            .and_then(|()| fs::rename(&folder, &self.folder))
            .with_context(|| format!("could not finish {}", self.folder.display()))
    }
}

/// Returns the installed version of a package as dpkg writes it; none when it is not installed.
pub fn installed_version(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Version}", package]);
    shell::stdout(&mut query)
        .ok()
        .filter(|version| !version.is_empty())
}

/// Returns an apt command with its own state, so that this machine does not gain an architecture.
fn apt_get(arch: Arch, folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let state = folder.join("apt");
    for option in [
        format!("APT::Architecture={}", arch.debian()),
        format!("APT::Architectures::={}", arch.debian()),
        format!("Dir::State::Lists={}", state.join("lists").display()),
        format!("Dir::Cache={}", state.join("cache").display()),
        "Dir::State::status=/dev/null".to_owned(),
        // apt's own user may not write here, and apt would warn that it runs as root instead.
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command.arg("-qq").current_dir(folder);
    command
}
