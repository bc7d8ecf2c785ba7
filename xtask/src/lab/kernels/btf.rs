//! Fixtures for the agent's tests: type information of every kernel of the lab, cut down.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{fetch, matrix};
use crate::setup::{Install, Setup};
use crate::shell;
use crate::workspace::{AGENT_PACKAGE, Workspace};

/// Folder of the fixtures, from the workspace's folder.
const FIXTURES: &str = "agent/tests/fixtures/btf";

/// Writes all fixtures, and the list of their kernel releases.
///
/// # Errors
/// When a kernel cannot be fetched, or the agent's own tool cannot be built or run.
pub fn update(workspace: &Workspace, install: Install, cache: &Path) -> Result<()> {
    let fixtures = workspace.root.join(FIXTURES);
    fs::create_dir_all(&fixtures)
        .with_context(|| format!("could not make {}", fixtures.display()))?;
    let mut setup = Setup::new(install);
    let mut releases = String::new();
    let mut cargo = workspace.cargo();
    cargo
        .args(["run", "--package", AGENT_PACKAGE])
        .args(["--example", "reduce_btf", "--"]);
    for kernel in matrix() {
        let Some(fetched) = fetch(&mut setup, kernel, cache)? else {
            continue;
        };
        let name = kernel.name();
        cargo
            .arg(&fetched.btf)
            .arg(fixtures.join(format!("{name}.btf")));
        // Writing to a String cannot fail.
        let _ = writeln!(releases, "{name} {}", fetched.release);
    }
    setup.finish()?;
    shell::run(&mut cargo).context("the kernels' type information could not be cut down")?;
    let list = fixtures.join("releases.txt");
    fs::write(&list, releases).with_context(|| format!("could not write {}", list.display()))
}
