//! Text form of an audit.

use std::fmt::{self, Write};

use super::{Finding, Mend, Report, Severity};
use crate::text::printable::line;

/// Width of the text, in columns.
const WIDTH: usize = 100;

impl Report {
    /// Returns the findings by group, then the checks that could not be made. `colours` is for a
    /// terminal.
    #[must_use]
    pub fn to_text(&self, colours: bool) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out, colours);
        out
    }

    fn write(&self, out: &mut String, colours: bool) -> fmt::Result {
        self.write_node(out)?;
        let mut group = None;
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|f| (f.group, std::cmp::Reverse(f.severity)));
        for finding in findings {
            if group != Some(finding.group) {
                group = Some(finding.group);
                writeln!(out, "\n{}", bold(finding.group.name(), colours))?;
            }
            write_finding(out, finding, colours)?;
        }
        self.write_unmade(out, colours)?;
        let clean = self.checks.iter().filter(|made| made.state == "clean");
        let counts = Severity::ALL.map(|severity| {
            let count = self.count(severity);
            let plural = if count == 1 || severity == Severity::Info {
                ""
            } else {
                "s"
            };
            format!("{count} {severity}{plural}")
        });
        writeln!(
            out,
            "\n{}; {} checks found nothing",
            counts.join(", "),
            clean.count()
        )
    }

    fn write_node(&self, out: &mut String) -> fmt::Result {
        let machine = &self.facts.machine;
        let models: Vec<String> = machine
            .cpu_models
            .iter()
            .map(|(model, count)| format!("{count} x {model}"))
            .collect();
        let or_unknown = |text: Option<String>| match text {
            Some(text) => line(&text).into_owned(),
            None => "not known".to_owned(),
        };
        let cpus = (!models.is_empty()).then(|| models.join(", "));
        writeln!(out, "CPUs     {}", or_unknown(cpus))?;
        if let Some(product) = &machine.product {
            writeln!(out, "machine  {}", line(product))?;
        }
        let nodes = machine.node_cpus.len();
        let page = machine
            .page_bytes
            .map(|bytes| format!("{} KiB", bytes / 1024));
        writeln!(
            out,
            "memory   {nodes} NUMA node{}, pages of {}",
            if nodes == 1 { "" } else { "s" },
            or_unknown(page)
        )?;
        writeln!(
            out,
            "kernel   {}",
            or_unknown(self.facts.kernel.release.clone())
        )?;
        let cgroups = self.facts.cgroups.mode.map(str::to_owned);
        writeln!(out, "cgroups  {}", or_unknown(cgroups))
    }

    fn write_unmade(&self, out: &mut String, colours: bool) -> fmt::Result {
        let unknown: Vec<_> = self
            .checks
            .iter()
            .filter(|made| made.state == "unknown")
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{}", bold("not known", colours))?;
        for made in unknown {
            let because = made.because.as_deref().unwrap_or_default();
            write_wrapped(out, &format!("  {}: ", made.check), because)?;
        }
        Ok(())
    }
}

fn write_finding(out: &mut String, finding: &Finding, colours: bool) -> fmt::Result {
    let word = finding.severity.name();
    let code = match finding.severity {
        Severity::Problem => "31",
        Severity::Warning => "33",
        Severity::Info => "36",
    };
    let label = if colours {
        format!("\x1b[{code}m{word}\x1b[0m")
    } else {
        word.to_owned()
    };
    writeln!(out, "  {label}: {}", line(&finding.title))?;
    write_wrapped(out, "    value:  ", &finding.value)?;
    write_wrapped(out, "    read:   ", &finding.read.join(", "))?;
    write_wrapped(out, "    why:    ", &finding.why)?;
    for mend in &finding.mend {
        // People copy commands, so a command stays on its line and as it is.
        match mend {
            Mend::Command { run, keep } => {
                writeln!(out, "    {}: {run}", mend.name())?;
                if let Some(keep) = keep {
                    writeln!(out, "    to keep it: {keep}")?;
                }
            }
            Mend::Other { text, .. } => writeln!(out, "    {}: {}", mend.name(), line(text))?,
        }
    }
    writeln!(out, "    more:   {}", finding.link)
}

fn bold(text: &str, colours: bool) -> String {
    if colours {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn write_wrapped(out: &mut String, head: &str, text: &str) -> fmt::Result {
    let text = line(text);
    let indent = " ".repeat(head.len().min(12));
    let mut line = head.to_owned();
    let mut fresh = true;
    for word in text.split_whitespace() {
        if !fresh && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(out, "{}", line.trim_end())?;
            line.clone_from(&indent);
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        line.push_str(word);
        fresh = false;
    }
    writeln!(out, "{}", line.trim_end())
}
