//! The `stallscope` command.

use std::process::ExitCode;

use stallscope::commands::Cli;

fn main() -> ExitCode {
    Cli::main()
}
