//! `cargo xtask`: every developer command of Stallscope, one file per verb.

mod bench;
mod bpf;
mod build;
mod chart;
mod check;
mod cross;
mod demo;
mod dist;
mod fuzz;
mod lab;
mod rooms;
mod run;
mod setup;
mod shell;
mod steps;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run, test, check and measure Stallscope.
///
/// Every verb first finds what this machine lacks, installs only that, and says what and why.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    /// Install nothing: when something is missing, say what, why and how to install it, and fail.
    #[arg(long, visible_alias = "offline", global = true)]
    no_install: bool,

    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                  build everything and start the agent on 127.0.0.1:9750
  cargo xtask build                only build target/release/stallscope
  cargo xtask test                 every test this machine can run
  cargo xtask check --fix          format, lint, check licences, regenerate what is generated
  cargo xtask demo                 stall a service on purpose and have it explained
  cargo xtask lab --kernel 6.12    boot real kernels and hold the agent against their truth
  cargo xtask bench --quick        what the agent costs here, beside what it may cost
  cargo xtask fuzz                 inputs that nobody thought of, for every parser
  cargo xtask dist                 a release: static agents, container image, bills of materials
  cargo xtask build --no-install   name what is missing instead of installing it

Environment:
  STALLSCOPE_BPF_TOOLCHAIN=packages|rustup   take the BPF compiler from there, whatever else is found
  CARGO_TARGET_DIR                           build there; the tools that were installed are kept there too";

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Check(check::Args),
    Bench(bench::Args),
    Demo(demo::Args),
    Lab(lab::Args),
    Dist(dist::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let install = if cli.no_install {
        setup::Install::Refuse
    } else {
        setup::Install::Allow
    };
    let done = match &cli.verb {
        // This needs neither Cargo nor the sources.
        Verb::Bench(args) if args.has_agent() => bench::run_given(args).map(|()| ExitCode::SUCCESS),
        verb => with_workspace(verb, install),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn with_workspace(verb: &Verb, install: setup::Install) -> anyhow::Result<ExitCode> {
    let workspace = workspace::Workspace::load()?;
    match verb {
        Verb::Build(args) => build::run(&workspace, install, args).map(|_| ()),
        Verb::Run(args) => run::run(&workspace, install, args),
        Verb::Test(args) => test::run(&workspace, install, args),
        Verb::Check(args) => check::run(&workspace, install, args),
        Verb::Bench(args) => bench::run(&workspace, install, args),
        Verb::Demo(args) => return Ok(demo::run(&workspace, install, args)),
        Verb::Lab(args) => return lab::run(&workspace, install, args),
        Verb::Dist(args) => dist::run(&workspace, install, args),
        Verb::Fuzz(args) => fuzz::run(&workspace, install, args),
    }
    .map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples_in_its_help() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|text| text.contains("Examples:")),
                "`{}` shows no examples",
                verb.get_name()
            );
        }
    }
}
