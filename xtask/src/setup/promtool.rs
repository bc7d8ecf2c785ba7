//! promtool and Prometheus itself, from Debian's package. It is unpacked and not installed, because installing it
//! starts a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Missing, Setup, apt, last_words};
use crate::shell;
use crate::workspace::Workspace;

impl Setup {
    /// Returns a folder with promtool and Prometheus, to put in front of `PATH`, or why there is none.
    ///
    /// # Errors
    /// When they are missing and set-up may not install them, [`Setup::finish`] reports it; nothing else is an error.
    pub fn promtool(&mut self, workspace: &Workspace) -> Result<Result<PathBuf, String>> {
        let folder = workspace.tools().join("prometheus");
        let own = folder.join("usr/bin");
        let found = shell::which("promtool").and_then(|path| path.parent().map(Path::to_owned));
        let complete = |folder: &PathBuf| {
            let programs = ["promtool", "prometheus"];
            programs
                .iter()
                .all(|name| shell::is_program(&folder.join(name)))
        };
        if let Some(folder) = found.into_iter().chain([own.clone()]).find(complete) {
            return Ok(Ok(folder));
        }
        let missing = Missing {
            what: "promtool and prometheus".to_owned(),
            why: "it checks and tests the rules for Prometheus, which is asked every expression",
            takes: "seconds, 96 MB",
            command: format!(
                "apt-get download prometheus, unpacked to {}, not installed",
                workspace.shown(&folder)
            ),
        };
        let mut failed = None;
        let installed = self.need(missing, || {
            failed = unpack(&folder).err().map(|error| last_words(&error));
            Ok(())
        })?;
        Ok(match failed {
            Some(why) => Err(format!("promtool could not be fetched: {why}")),
            None if installed => Ok(own),
            None => Err("promtool is not installed".to_owned()),
        })
    }
}

fn unpack(folder: &Path) -> Result<()> {
    anyhow::ensure!(
        apt::offers("prometheus"),
        "apt offers no package `prometheus` here; install Prometheus' promtool into a folder of PATH"
    );
    apt::refresh_lists()?;
    // The folder gets its final name only when it is complete.
    let part = folder.with_file_name("prometheus-unpacking");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("could not clear {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("could not make {}", part.display()))?;
    // apt's own user may not write here, and apt would warn that it runs as root instead.
    let mut download = Command::new("apt-get");
    download
        .args([
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            "download",
            "prometheus",
        ])
        .current_dir(&part);
    shell::stdout(&mut download)?;
    let package = fs::read_dir(&part)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt left no package in {}", part.display()))?;
    shell::stdout(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&part))?;
    fs::remove_file(&package)
        .and_then(|()| fs::rename(&part, folder))
        .with_context(|| format!("could not finish {}", folder.display()))
}
