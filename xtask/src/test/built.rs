//! Programs that Cargo built, from its JSON messages.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::shell;
use crate::workspace::{BPF_PACKAGE, Workspace};

/// Programs of a build of tests.
pub struct Built(Vec<Program>);

struct Program {
    target: Target,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

impl Built {
    /// Builds the tests of this name in the whole workspace, as for running them. For one package alone Cargo would
    /// choose other features, and rebuild everything.
    pub fn tests(workspace: &Workspace, name: &str) -> Result<Self> {
        let mut build = workspace.cargo();
        build
            .args(["test", "--workspace", "--exclude", BPF_PACKAGE])
            .args(["--test", name, "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit());
        let messages = build
            .output()
            .with_context(|| format!("could not start `{}`", shell::line(&build)))?;
        if !messages.status.success() {
            bail!("the tests `{name}` did not build");
        }
        Ok(Self::read(&String::from_utf8_lossy(&messages.stdout)))
    }

    fn read(messages: &str) -> Self {
        #[derive(Deserialize)]
        struct Message {
            executable: Option<PathBuf>,
            target: Option<Target>,
        }
        let programs = messages.lines().filter_map(|line| {
            let message: Message = serde_json::from_str(line).ok()?;
            Some(Program {
                target: message.target?,
                path: message.executable?,
            })
        });
        Self(programs.collect())
    }

    /// Returns the programs of integration tests.
    pub fn integration_tests(&self) -> Vec<PathBuf> {
        let tests = self.of_kind("test");
        tests.map(|program| program.path.clone()).collect()
    }

    /// Returns the program of a package.
    pub fn binary(&self, package: &str) -> Option<PathBuf> {
        let found = self
            .of_kind("bin")
            .find(|program| program.target.name == package);
        found.map(|program| program.path.clone())
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Program> {
        let programs = self.0.iter();
        programs.filter(move |program| program.target.kind.iter().any(|each| each == kind))
    }
}

#[cfg(test)]
mod tests {
    use super::Built;
    use std::path::PathBuf;

    #[test]
    fn tests_and_the_agent_are_found_among_what_was_built() {
        let built = Built::read(concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"live"},"executable":"/t/live-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"stallscope"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"stallscope"},"executable":"/t/stallscope"}"#,
            "\n{\"reason\":\"build-finished\",\"success\":true}\nnoise\n{}\n"
        ));
        assert_eq!(built.integration_tests(), [PathBuf::from("/t/live-1")]);
        assert_eq!(
            built.binary("stallscope"),
            Some(PathBuf::from("/t/stallscope"))
        );
        assert_eq!(built.binary("live"), None);
    }
}
