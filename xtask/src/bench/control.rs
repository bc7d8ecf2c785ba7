//! Client of the agent's hidden `bench control` command, which attaches and detaches programs on request.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::figure::Figures;

/// A program that attached, with the kernel's counts for it while its BPF statistics were on.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    /// Probe of the program; none for the empty programs.
    pub probe: Option<String>,
    /// Name of the program.
    #[serde(rename = "program")]
    pub name: String,
    /// Type and symbol, such as `tp_btf/sched_switch`.
    pub hook: String,
    /// The kernel symbol.
    pub symbol: String,
    /// Number of runs.
    pub runs: u64,
    /// Time of all runs, in nanoseconds.
    pub ns: u64,
}

/// Selection of programs to attach.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Empty programs, by kernel symbol: `*` for all, `-` for none.
    pub empty: &'static str,
    /// The agent's programs, likewise.
    pub ours: &'static str,
}

/// No programs.
pub const NOTHING: Set = Set {
    empty: "-",
    ours: "-",
};

/// The `bench control` process. It ends with its standard input, and its programs with it.
pub struct Control {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Control {
    /// Starts the process, with nothing attached.
    pub fn start(agent: &Path) -> Result<Self> {
        eprintln!("==> loading every program");
        let mut child = Command::new(agent)
            .args(["bench", "control"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", agent.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to the agent");
        };
        let mut control = Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
        };
        // An answer means that everything is loaded.
        control.set(NOTHING, false)?;
        Ok(control)
    }

    /// Warns of programs of others, whose cost is in every figure.
    pub fn warn_of_others(&mut self, figures: &mut Figures) -> Result<()> {
        #[derive(Deserialize)]
        struct Others {
            others: u64,
        }
        let Others { others } = self.ask("others")?;
        if others != 0 {
            figures.note(format!(
                "warning: {others} tracing programs of others are loaded: where they share a hook, its cost is not only ours"
            ));
        }
        Ok(())
    }

    /// Returns the runs of all programs that the kernel counted. If it grows while we have the kernel's statistics off,
    /// somebody else has them on.
    pub fn counted_runs(&mut self) -> Result<u64> {
        Ok(self.programs()?.iter().map(|program| program.runs).sum())
    }

    /// Attaches exactly these programs and detaches all others.
    pub fn set(&mut self, set: Set, ours_first: bool) -> Result<()> {
        let order = if ours_first { " ours-first" } else { "" };
        let Set { empty, ours } = set;
        self.ask::<serde_json::Value>(&format!("set {empty} {ours}{order}"))
            .map(drop)
    }

    /// Switches the kernel's BPF statistics on or off.
    pub fn statistics(&mut self, on: bool) -> Result<()> {
        let word = if on { "on" } else { "off" };
        self.ask::<serde_json::Value>(&format!("stats {word}"))
            .map(drop)
    }

    /// Returns all programs, the empty ones included.
    pub fn programs(&mut self) -> Result<Vec<Program>> {
        self.ask("programs")
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        let gone = || format!("the agent ended at `{command}`; its last words are above");
        let input = self.input.as_mut().with_context(gone)?;
        writeln!(input, "{command}").with_context(gone)?;
        let mut line = String::new();
        self.output.read_line(&mut line).with_context(gone)?;
        super::interrupt::check()?;
        if line.is_empty() {
            bail!(gone());
        }
        let answer: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("`{command}`: {line}"))?;
        if let Some(error) = answer.get("error") {
            bail!("`{command}`: {error}");
        }
        serde_json::from_value(answer)
            .with_context(|| format!("`{command}`: another agent's answer: {line}"))
    }

    /// Ends the process and returns an error if it did not end well.
    pub fn end(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait().context("could not wait for the agent")?;
        if !status.success() {
            bail!("the agent's `bench control` ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.input = None;
        // The process ends by itself because its input is closed. A second wait does no harm.
        let _ = self.child.wait();
    }
}
