//! Checks of the Helm chart and of the manifests rendered from it: `deploy/helm/stallscope`, `deploy/kubernetes`.

mod copies;
mod engine;
mod made;
mod manifests;
mod refused;
mod rules;
mod seccomp;
mod server;
mod truths;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::setup::Setup;
use crate::steps::{Outcome, Steps};
use crate::workspace::Workspace;
use engine::{Answer, Case, Engine};

/// Folder of the chart.
const CHART: &str = "deploy/helm/stallscope";

/// Kubernetes versions against whose schemas every object is validated.
const VERSIONS: [&str; 13] = [
    "1.25", "1.26", "1.27", "1.28", "1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36",
    "1.37",
];

/// Names of the steps that need Helm's engine.
const CHART_STEP: &str = "chart";
const REFUSED_STEP: &str = "values the chart refuses";
const MADE_STEP: &str = "what the chart makes of values";
const RULES_STEP: &str = "rules of the chart";

/// Tools of these checks, or the reasons why they are missing.
#[derive(Debug)]
pub struct Tools {
    python: Result<PathBuf, String>,
    promtool: Result<PathBuf, String>,
}

impl Tools {
    /// Finds or installs the tools.
    pub fn find(setup: &mut Setup, workspace: &Workspace) -> Result<Self> {
        Ok(Self {
            python: setup.helm_python(workspace)?,
            promtool: setup.promtool(workspace)?,
        })
    }
}

/// Runs all checks of the files below `deploy/`.
pub fn check(
    workspace: &Workspace,
    tools: &Tools,
    steps: &mut Steps,
    fix: bool,
    server: Option<&Path>,
) {
    steps.step("files of the chart", || copies::check(workspace, fix));
    steps.step("versions of the chart", || versions(workspace));
    steps.step("seccomp profile", || seccomp::check(workspace));
    let engine = match &tools.python {
        Ok(python) => Engine::new(python, workspace.root.join(CHART)),
        Err(why) => {
            for name in [
                CHART_STEP,
                REFUSED_STEP,
                MADE_STEP,
                manifests::FOLDER,
                RULES_STEP,
            ] {
                steps.step(name, || Ok(Outcome::Skipped(why.clone())));
            }
            return;
        }
    };
    // One rendering serves all steps below.
    let mut rendered = Vec::new();
    steps.step(CHART_STEP, || {
        rendered = render_all(workspace, &engine)?;
        judge(&rendered)
    });
    steps.step(REFUSED_STEP, || refused::check(&engine));
    steps.step(MADE_STEP, || made::check(&engine));
    steps.step(manifests::FOLDER, || {
        manifests::check(workspace, &engine, fix)
    });
    steps.step(RULES_STEP, || match &tools.promtool {
        Ok(folder) => rules::check(workspace, folder, &rendered),
        Err(why) => Ok(Outcome::Skipped(why.clone())),
    });
    if let Some(kubeconfig) = server {
        steps.step("dry run on the server", || {
            server::check(workspace, &engine, kubeconfig)
        });
    }
}

/// A file of values below `ci/` and its rendering.
#[derive(Debug)]
struct Rendered {
    name: String,
    answer: Answer,
}

/// Returns names and contents of the values files that the chart must accept.
fn good_values(workspace: &Workspace) -> Result<Vec<(String, String)>> {
    let folder = workspace.root.join(CHART).join("ci");
    let mut found = Vec::new();
    for path in copies::files(&folder, "yaml")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        found.push((name.into_owned(), read(&path)?));
    }
    if found.is_empty() {
        bail!("{CHART}/ci should hold values that the chart must take, and is empty");
    }
    Ok(found)
}

fn render_all(workspace: &Workspace, engine: &Engine) -> Result<Vec<Rendered>> {
    let values = good_values(workspace)?;
    let cases: Vec<Case> = values
        .iter()
        .map(|(_, values)| Case::new(values, "stallscope"))
        .collect();
    let answers = engine.ask(&VERSIONS, &cases)?;
    Ok(values
        .into_iter()
        .map(|(name, _)| name)
        .zip(answers)
        .map(|(name, answer)| Rendered { name, answer })
        .collect())
}

fn judge(rendered: &[Rendered]) -> Result<Outcome> {
    let mut wrong = Vec::new();
    let mut objects = 0;
    for Rendered { name, answer } in rendered {
        let said = answer.complaints().into_iter();
        let untrue = truths::of(&answer.objects).into_iter();
        wrong.extend(said.chain(untrue).map(|what| format!("{name}: {what}")));
        objects += answer.objects.len();
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Outcome::Passed(format!(
        "{} sets of values, {objects} objects, Kubernetes {} to {}",
        rendered.len(),
        VERSIONS[0],
        VERSIONS[VERSIONS.len() - 1]
    )))
}

/// Checks that the chart's `appVersion` is the agent's version: the two are released together, and by default the chart
/// uses the image of that version.
fn versions(workspace: &Workspace) -> Result<Outcome> {
    let chart = read(&workspace.root.join(CHART).join("Chart.yaml"))?;
    let said = chart
        .lines()
        .find_map(|line| line.strip_prefix("appVersion:"))
        .map(|version| version.trim().trim_matches('"'));
    let agent = env!("CARGO_PKG_VERSION");
    if said != Some(agent) {
        bail!(
            "{CHART}/Chart.yaml has appVersion {}, and the agent is {agent}; write that one",
            said.unwrap_or("nowhere")
        );
    }
    Ok(Outcome::Passed(agent.to_owned()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
