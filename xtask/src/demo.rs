//! `cargo xtask demo`: stalls a service on purpose, and checks that `stallscope explain` names the cause.

// Causes have the lab's names, because the lab brings them about. Only this file of it is needed here.
#[path = "../../lab/src/demo/cause.rs"]
mod cause;

use std::num::NonZero;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::bpf::Arch;
use crate::build::{Build, Profile};
use crate::cross::Linkage;
use crate::lab::LAB_PACKAGE;
use crate::setup::Install;
use crate::shell::{self, Privilege};
use crate::workspace::{AGENT_PACKAGE, Workspace};
use cause::Cause;

/// Stall a service on purpose, one cause after the other, and have each explained.
///
/// Builds, starts an agent and a service in cgroups of its own, brings one cause after the other about and asks
/// `stallscope explain`, which has to name that cause first. Takes half a minute for each, and two CPUs at most.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this cause.
    #[arg(long, value_name = "CAUSE", value_enum)]
    once: Option<Cause>,

    /// How often, each time with an agent and a service of its own.
    #[arg(long, value_name = "N", default_value = "1")]
    runs: NonZero<u32>,

    /// Print one JSON object a cause, and everything else on the error output.
    #[arg(long)]
    json: bool,

    /// Build without optimisation, which is quicker.
    #[arg(long)]
    debug: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                                every cause that this machine can have
  cargo xtask demo --once throttled               one of them
  cargo xtask demo --once none                    nothing is done, and nothing may be found
  cargo xtask demo --once own --runs 20 --json    one JSON object a run
  cargo xtask lab --kernel 6.12 --test explain    all of them, on a machine with four NUMA nodes

Exits with 0 when every cause was named first, 1 when one was not, 2 when that could not be found out, 3 when this
machine can have none of the causes asked for.";

/// Exit status when the run could not find out whether causes are named.
const UNKNOWN: u8 = 2;

/// Builds, then replaces this process with the lab's program. Returns only on failure.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> ExitCode {
    // An error is not a missed cause and has its own status.
    let error = match become_it(workspace, install, args) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("error: {error:#}");
    ExitCode::from(UNKNOWN)
}

fn become_it(
    workspace: &Workspace,
    install: Install,
    args: &Args,
) -> Result<std::convert::Infallible> {
    // With `--json`, standard output carries only the results.
    let output = if args.json {
        shell::quiet_output()?
    } else {
        shell::duplicate_output()?
    };
    let (agent, lab) = programs(workspace, install, args.debug)?;
    let mut command = Privilege::find().command(&lab)?;
    command.args(arguments(args, &agent)).stdout(output);
    // The lab ends what it starts. Replacing this process passes every signal to it.
    Err(command.exec()).with_context(|| format!("could not start {}", lab.display()))
}

/// Builds the agent and the lab's program, which brings the causes about.
fn programs(workspace: &Workspace, install: Install, debug: bool) -> Result<(PathBuf, PathBuf)> {
    let build = Build {
        arch: Arch::host()?,
        profile: Profile::of(debug),
        linkage: Linkage::Dynamic,
        packages: &[AGENT_PACKAGE, LAB_PACKAGE],
    };
    let programs = build.run(workspace, install)?;
    let [agent, lab] = <[PathBuf; 2]>::try_from(programs)
        .map_err(|_| anyhow::anyhow!("two programs were to be built"))?;
    Ok((agent, lab))
}

fn arguments(args: &Args, agent: &Path) -> Vec<std::ffi::OsString> {
    let mut words = vec!["demo".into(), "--agent".into(), agent.into()];
    if let Some(cause) = args.once {
        words.extend(["--once".into(), cause.name().into()]);
    }
    words.extend(["--runs".into(), args.runs.to_string().into()]);
    if args.json {
        words.push("--json".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{Args, Cause, arguments};
    use clap::{Parser, ValueEnum as _};
    use std::path::Path;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[&str]) -> Result<Args, String> {
        let words = ["demo"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(cli.args)
    }

    #[test]
    fn an_unknown_cause_is_refused_with_those_that_there_are() {
        let error = parsed(&["--once", "cosmic_rays"]).unwrap_err();
        assert!(error.contains("cosmic_rays"), "{error}");
        for cause in Cause::value_variants() {
            assert!(error.contains(&cause.name()), "{} in {error}", cause.name());
        }
    }

    #[test]
    fn numbers_of_runs_are_at_least_one() {
        assert_eq!(parsed(&[]).unwrap().runs.get(), 1);
        for wrong in ["0", "-1", "many", ""] {
            let error = parsed(&[&format!("--runs={wrong}")]).unwrap_err();
            assert!(error.contains("--runs"), "{error}");
        }
    }

    #[test]
    fn what_is_asked_for_is_handed_on() {
        let args = parsed(&["--once", "memcg_reclaim", "--runs", "3", "--json"]).unwrap();
        let words = arguments(&args, Path::new("/agent"));
        let expected = "demo --agent /agent --once memcg_reclaim --runs 3 --json";
        assert_eq!(words, expected.split(' ').collect::<Vec<_>>());
        let words = arguments(&parsed(&[]).unwrap(), Path::new("/agent"));
        let expected = "demo --agent /agent --runs 1";
        assert_eq!(words, expected.split(' ').collect::<Vec<_>>());
    }
}
