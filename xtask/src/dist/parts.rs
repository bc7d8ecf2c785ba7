//! Crates in an agent: those that Cargo reports as compiled for it, on both sides of the kernel boundary.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{
    Artifact, DependencyKind, Message, Metadata, MetadataCommand, Package, PackageId, TargetKind,
};
use serde::Deserialize;

use crate::shell;
use crate::workspace::Workspace;

/// Side of the kernel boundary.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// The program itself.
    Agent,
    /// The objects that the program loads into the kernel.
    Kernel,
}

impl Side {
    /// Returns the name of the side in the bill of materials.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Kernel => "kernel",
        }
    }
}

/// One crate of an agent.
#[derive(Clone, Debug)]
pub struct Part {
    /// Manifest of the crate.
    pub package: Package,
    /// Sides that contain the crate.
    pub sides: BTreeSet<Side>,
    /// Crates of the agent that the crate uses.
    pub needs: BTreeSet<PackageId>,
    /// SHA-256 of the crate's archive in the registry, in hex; none for the workspace's own.
    pub checksum: Option<String>,
}

impl Part {
    /// Returns whether the crate is one of the workspace's own.
    pub fn is_own(&self) -> bool {
        self.package.source.is_none()
    }
}

/// Crates of one agent.
pub type Parts = BTreeMap<PackageId, Part>;

/// Returns Cargo's metadata of the workspace and its dependencies on one platform.
pub fn metadata(workspace: &Workspace, platform: &str) -> Result<Metadata> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", platform]);
    MetadataCommand::parse(shell::stdout(&mut cargo)?)
        .context("`cargo metadata` printed something else than its format version 1")
}

/// Adds the crates that Cargo's messages about a build name as compiled for that platform.
pub fn add(
    parts: &mut Parts,
    side: Side,
    platform: &str,
    metadata: &Metadata,
    messages: &str,
) -> Result<()> {
    let compiled = compiled(messages, platform)?;
    if compiled.is_empty() {
        bail!("Cargo built for {platform} but named no crate; is its message format another?");
    }
    let graph = metadata
        .resolve
        .as_ref()
        .context("`cargo metadata` resolved no dependencies")?;
    let sums = checksums(&std::fs::read_to_string(
        metadata.workspace_root.join("Cargo.lock"),
    )?)?;
    for node in graph
        .nodes
        .iter()
        .filter(|node| compiled.contains(&node.id))
    {
        let package = &metadata[&node.id];
        let part = parts.entry(node.id.clone()).or_insert_with(|| Part {
            package: package.clone(),
            sides: BTreeSet::new(),
            needs: BTreeSet::new(),
            checksum: sums
                .get(&(package.name.to_string(), package.version.to_string()))
                .cloned(),
        });
        part.sides.insert(side);
        let needed = node.deps.iter().filter(|dependency| {
            let normal = dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal);
            normal && compiled.contains(&dependency.pkg)
        });
        part.needs
            .extend(needed.map(|dependency| dependency.pkg.clone()));
    }
    match compiled.iter().find(|id| !parts.contains_key(*id)) {
        Some(id) => bail!("Cargo compiled {id}, but `cargo metadata` does not know it"),
        None => Ok(()),
    }
}

/// Returns the crates compiled for the platform. Macros and build scripts run on this machine, in folders that do not
/// name the platform.
fn compiled(messages: &str, platform: &str) -> Result<BTreeSet<PackageId>> {
    let here = |artifact: &Artifact| {
        let kinds = &artifact.target.kind;
        let runs_here =
            kinds.contains(&TargetKind::ProcMacro) || kinds.contains(&TargetKind::CustomBuild);
        !runs_here
            && artifact
                .filenames
                .iter()
                .any(|file| file.components().any(|part| part.as_str() == platform))
    };
    let mut found = BTreeSet::new();
    for message in Message::parse_stream(messages.as_bytes()) {
        match message.context("Cargo's messages could not be read")? {
            Message::CompilerArtifact(artifact) if here(&artifact) => {
                found.insert(artifact.package_id);
            }
            // A line of JSON here is a message that the library does not understand. Build scripts may print any other
            // text.
            Message::TextLine(line) if line.starts_with('{') => {
                bail!("Cargo said something that is not understood: {line}");
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Returns the checksums of `Cargo.lock` by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock cannot be read")?;
    Ok(lock
        .package
        .into_iter()
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{checksums, compiled};

    fn artifact(id: &str, kind: &str, file: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/x/Cargo.toml","target":{{"name":"x","kind":["{kind}"],"crate_types":["lib"],"required-features":[],"src_path":"/x/lib.rs","edition":"2021","doctest":false,"test":false,"doc":true}},"profile":{{"opt_level":"0","debuginfo":0,"debug_assertions":false,"overflow_checks":false,"test":false}},"features":[],"filenames":["{file}"],"executable":null,"fresh":true}}"#
        )
    }

    #[test]
    fn only_what_was_compiled_for_the_platform_counts() {
        let messages = [
            artifact(
                "in",
                "lib",
                "/t/static/x/the-platform/debug/deps/libin.rlib",
            ),
            artifact("host", "lib", "/t/static/x/debug/deps/libhost.rlib"),
            artifact("macro", "proc-macro", "/t/the-platform/debug/libmacro.so"),
            artifact("script", "custom-build", "/t/the-platform/build/script"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = compiled(&messages.join("\n"), "the-platform").unwrap();
        let found: Vec<&str> = found.iter().map(|id| id.repr.as_str()).collect();
        assert_eq!(found, ["in"]);
        assert!(compiled("{\"reason\":\"compiler-artifact\"}", "x").is_err());
    }

    #[test]
    fn checksums_are_found_by_name_and_version() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n\
                    [[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let sums = checksums(lock).unwrap();
        assert_eq!(sums[&("a".to_owned(), "1.0.0".to_owned())], "ab");
        assert_eq!(sums.len(), 1);
        assert!(checksums("package = 1").is_err());
    }
}
