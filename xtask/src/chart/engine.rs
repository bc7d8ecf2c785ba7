//! Client of Helm's own engine, which runs in the project's Python.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shell;

const SCRIPT: &str = include_str!("helm.py");

/// Helm's engine and the chart that it renders.
#[derive(Debug)]
pub struct Engine {
    python: PathBuf,
    chart: PathBuf,
}

/// One rendering to make.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    values: String,
    release: &'static str,
    namespace: String,
    kube_version: String,
}

impl Case {
    /// Renders the chart as release `stallscope`, with these values as YAML.
    pub fn new(values: &str, namespace: &str) -> Self {
        Self {
            values: values.to_owned(),
            release: "stallscope",
            namespace: namespace.to_owned(),
            kube_version: String::new(),
        }
    }

    /// Renders for a cluster of that version, instead of the engine's default.
    pub fn on(mut self, kube_version: &str) -> Self {
        kube_version.clone_into(&mut self.kube_version);
        self
    }
}

/// Result of one rendering.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// Reason of a refusal; empty without one.
    pub error: String,
    /// Warnings and errors of Helm's lint.
    lint: Vec<String>,
    /// Output of each template, without the empty ones.
    pub rendered: BTreeMap<String, String>,
    /// All objects in the output.
    pub objects: Vec<Value>,
    /// Objections of the Kubernetes schemas.
    faults: Vec<String>,
}

impl Answer {
    /// Returns all errors, lint messages and schema objections.
    pub fn complaints(&self) -> Vec<String> {
        let error = Some(self.error.clone()).filter(|error| !error.is_empty());
        let said = self.lint.iter().chain(&self.faults).cloned();
        error.into_iter().chain(said).collect()
    }
}

#[derive(Serialize)]
struct Job<'a> {
    chart: &'a Path,
    versions: &'a [&'a str],
    cases: &'a [Case],
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<Answer>,
}

impl Engine {
    /// Creates the engine in that Python on that chart.
    pub fn new(python: &Path, chart: PathBuf) -> Self {
        Self {
            python: python.to_owned(),
            chart,
        }
    }

    /// Renders all cases, and renders them again for each of these Kubernetes versions to validate the result against
    /// its schemas.
    ///
    /// # Errors
    /// When the engine cannot run. Its objections to the chart are in the answers.
    pub fn ask(&self, versions: &[&str], cases: &[Case]) -> Result<Vec<Answer>> {
        let job = Job {
            chart: &self.chart,
            versions,
            cases,
        };
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT]);
        let text = piped(&mut command, &serde_json::to_vec(&job)?)?;
        let answers: Answers = serde_json::from_str(&text)
            .context("Helm's engine should answer with JSON, and did not")?;
        if answers.answers.len() != cases.len() {
            bail!(
                "Helm's engine was given {} cases and answered {}",
                cases.len(),
                answers.answers.len()
            );
        }
        Ok(answers.answers)
    }
}

/// Runs a command on this input and returns its output.
pub fn piped(command: &mut Command, input: &[u8]) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", shell::line(command)))?;
    let pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A program that ends early reports the reason itself. The broken pipe adds nothing.
        scope.spawn(move || pipe.map(|mut pipe| pipe.write_all(input)));
        child.wait_with_output()
    })
    .with_context(|| format!("could not wait for {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no UTF-8"))
}
