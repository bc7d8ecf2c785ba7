//! `stallscope reference`: generates the reference pages in `docs/` from the definitions.

use std::{fmt::Write as _, process::ExitCode};

use clap::CommandFactory as _;

use super::{Cli, logging, show};
use crate::{
    agent,
    attribution::pods,
    doctor,
    exposition::{self, metric::Metric},
    host::{deadline, topology},
    probe::overhead,
    probes::PROBES,
    server,
};

/// Print a page of the reference.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    page: Page,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Page {
    Metrics,
    Cli,
    Doctor,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    show(&match args.page {
        Page::Metrics => exposition::reference(&all_metrics()),
        Page::Cli => cli(),
        Page::Doctor => doctor::reference(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns every metric that the agent can export.
fn all_metrics() -> Vec<&'static Metric> {
    let mut metrics: Vec<_> = PROBES
        .iter()
        .flat_map(|probe| probe.metrics)
        .copied()
        .collect();
    metrics.extend(agent::METRICS);
    metrics.extend(overhead::METRICS);
    metrics.extend(pods::names::METRICS);
    metrics.extend(topology::METRICS);
    metrics.extend(doctor::METRICS);
    metrics.extend(server::METRICS);
    metrics.extend(deadline::METRICS);
    metrics.extend(logging::METRICS);
    metrics
}

fn cli() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut page = String::from(
        "# Commands\n\nGenerated from the program by `cargo xtask check --fix`; do not edit.\n",
    );
    let mut section = |name: &str, help: String| {
        // Writing to a string cannot fail.
        let _ = write!(page, "\n## `{name}`\n\n```text\n");
        for line in help.lines() {
            let _ = writeln!(page, "{}", line.trim_end());
        }
        page.push_str("```\n");
    };
    section("stallscope", command.render_long_help().to_string());
    for sub in command
        .get_subcommands_mut()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
    {
        let name = format!("stallscope {}", sub.get_name());
        section(
            &name,
            sub.clone().term_width(100).render_long_help().to_string(),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_keeps_the_rules() {
        assert_eq!(exposition::lint_all(&all_metrics()), Vec::<String>::new());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(cli().contains("--listen"));
    }
}
