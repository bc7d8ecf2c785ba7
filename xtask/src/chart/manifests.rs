//! Manifests in `deploy/kubernetes`: the rendered chart, for users without Helm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::VERSIONS;
use super::copies;
use super::engine::{Answer, Case, Engine};
use crate::shell;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// Folder of the manifests.
pub const FOLDER: &str = "deploy/kubernetes";

/// Namespace of the manifests, which they also create.
const NAMESPACE: &str = "stallscope";

/// Oldest Kubernetes version for the manifests: its API server knows every field.
pub const OLDEST: &str = "1.20";

/// Variants: their folders and values.
pub const VARIANTS: [(&str, &str); 2] = [("files", "podSource: files"), ("api", "podSource: api")];

const HEADER: &str =
    "# Rendered from deploy/helm/stallscope by `cargo xtask check --fix`; do not edit.\n";

/// The privileged level exists for pods with folders of the node and added capabilities.
const NAMESPACE_OBJECT: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: stallscope
  labels:
    # Mounts of the node's folders and added capabilities are refused by the stricter levels.
    pod-security.kubernetes.io/enforce: privileged
";

/// Compares the manifests with the chart's current output, or writes them.
pub fn check(workspace: &Workspace, engine: &Engine, fix: bool) -> Result<Outcome> {
    let cases: Vec<Case> = VARIANTS
        .iter()
        .map(|(_, values)| Case::new(values, NAMESPACE).on(OLDEST))
        .collect();
    let answers = engine.ask(&VERSIONS, &cases)?;
    let mut wanted = BTreeMap::new();
    for ((variant, _), answer) in VARIANTS.iter().zip(&answers) {
        if let Some(complaint) = answer.complaints().first() {
            bail!("{variant}: {complaint}");
        }
        for (name, text) in files(answer) {
            wanted.insert(Path::new(variant).join(name), text.into_bytes());
        }
    }
    let written = copies::same(&workspace.root, FOLDER, &wanted, fix)?;
    let built = kustomized(&workspace.root.join(FOLDER), &answers)?;
    Ok(Outcome::Passed(match written {
        0 => built,
        _ => format!("{written} written, {built}"),
    }))
}

/// Returns the files of a variant: one for each template, a namespace, and the kustomization that lists them.
fn files(answer: &Answer) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    files.insert(
        PathBuf::from("namespace.yaml"),
        format!("{HEADER}{NAMESPACE_OBJECT}"),
    );
    for (template, text) in &answer.rendered {
        let template = Path::new(template);
        if template.extension() != Some(OsStr::new("yaml")) {
            continue;
        }
        let name = template.file_name().unwrap_or_default();
        files.insert(name.into(), format!("{HEADER}{}", plain(text)));
    }
    let mut list = format!(
        "{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    );
    for name in files.keys() {
        // Writing to a String cannot fail.
        let _ = writeln!(list, "  - {}", name.display());
    }
    files.insert("kustomization.yaml".into(), list);
    files
}

/// Removes the labels by which Helm recognises its own objects.
fn plain(text: &str) -> String {
    let helms = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("helm.sh/chart:") && !line.starts_with("app.kubernetes.io/managed-by:")
    };
    let mut plain: String = text
        .trim()
        .lines()
        .filter(helms)
        .flat_map(|line| [line, "\n"])
        .collect();
    if !plain.ends_with('\n') {
        plain.push('\n');
    }
    plain
}

/// Checks that kubectl renders each folder to the same objects as the chart, and the namespace.
fn kustomized(folder: &Path, answers: &[Answer]) -> Result<String> {
    if shell::which("kubectl").is_none() {
        return Ok("not built: there is no kubectl".to_owned());
    }
    for ((variant, _), answer) in VARIANTS.iter().zip(answers) {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("kustomize").arg(folder.join(variant));
        let text = shell::stdout(&mut kubectl)?;
        let built = text
            .lines()
            .filter(|line| line.starts_with("kind: "))
            .count();
        let wanted = answer.objects.len() + 1;
        if built != wanted {
            bail!("kubectl makes {built} objects of {FOLDER}/{variant}, and there are {wanted}");
        }
    }
    Ok("built by kubectl".to_owned())
}

/// Returns the manifest of the namespace, so that a server can validate it.
pub fn namespace() -> &'static str {
    NAMESPACE_OBJECT
}

#[cfg(test)]
mod tests {
    use super::{NAMESPACE, NAMESPACE_OBJECT, plain};

    #[test]
    fn labels_of_helm_are_left_out() {
        let text = "\na:\n  helm.sh/chart: x-1\n  app.kubernetes.io/managed-by: Helm\n  b: c\n\n";
        assert_eq!(plain(text), "a:\n  b: c\n");
    }

    #[test]
    fn the_namespace_is_the_one_rendered_for() {
        assert!(NAMESPACE_OBJECT.contains(&format!("\n  name: {NAMESPACE}\n")));
    }
}
