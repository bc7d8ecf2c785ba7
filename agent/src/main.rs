//! The `stallscope` command.

use std::process::ExitCode;

use clap::Parser as _;
use stallscope::commands::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
