//! The agent's hidden `bench control`, which attaches and detaches programs as it is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::figure::Figures;

/// A program that attached, with what the kernel counted of it while its statistics were on.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    /// The probe it belongs to; none for the empty programs.
    pub probe: Option<String>,
    /// Its name.
    #[serde(rename = "program")]
    pub name: String,
    /// Type and symbol, such as `tp_btf/sched_switch`.
    pub hook: String,
    /// The kernel symbol.
    pub symbol: String,
    /// How often it ran.
    pub runs: u64,
    /// For how long, in nanoseconds.
    pub ns: u64,
}

/// Which programs are attached.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Empty programs, by kernel symbol: `*` for all, `-` for none.
    pub empty: &'static str,
    /// The agent's, likewise.
    pub ours: &'static str,
}

/// Nothing.
pub const NOTHING: Set = Set {
    empty: "-",
    ours: "-",
};

/// The process; it ends with its standard input, and its programs with it.
pub struct Control {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Control {
    /// Starts it; nothing is attached.
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

    /// Says if there are programs of others, whose cost is in every figure.
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

    /// Runs of all programs that the kernel counted: growing while we have its statistics off, it
    /// is because somebody else has them on.
    pub fn counted_runs(&mut self) -> Result<u64> {
        Ok(self.programs()?.iter().map(|program| program.runs).sum())
    }

    /// Makes exactly these programs attached.
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

    /// All programs, the empty ones included.
    pub fn programs(&mut self) -> Result<Vec<Program>> {
        self.ask("programs")
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        let gone = || format!("the agent ended at `{command}`; its last words are above");
        let input = self.input.as_mut().with_context(gone)?;
        writeln!(input, "{command}").with_context(gone)?;
        let mut line = String::new();
        self.output.read_line(&mut line).with_context(gone)?;
        super::stop::check()?;
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

    /// Ends it, and says if it did not end well.
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
        // Its input is closed, so that it ends by itself; a second wait does no harm.
        let _ = self.child.wait();
    }
}
