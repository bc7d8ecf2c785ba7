//! The answer of `stallscope explain` about a workload.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Name of the first cause where nothing is unusual.
pub const NOTHING: &str = "none";

/// Parts of the answer that are shown and judged (docs/api.md).
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// True if more than usual was lost.
    pub unusual: bool,
    /// The whole answer in a sentence.
    pub summary: String,
    /// The causes, ranked.
    pub causes: Vec<Ranked>,
}

/// A cause, with its evidence and remedies.
#[derive(Clone, Debug, Deserialize)]
pub struct Ranked {
    /// Its name.
    pub cause: String,
    /// Seconds lost to it.
    pub seconds: f64,
    /// Usual loss in a window of the same length, in seconds.
    pub baseline: Option<f64>,
    /// Figures, each with its meaning.
    pub evidence: Vec<Evidence>,
    /// Remedies.
    pub remedy: Vec<Remedy>,
}

/// A figure in words.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// Text to show.
    pub text: String,
}

/// A remedy, and the command that applies it, if there is one.
#[derive(Clone, Debug, Deserialize)]
pub struct Remedy {
    /// Text to show.
    pub text: String,
    /// Command for a shell.
    pub command: Option<String>,
}

impl Answer {
    /// Asks the agent at `address` about a cgroup in the window that ends now, however long asking takes.
    ///
    /// # Errors
    /// When `explain` fails or prints something else than an answer.
    pub fn ask(program: &Path, address: &str, cgroup: &str, window: Duration) -> Result<Self> {
        let window = format!("{}s", window.as_secs());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.context("the clock is before 1970")?.as_secs_f64();
        let output = Command::new(program)
            .args(["explain", "--json", "--cgroup", cgroup])
            .args(["--at", &now.to_string(), "--window", &window])
            .args(["--agent", address])
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) => Ok(answer),
            Err(error) => bail!(
                "`stallscope explain --json --cgroup {cgroup}` should print what docs/api.md says ({error}), but ended with {}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout),
            ),
        }
    }

    /// Name of the first cause if anything is unusual, else [`NOTHING`].
    #[must_use]
    pub fn first(&self) -> &str {
        match self.causes.first() {
            Some(ranked) if self.unusual => &ranked.cause,
            _ => NOTHING,
        }
    }

    /// Lines for the reader: the summary, the first causes, and the evidence and a remedy of the first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.summary.clone()];
        let causes = self.causes.iter().filter(|_| self.unusual);
        for (nth, ranked) in causes.take(3).enumerate() {
            lines.push(ranked.line(nth + 1));
            let first = nth == 0;
            let evidence = ranked.evidence.iter().filter(|_| first);
            lines.extend(evidence.map(|each| format!("     - {}", each.text)));
            let remedy = ranked.remedy.first().filter(|_| first);
            lines.extend(remedy.map(Remedy::line));
        }
        lines
    }
}

impl Ranked {
    fn line(&self, place: usize) -> String {
        let usual = self.baseline.map_or_else(
            || "nothing to compare with".to_owned(),
            |baseline| format!("usual: {baseline:.2} s"),
        );
        format!("{place}. {}: {:.2} s ({usual})", self.cause, self.seconds)
    }
}

impl Remedy {
    fn line(&self) -> String {
        let command = self.command.as_deref();
        let command = command.map_or_else(String::new, |command| format!(": {command}"));
        format!("     what helps: {}{command}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    fn answer(unusual: bool) -> Answer {
        let text = r#"{"unusual": UNUSUAL, "summary": "a lost 3 s.", "window_seconds": 6.0, "causes": [
            {"cause": "throttled", "title": "t", "seconds": 2.5, "share": 0.9, "baseline": 0.25, "unusual": true,
             "estimate": false, "evidence": [{"name": "n", "value": 4, "unit": "periods", "text": "4 of 6 periods"}],
             "remedy": [{"text": "Raise the limit", "command": "raise it"}]},
            {"cause": "own", "seconds": 0.5, "baseline": null, "evidence": [], "remedy": []}]}"#;
        serde_json::from_str(&text.replace("UNUSUAL", &unusual.to_string())).unwrap()
    }

    #[test]
    fn what_is_usual_names_no_cause() {
        assert_eq!(answer(true).first(), "throttled");
        assert_eq!(answer(false).first(), "none");
        assert_eq!(answer(false).lines(), ["a lost 3 s."]);
    }

    #[test]
    fn the_reader_sees_what_speaks_for_the_first_cause_and_what_helps() {
        let expected = [
            "a lost 3 s.",
            "1. throttled: 2.50 s (usual: 0.25 s)",
            "     - 4 of 6 periods",
            "     what helps: Raise the limit: raise it",
            "2. own: 0.50 s (nothing to compare with)",
        ];
        assert_eq!(answer(true).lines(), expected);
    }
}
