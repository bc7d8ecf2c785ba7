//! Tools for the tests of the live page: Chromium, Node.js, and the packages that drive and audit it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Missing, Setup, apt, last_words};
use crate::shell;
use crate::workspace::Workspace;

/// Folder of the tests, with the list of packages and its lock file.
pub const TESTS: &str = "agent/tests/page";
const LOCK: &str = "package-lock.json";
/// Names of the browser's program in distributions.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Oldest major version of Node.js that the driver supports.
const NODE: u32 = 18;

/// A browser and its driver.
#[derive(Clone, Debug)]
pub struct Browser {
    /// Program of the browser.
    pub program: PathBuf,
    /// Program of Node.js.
    pub node: PathBuf,
    /// Folder that holds `node_modules`.
    pub modules: PathBuf,
}

impl Setup {
    /// Finds or installs all of it, or returns why there is none.
    ///
    /// # Errors
    /// When something is missing and set-up may not install it, [`Setup::finish`] reports it; nothing else is an error.
    pub fn browser(&mut self, workspace: &Workspace) -> Result<Result<Browser, String>> {
        let packages = lacking();
        if !packages.is_empty() {
            let missing = Missing {
                what: packages.join(", "),
                why: "the live page is tested in a real browser",
                takes: "a minute, 400 MB",
                command: apt::install_line(&packages),
            };
            match self.attempt(missing, || install(&packages))? {
                Ok(()) => {}
                Err(why) => return Ok(Err(why)),
            }
        }
        let modules = workspace.tools().join("page");
        let tests = workspace.root.join(TESTS);
        let lock = fs::read_to_string(tests.join(LOCK))
            .with_context(|| format!("could not read {TESTS}/{LOCK}"))?;
        // `npm ci` deletes this file, and set-up writes it last: it marks a complete installation.
        let done = modules.join("node_modules/.stallscope-lock.json");
        if fs::read_to_string(&done).ok().as_deref() != Some(&lock) {
            let missing = Missing {
                what: "playwright-core and axe-core".to_owned(),
                why: "they drive the browser and audit the page's accessibility",
                takes: "seconds, 18 MB",
                command: format!("npm ci in {}", workspace.shown(&modules)),
            };
            let fetched = self.attempt(missing, || {
                fetch(&tests, &modules)?;
                fs::write(&done, &lock)
                    .with_context(|| format!("could not write {}", done.display()))
            })?;
            if let Err(why) = fetched {
                return Ok(Err(why));
            }
        }
        Ok(found(modules))
    }

    /// Installs something that not every machine can have, or returns why it is missing.
    fn attempt(
        &mut self,
        missing: Missing,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Result<(), String>> {
        let what = missing.what.clone();
        let mut failed = None;
        let installed = self.need(missing, || {
            failed = act().err().map(|error| last_words(&error));
            Ok(())
        })?;
        Ok(match failed {
            Some(why) => Err(format!("{what} could not be installed: {why}")),
            None if installed => Ok(()),
            None => Err(format!("{what} is not installed")),
        })
    }
}

/// Returns the packages of missing programs.
fn lacking() -> Vec<String> {
    let mut packages = Vec::new();
    if browser().is_none() {
        packages.push("chromium");
    }
    if shell::which("node").is_none() {
        packages.push("nodejs");
    }
    if shell::which("npm").is_none() {
        packages.push("npm");
    }
    packages.into_iter().map(str::to_owned).collect()
}

fn install(packages: &[String]) -> Result<()> {
    for package in packages {
        ensure!(
            apt::offers(package),
            "apt offers no package `{package}` here; install Chromium, Node.js and npm into folders of PATH"
        );
    }
    apt::install(packages)
}

fn fetch(tests: &Path, modules: &Path) -> Result<()> {
    fs::create_dir_all(modules).with_context(|| format!("could not make {}", modules.display()))?;
    for file in ["package.json", LOCK] {
        fs::copy(tests.join(file), modules.join(file))
            .with_context(|| format!("could not copy {TESTS}/{file}"))?;
    }
    let npm = shell::which("npm").context("there is no npm in PATH")?;
    let mut command = Command::new(npm);
    command
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(modules);
    shell::stdout(&mut command).map(|_| ())
}

fn browser() -> Option<PathBuf> {
    BROWSERS.iter().find_map(|name| shell::which(name))
}

fn found(modules: PathBuf) -> Result<Browser, String> {
    let program = browser().ok_or("there is no Chromium in PATH")?;
    let node = shell::which("node").ok_or("there is no Node.js in PATH")?;
    let version = shell::stdout(Command::new(&node).arg("--version"));
    let version = version.map_err(|error| last_words(&error))?;
    if !recent(&version) {
        return Err(format!(
            "Node.js {} is too old: expected v{NODE} or later",
            version.trim()
        ));
    }
    Ok(Browser {
        program,
        node,
        modules,
    })
}

/// Returns whether that version of Node.js can run the driver.
fn recent(version: &str) -> bool {
    let major = version.trim().trim_start_matches('v').split('.').next();
    major
        .and_then(|major| major.parse::<u32>().ok())
        .is_some_and(|major| major >= NODE)
}

#[cfg(test)]
mod tests {
    use super::recent;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(recent("v18.19.0\n") && recent("v20.20.2") && recent("v100.0.0"));
        assert!(!recent("v9.11.2") && !recent("v17.9.1") && !recent("") && !recent("node"));
    }
}
