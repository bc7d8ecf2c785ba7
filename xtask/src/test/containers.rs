//! Inputs of the tests that run containers: a runtime's programs and the agent's image.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bpf::Arch;
use crate::dist;
use crate::setup::{Install, Setup};
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// Prefix of the names of these test programs.
const PROGRAMS: &str = "kernel_kubernetes";
/// Test program that starts a Prometheus, which it finds through `PATH`.
const PROMETHEUS: &str = "kernel_prometheus";

/// Availability of the inputs.
pub enum Containers {
    /// None of the selected tests needs them.
    Unneeded,
    /// Folder of the runtime's programs, and the image's archive.
    Ready(PathBuf, PathBuf),
    /// The runtime can be neither found nor fetched; the text says why.
    Missing(String),
}

impl Containers {
    /// Fetches the runtime and builds the image, unless they are here already or none of the tests runs containers.
    ///
    /// # Errors
    /// When the agent does not build, or `install` forbids fetching what is missing.
    pub fn prepare(
        workspace: &Workspace,
        install: Install,
        programs: &[PathBuf],
        filter: Option<&str>,
    ) -> Result<Self> {
        if !wanted(programs, filter)? {
            return Ok(Self::Unneeded);
        }
        let mut setup = Setup::new(install);
        let runtime = match setup.container_runtime(workspace) {
            Ok(runtime) => runtime,
            Err(error) => return Ok(Self::Missing(format!("{error:#}"))),
        };
        setup.finish()?;
        let image = dist::image_for_tests(workspace, install, Arch::host()?)?;
        Ok(match runtime {
            Some(programs) => Self::Ready(programs, image),
            None => Self::Missing("there is no container runtime".to_owned()),
        })
    }

    /// Returns the command of a test program. sudo passes no environment on, so `env` sets the variables that the test
    /// needs, `path` among them.
    pub fn command(&self, privilege: Privilege, program: &Path, path: &OsStr) -> Result<Command> {
        let mut given = match self {
            _ if !begins(program, PROGRAMS) => Vec::new(),
            Self::Ready(programs, image) => vec![
                format!("STALLSCOPE_TEST_RUNTIME={}", programs.display()),
                format!("STALLSCOPE_TEST_IMAGE={}", image.display()),
            ],
            Self::Missing(why) => vec![format!("STALLSCOPE_TEST_NO_RUNTIME={why}")],
            Self::Unneeded => Vec::new(),
        };
        if given.is_empty() && !begins(program, PROMETHEUS) {
            return privilege.command(program);
        }
        given.push(format!("PATH={}", path.to_string_lossy()));
        let mut command = privilege.command("env")?;
        command.args(given).arg(program);
        Ok(command)
    }
}

fn begins(program: &Path, with: &str) -> bool {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(with)
}

/// Returns whether the filter selects a test that runs containers.
fn wanted(programs: &[PathBuf], filter: Option<&str>) -> Result<bool> {
    for program in programs.iter().filter(|program| begins(program, PROGRAMS)) {
        let mut list = Command::new(program);
        list.args(["--ignored", "--list"]).args(filter);
        let tests = shell::stdout(&mut list)?;
        if tests.lines().any(|line| line.ends_with(": test")) {
            return Ok(true);
        }
    }
    Ok(false)
}
