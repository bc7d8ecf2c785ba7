//! `stallscope top`: who loses how much time at this moment, and to what.

mod app;
mod draw;
mod feed;
mod figures;
#[cfg(test)]
mod fixture;
mod plain;
mod screen;
mod sort;
mod text;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use self::{
    app::{App, Choice},
    feed::Answer,
    sort::Sort,
};
use super::{DEFAULT_LISTEN, complain, show};
use crate::api::{self, Container, Top};

/// Show who loses how much time, and to what, in a ranking that follows the agent.
///
/// Asks the agent that runs here. Enter looks at one: its last minutes by cause, and why it lost time; ? explains the
/// keys. Where the output is no terminal, prints one table.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  stallscope top
  stallscope top --sort throttled --window 5m
  stallscope top --agent 10.0.0.7:9750 --filter shop/
  stallscope top --once | head -4
  stallscope top --json | jq -r '.containers[0].labels.pod'")]
pub(super) struct Args {
    /// Ask the agent at this address
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN)]
    agent: String,
    /// How far back to look: from 1s to the length of the agent's history
    #[arg(long, value_name = "LENGTH", default_value = "60s", value_parser = window)]
    window: String,
    /// What to sort by: lost, cpu, migrations, remote (page faults), or a cause such as throttled
    #[arg(long, value_name = "WHAT", default_value = "lost", value_parser = Sort::parse)]
    sort: Sort,
    /// Show only those whose names contain this, in whichever case
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    /// How often to ask
    #[arg(long, value_name = "LENGTH", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print what the agent answers as JSON and end
    #[arg(long)]
    json: bool,
}

fn window(text: &str) -> Result<String, String> {
    match humantime::parse_duration(text) {
        Ok(length) if length >= Duration::from_secs(1) => Ok(text.to_owned()),
        _ => Err("expected 1s or more, such as 60s, 5m or 1h".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let possible = Duration::from_millis(500)..=Duration::from_secs(3600);
    match humantime::parse_duration(text) {
        Ok(length) if possible.contains(&length) => Ok(length),
        _ => Err("expected 500ms to 1h, such as 1s or 2s".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Asks before drawing, so that an agent that does not answer gives an error and not an empty screen.
    let top = feed::top(&args.agent, &args.window)?;
    if args.json || args.once || !can_draw() {
        print(top, &args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let choice = Choice {
        sort: args.sort,
        filter: args.filter,
        window: args.window,
    };
    let mut app = App::new(args.agent, choice, colour);
    let first = Answer {
        question: app.question(),
        top: Ok(top),
        detail: None,
    };
    app.take(first, Instant::now());
    screen::run(app, args.interval)
}

/// Returns whether input and output are a terminal that can position its cursor.
fn can_draw() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    !dumb && io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn print(mut top: Top, args: &Args) -> anyhow::Result<()> {
    args.sort.sort(&mut top.containers);
    top.containers = filtered(&top.containers, &args.filter).cloned().collect();
    if top.recorded_seconds < top.window_seconds {
        complain(&format!(
            "stallscope: of these {} s only {} are recorded",
            top.window_seconds, top.recorded_seconds
        ));
    }
    show(&if args.json {
        serde_json::to_string_pretty(&top)? + "\n"
    } else {
        plain::table(&top.containers)
    })
}

/// Returns the containers whose names contain a text, ignoring case.
fn filtered<'a>(
    containers: &'a [Container],
    text: &str,
) -> impl Iterator<Item = &'a Container> + use<'a> {
    let text = text.to_lowercase();
    containers
        .iter()
        .filter(move |each| api::name(&each.labels).to_lowercase().contains(&text))
}
