//! The chart's `PrometheusRule`, checked by Prometheus's own parser.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Rendered;
use crate::shell;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// Runs promtool on the rules of every rendering that has some.
pub fn check(workspace: &Workspace, promtool: &Path, rendered: &[Rendered]) -> Result<Outcome> {
    let folder = tempfile::tempdir_in(&workspace.target)
        .with_context(|| format!("could not make a folder in {}", workspace.target.display()))?;
    let mut checked = 0;
    for Rendered { name, answer } in rendered {
        for spec in answer.objects.iter().filter_map(rules) {
            let file = folder.path().join(name).with_extension("json");
            // JSON is valid YAML.
            fs::write(&file, spec.to_string())
                .with_context(|| format!("could not write {}", file.display()))?;
            let mut check = Command::new(promtool.join("promtool"));
            check.args(["check", "rules", "--lint-fatal"]).arg(&file);
            shell::stdout(&mut check).with_context(|| name.clone())?;
            checked += 1;
        }
    }
    if checked == 0 {
        bail!("no values below ci/ turn prometheusRule on, so that nothing was checked");
    }
    Ok(Outcome::Passed(format!("{checked} taken by promtool")))
}

fn rules(object: &Value) -> Option<&Value> {
    (object["kind"] == "PrometheusRule").then(|| &object["spec"])
}
