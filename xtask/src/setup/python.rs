//! The project's own Python, with Helm's engine and the Kubernetes schemas.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Missing, Setup, apt, last_words};
use crate::shell;
use crate::workspace::Workspace;

/// Packages to install, with exact versions.
const REQUIREMENTS: &str = include_str!("helm-requirements.txt");

/// Name of the file with the installed requirements, which is written last.
const STAMP: &str = "requirements.txt";

impl Setup {
    /// Returns a Python with Helm's engine and the Kubernetes schemas, or why there is none.
    ///
    /// # Errors
    /// When something is missing and set-up may not install it, [`Setup::finish`] reports it; nothing else is an error.
    pub fn helm_python(&mut self, workspace: &Workspace) -> Result<Result<PathBuf, String>> {
        let folder = workspace.tools().join("helm-python");
        let python = folder.join("bin/python");
        let current = fs::read_to_string(folder.join(STAMP)).is_ok_and(|was| was == REQUIREMENTS);
        if current && shell::is_program(&python) {
            return Ok(Ok(python));
        }
        let missing = Missing {
            what: "Helm's engine and the schemas of Kubernetes".to_owned(),
            why: "they check the chart",
            takes: "ten seconds, 390 MB",
            command: format!(
                "python3 -m venv {0} && {0}/bin/pip install helm-python-sdk kubernetes-validate",
                workspace.shown(&folder)
            ),
        };
        let mut failed = None;
        // A closed network or another processor may not have the packages, which is no fault of the chart.
        let installed = self.need(missing, || {
            failed = install(&folder).err().map(|error| last_words(&error));
            Ok(())
        })?;
        Ok(match failed {
            Some(why) => Err(format!("Helm's engine could not be installed: {why}")),
            None if installed => Ok(python),
            None => Err("Helm's engine is not installed".to_owned()),
        })
    }
}

fn install(folder: &Path) -> Result<()> {
    let python = shell::which("python3").context("there is no python3 in PATH")?;
    if shell::stdout(Command::new(&python).args(["-c", "import ensurepip"])).is_err()
        && apt::offers("python3-venv")
    {
        apt::install(&["python3-venv".to_owned()])?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("could not clear {}", folder.display()))?;
    }
    shell::stdout(Command::new(&python).args(["-m", "venv"]).arg(folder))?;
    let list = folder.join("wanted.txt");
    fs::write(&list, REQUIREMENTS)
        .with_context(|| format!("could not write {}", list.display()))?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ])
    .args(["--disable-pip-version-check", "--no-input", "--requirement"])
    .arg(&list);
    shell::stdout(&mut pip)?;
    fs::rename(&list, folder.join(STAMP))
        .with_context(|| format!("could not finish {}", folder.display()))
}
