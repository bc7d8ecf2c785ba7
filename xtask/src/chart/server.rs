//! Dry run of the renderings on a real API server, admission included, without storing them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::engine::{Case, Engine, piped};
use super::{good_values, manifests};
use crate::shell;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// Namespace that exists in every cluster: a dry run creates none for the objects after it.
const NAMESPACE: &str = "default";

/// Sends all renderings to the server as a dry run.
pub fn check(workspace: &Workspace, engine: &Engine, kubeconfig: &Path) -> Result<Outcome> {
    if shell::which("kubectl").is_none() {
        return Ok(Outcome::Skipped("there is no kubectl".to_owned()));
    }
    let values = good_values(workspace)?;
    let names = values.iter().map(|(name, _)| name.as_str());
    let texts = values.iter().map(|(_, values)| values.as_str());
    let (more_names, more_texts): (Vec<_>, Vec<_>) = manifests::VARIANTS.into_iter().unzip();
    let version = version(kubeconfig)?;
    let ours = texts.map(|values| Case::new(values, NAMESPACE).on(&version));
    let manifests = more_texts.into_iter();
    let manifests = manifests.map(|values| Case::new(values, NAMESPACE).on(manifests::OLDEST));
    let cases: Vec<Case> = ours.chain(manifests).collect();
    let answers = engine.ask(&[], &cases)?;
    let known = known(kubeconfig)?;
    dry_run(kubeconfig, manifests::namespace().as_bytes()).context(manifests::FOLDER)?;
    let (mut taken, mut unknown) = (0, 0);
    for (name, answer) in names.chain(more_names).zip(answers) {
        let (ours, others): (Vec<Value>, Vec<Value>) =
            answer.objects.into_iter().map(here).partition(|object| {
                known.contains(&object["apiVersion"].as_str().unwrap_or("").to_owned())
            });
        unknown += others.len();
        taken += ours.len();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": ours});
        dry_run(kubeconfig, list.to_string().as_bytes()).with_context(|| name.to_owned())?;
    }
    Ok(Outcome::Passed(format!(
        "{taken} objects taken by Kubernetes {version}, {unknown} of kinds that it does not have"
    )))
}

/// Moves an object to the existing namespace.
fn here(mut object: Value) -> Value {
    if let Some(namespace) = object.pointer_mut("/metadata/namespace") {
        *namespace = NAMESPACE.into();
    }
    object
}

fn kubectl(kubeconfig: &Path) -> Command {
    let mut kubectl = Command::new("kubectl");
    kubectl
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--request-timeout=20s");
    kubectl
}

/// Returns the server's version, such as v1.34.1.
fn version(kubeconfig: &Path) -> Result<String> {
    let text = shell::stdout(kubectl(kubeconfig).args(["version", "--output=json"]))?;
    let answer: Value = serde_json::from_str(&text).context("kubectl's answer is no JSON")?;
    let version = answer.pointer("/serverVersion/gitVersion");
    let version = version.and_then(Value::as_str);
    Ok(version
        .context("kubectl should tell the server's version, and did not")?
        .to_owned())
}

/// Returns the API versions that the server has.
fn known(kubeconfig: &Path) -> Result<Vec<String>> {
    let text = shell::stdout(kubectl(kubeconfig).arg("api-versions"))?;
    let known: Vec<String> = text.lines().map(str::to_owned).collect();
    if known.is_empty() {
        bail!("the server of {} has no API", kubeconfig.display());
    }
    Ok(known)
}

fn dry_run(kubeconfig: &Path, objects: &[u8]) -> Result<String> {
    let mut apply = kubectl(kubeconfig);
    apply.args([
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--filename=-",
    ]);
    piped(&mut apply, objects)
}
