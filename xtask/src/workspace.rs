//! Folders, programs and packages of this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::shell;

/// Package whose binaries are the kernel side.
pub const BPF_PACKAGE: &str = "stallscope-ebpf";
/// Package of the agent, and name of its binary.
pub const AGENT_PACKAGE: &str = "stallscope";

/// Paths and names that the verbs need.
#[derive(Debug)]
pub struct Workspace {
    /// Folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder, also where the user moved it.
    pub target: PathBuf,
    /// Names of the BPF programs, sorted. Each becomes one object.
    pub bpf_bins: Vec<String>,
}

impl Workspace {
    /// Asks Cargo, and so finds moved target folders and renamed programs.
    pub fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut metadata = cargo();
        metadata
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .arg("--manifest-path")
            .arg(&manifest);
        let json = shell::stdout(&mut metadata).context("could not read the workspace's layout")?;
        Self::from_metadata(&json)
    }

    fn from_metadata(json: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(json).context(
            "`cargo metadata` printed something else than its format version 1; is this Cargo newer than the project?",
        )?;
        let Some(package) = metadata.packages.iter().find(|p| p.name == BPF_PACKAGE) else {
            bail!(
                "the workspace at {} has no package `{BPF_PACKAGE}`; is its Cargo.toml complete?",
                metadata.workspace_root.display()
            );
        };
        let mut bpf_bins: Vec<String> = package
            .targets
            .iter()
            .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
            .map(|target| target.name.clone())
            .collect();
        bpf_bins.sort();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            bpf_bins,
        })
    }

    /// Returns a `cargo` command that works on this workspace.
    pub fn cargo(&self) -> Command {
        self.scoped(cargo())
    }

    /// Sets a command's folder to the workspace and its target folder to the workspace's.
    pub fn scoped(&self, mut command: Command) -> Command {
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Returns the folder of the tools that set-up builds.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Formats a path as a user would type it in the workspace's folder.
    pub fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Returns a command of the Cargo that started this program.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    shell::forget_this_package(&mut command);
    command
}

/// Returns Cargo's home, where `cargo install` puts programs.
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::Workspace;

    #[test]
    fn only_binaries_of_the_kernel_side_are_programs() {
        let json = r#"{"workspace_root":"/src","target_directory":"/out","packages":[
            {"name":"stallscope","targets":[{"name":"stallscope","kind":["bin"]}]},
            {"name":"stallscope-ebpf","targets":[
                {"name":"stallscope_ebpf","kind":["lib"]},
                {"name":"faults","kind":["bin"]},{"name":"cpu_wait","kind":["bin"]}]}]}"#;
        let workspace = Workspace::from_metadata(json).unwrap();
        assert_eq!(workspace.bpf_bins, ["cpu_wait", "faults"]);
        assert_eq!(workspace.tools(), std::path::Path::new("/out/tools"));
    }

    #[test]
    fn a_workspace_without_the_kernel_side_is_refused_by_name() {
        let json = r#"{"workspace_root":"/src","target_directory":"/out","packages":[]}"#;
        let error = Workspace::from_metadata(json).unwrap_err().to_string();
        assert!(error.contains("stallscope-ebpf"), "{error}");
    }
}
