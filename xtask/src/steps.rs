//! A list of steps that all run, and the summary of their results.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, bail};

/// Result of one step.
#[derive(Debug)]
pub enum Outcome {
    /// The step passed; the text adds figures, or is empty.
    Passed(String),
    /// The step did not run; the text says why.
    Skipped(String),
}

/// Steps in the order they ran.
#[derive(Debug, Default)]
pub struct Steps {
    done: Vec<(String, Line)>,
}

#[derive(Debug)]
enum Line {
    Passed(String),
    Skipped(String),
    Failed(String),
}

impl Steps {
    /// Runs a step. It keeps a failure for the end, so that one run shows everything that is wrong.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) {
        println!("==> {name}");
        let start = Instant::now();
        let line = match work() {
            Ok(Outcome::Passed(figures)) => {
                let seconds = start.elapsed().as_secs();
                let separator = if figures.is_empty() { "" } else { ", " };
                Line::Passed(format!("{figures}{separator}{seconds} s"))
            }
            Ok(Outcome::Skipped(why)) => Line::Skipped(why),
            Err(error) => {
                let error = format!("{error:#}");
                eprintln!("{name}: {error}");
                Line::Failed(error.lines().next().unwrap_or_default().to_owned())
            }
        };
        self.done.push((name.to_owned(), line));
    }

    /// Prints the summary. Returns an error when any step failed.
    pub fn finish(self) -> Result<()> {
        print!("\n{}", self.summary());
        let failed: Vec<&str> = self
            .done
            .iter()
            .filter(|(_, line)| matches!(line, Line::Failed(_)))
            .map(|(name, _)| name.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join("; "));
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let width = self
            .done
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        let mut text = String::from("Summary\n");
        for (name, line) in &self.done {
            let (word, detail) = match line {
                Line::Passed(detail) => ("passed", detail),
                Line::Skipped(detail) => ("skipped", detail),
                Line::Failed(detail) => ("FAILED", detail),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:width$}  {word:7}  {detail}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Steps};
    use anyhow::anyhow;

    #[test]
    fn a_failure_does_not_stop_the_steps_after_it() {
        let mut steps = Steps::default();
        steps.step("first", || Err(anyhow!("broken\nin detail")));
        steps.step("second", || Ok(Outcome::Skipped("no kernel".into())));
        let summary = steps.summary();
        assert!(summary.contains("first   FAILED   broken\n"), "{summary}");
        assert!(
            summary.contains("second  skipped  no kernel\n"),
            "{summary}"
        );
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: first");
    }
}
